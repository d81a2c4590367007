"""One training step: what runs, which terms there are, and how they are weighted."""
