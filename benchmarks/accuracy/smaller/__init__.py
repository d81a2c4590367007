"""What it costs in accuracy to make a student smaller."""
