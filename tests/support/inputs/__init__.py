"""What components are called with: examples, drawn shapes and numbers."""
