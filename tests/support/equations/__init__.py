"""Steps and losses worked out again, in NumPy and PyTorch."""
