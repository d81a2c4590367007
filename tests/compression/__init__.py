"""Tests of students with fewer weights, or fewer different ones."""
