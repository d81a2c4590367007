"""What generators are trained by."""
