"""Models of every kind, and what looks at their outputs."""
