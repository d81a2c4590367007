"""Long runs that look for defects: combinations drawn at random, and a soak."""
