"""What students reach on small data sets."""
