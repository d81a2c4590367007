"""SimKD against NumPy, and what it refuses."""

import numpy as np
import pytest

import modreduce_keras as mr


def test_simkd_equals_numpy(random, assert_equals_numpy, average_pooled):
    teacher, student = random.normal(size=(3, 4, 4, 2)), random.normal(size=(3, 2, 3, 2))

    def expected(teacher, student):
        difference = student - average_pooled(teacher, 2, 3)
        return np.array([np.mean(one**2) for one in difference])

    assert_equals_numpy(mr.losses.SimKD(), expected, teacher, student)


def test_simkd_of_vectors_or_other_channels_is_refused():
    loss = mr.losses.SimKD()
    with pytest.raises(ValueError, match=r"SimKD needs maps \(batch, height, width, channels\)"):
        loss.call(np.ones((2, 5)), np.ones((2, 5)))
    with pytest.raises(ValueError, match=r"SimKD needs maps with equal numbers of channels"):
        loss.call(np.ones((2, 4, 4, 5)), np.ones((2, 4, 4, 6)))
