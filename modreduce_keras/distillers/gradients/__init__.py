"""Gradient policies: how gradients are scaled, checked and applied."""
