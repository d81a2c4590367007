"""The benchmark of large vocabularies runs, and would notice two forms that differ."""

import sys

import pytest
import tensorflow as tf
from absl import flags


@pytest.fixture
def large_vocabulary():
    from benchmarks.speed import large_vocabulary

    flags.FLAGS([sys.argv[0], "--positions=40", "--classes=4200", "--rounds=1"])
    yield large_vocabulary
    flags.FLAGS.unparse_flags()


def test_both_forms_are_timed_and_their_memory_is_measured(large_vocabulary):
    plain, ours = large_vocabulary.measure("kd", "float32")
    assert (plain["contender"], ours["contender"]) == ("plain", "in chunks")
    assert plain["ms_median"] > 0
    assert ours["speedup_median"] == pytest.approx(plain["ms_median"] / ours["ms_median"], rel=1e-3)


def test_forms_that_differ_are_refused(large_vocabulary):
    value, gradient = tf.constant(1.0), tf.ones((2, 3))
    same = {form: (value, gradient) for form in (large_vocabulary.PLAIN, large_vocabulary.OURS)}
    large_vocabulary.require_agreement(same, "float32")
    for what, other in (
        ("values", (value * 1.001, gradient)),
        ("gradients", (value, gradient * 2)),
    ):
        with pytest.raises(RuntimeError, match=f"The {what} of both forms differ"):
            large_vocabulary.require_agreement({**same, large_vocabulary.OURS: other}, "float32")
