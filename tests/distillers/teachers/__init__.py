"""Teachers that run, and outputs that were stored."""
