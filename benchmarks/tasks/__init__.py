"""Tasks of several kinds: what a student gains there by KD, and by the method made for the task."""
