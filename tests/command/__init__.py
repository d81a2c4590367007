"""Tests of the command `modreduce`."""
