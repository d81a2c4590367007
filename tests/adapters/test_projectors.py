"""Tests of the projectors: what they compute, for one tap and for several."""

import numpy as np
import pytest

import modreduce_keras as mr


def maps(channels, random, size=4):
    return random.normal(size=(3, size, size, channels)).astype("float32")


def test_a_projection_is_a_matrix_then_normalization(random):
    adapter = mr.adapters.ChannelProjector()
    student, teacher = maps(4, random), maps(6, random)
    adapter.build(student.shape, teacher.shape)
    values = [random.uniform(0.5, 1.5, size=w.shape) for w in adapter.weights]
    adapter.set_weights(values)
    kernel, gamma, beta, mean, variance = values
    expected = (student @ kernel[0, 0] - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    projected, same = adapter(student, teacher)
    np.testing.assert_allclose(projected, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(same, teacher)


def test_in_training_the_batch_is_normalized_and_the_statistics_move(random):
    adapter = mr.adapters.ChannelProjector()
    student, teacher = maps(4, random), maps(6, random)
    projected, _ = adapter(student, teacher, training=True)
    np.testing.assert_allclose(np.mean(projected, axis=(0, 1, 2)), np.zeros(6), atol=1e-6)
    kernel, _, _, mean, _ = adapter.get_weights()
    np.testing.assert_allclose(mean, 0.1 * (student @ kernel[0, 0]).mean((0, 1, 2)), atol=1e-6)


def test_each_tap_has_a_projection_of_its_own(random):
    adapter = mr.adapters.ChannelProjector()
    students = [maps(4, random, 8), maps(4, random)]
    teachers = [maps(3, random, 8), maps(5, random)]
    projected, same = adapter(students, teachers)
    assert [one.shape for one in projected] == [(3, 8, 8, 3), (3, 4, 4, 5)]
    assert len(adapter.trainable_weights) == 6
    np.testing.assert_array_equal(same[1], teachers[1])


def test_flow_channels_are_a_matrix_where_the_widths_differ_and_nothing_else(random):
    adapter = mr.adapters.FlowChannels()
    students = [maps(4, random, 8), maps(5, random)]
    teachers = [maps(3, random, 8), maps(5, random)]
    (projected, same), theirs = adapter(students, teachers)
    (kernel,) = adapter.get_weights()
    np.testing.assert_allclose(projected, students[0] @ kernel[0, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(same, students[1])
    np.testing.assert_array_equal(theirs[0], teachers[0])


def test_flow_channels_of_equal_widths_have_no_weights():
    adapter = mr.adapters.FlowChannels()
    adapter.build([(None, 8, 8, 3), (None, 4, 4, 5)], [(None, 4, 4, 3), (None, 4, 4, 5)])
    assert adapter.weights == []


def test_taps_without_counterpart_are_refused():
    one = (None, 4, 4, 6)
    with pytest.raises(ValueError, match=r"ChannelProjector takes .* as many of the student as of"):
        mr.adapters.ChannelProjector().build([one, one], [one])
