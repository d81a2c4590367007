"""Compiled metrics, and which student is the best."""
