"""What the tests of properties draw, and how often."""

from hypothesis import settings
from hypothesis import strategies as st

# The same examples in every run, and few: every property runs for every loss or aggregator.
few = settings(deadline=None, max_examples=7, derandomize=True, database=None)
some = settings(few, max_examples=20)

SYMMETRIC = ["mean", "leave_one_out_mean", "mutual", "weighted_average", "kdcl"]

batches, classes = st.integers(1, 5), st.integers(2, 9)
seeds = st.integers(0, 2**16)
