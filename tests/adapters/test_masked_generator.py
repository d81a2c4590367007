"""Tests of the masked generator: the network, the masks and their seeds."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr


def transparent(channels, **arguments):
    """Returns a generator whose convolutions pass positive maps on as they are."""
    adapter = mr.adapters.MaskedGenerator(**arguments)
    shape = (None, 8, 8, channels)
    adapter.build(shape, shape)
    for convolution in adapter.generation:
        kernel = np.zeros(convolution.kernel.shape)
        kernel[1, 1] = np.eye(channels)
        convolution.kernel.assign(kernel)
    return adapter


def masks(adapter, maps, steps=1):
    """Returns the masks of some training steps on maps of ones."""
    return [np.array(adapter(maps, maps, training=True)[0]) for _ in range(steps)]


def test_unmasked_generation_equals_numpy(random):
    student, teacher = (random.normal(size=(3, 1, 1, c)) for c in (4, 6))
    adapter = mr.adapters.MaskedGenerator()
    generated, same = adapter(student, teacher)
    align, bias, *rest = adapter.get_weights()
    x = student @ align[0, 0] + bias
    x = np.maximum(x @ rest[0][1, 1] + rest[1], 0.0) @ rest[2][1, 1] + rest[3]
    np.testing.assert_allclose(generated, x, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(same, teacher.astype("float32"))
    sizes = [tuple(convolution.kernel.shape) for convolution in adapter.generation]
    assert sizes == [(3, 3, 6, 6)] * 2


def test_equal_channels_need_no_alignment_and_the_larger_map_is_pooled(random, average_pooled):
    student, teacher = random.uniform(size=(2, 8, 8, 5)), random.uniform(size=(2, 4, 4, 5))
    adapter = transparent(5)
    assert adapter.alignment is None
    generated, _ = adapter(student, teacher)
    np.testing.assert_allclose(generated, average_pooled(student, 4, 4), rtol=1e-5)
    _, pooled = adapter(teacher, student)
    np.testing.assert_allclose(pooled, average_pooled(student, 4, 4), rtol=1e-5)


@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.5, 0.9])
def test_whole_positions_are_masked_by_the_ratio(ratio):
    mask = masks(transparent(3, ratio=ratio), np.ones((64, 8, 8, 3), "float32"))[0]
    assert set(np.unique(mask)) <= {0.0, 1.0}
    np.testing.assert_array_equal(mask, np.repeat(mask[..., :1], 3, axis=-1))
    assert abs(1 - mask.mean() - ratio) < 0.03


def test_whole_channels_are_masked_by_the_ratio():
    adapter = transparent(32, ratio=0.15, mask="channels")
    mask = masks(adapter, np.ones((128, 2, 2, 32), "float32"))[0]
    np.testing.assert_array_equal(mask, np.broadcast_to(mask[:, :1, :1], mask.shape))
    assert abs(1 - mask.mean() - 0.15) < 0.03
    assert adapter.get_config()["mask"] == "channels"


def test_masks_are_drawn_anew_for_each_sample_and_step_and_repeat_by_the_seed():
    ones = np.ones((2, 8, 8, 2), "float32")
    first, second = masks(transparent(2, seed=3), ones, steps=2)
    assert np.any(first != second)
    assert np.any(first[0] != first[1])
    again = masks(transparent(2, seed=3), ones, steps=2)
    np.testing.assert_array_equal([first, second], again)
    assert np.any(first != masks(transparent(2, seed=4), ones)[0])


def test_the_seed_of_keras_is_enough():
    runs = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        runs.append(masks(transparent(2), np.ones((2, 8, 8, 2), "float32"))[0])
    np.testing.assert_array_equal(*runs)


def test_masks_are_drawn_anew_inside_a_graph():
    adapter, ones = transparent(2), tf.ones((2, 8, 8, 2))
    step = tf.function(lambda: adapter(ones, ones, training=True)[0])
    assert np.any(step().numpy() != step().numpy())


def test_outside_of_training_nothing_is_masked():
    ones = np.ones((2, 8, 8, 2), "float32")
    for training in (False, None):
        np.testing.assert_array_equal(transparent(2)(ones, ones, training=training)[0], ones)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_ratios_that_make_no_sense(ratio):
    with pytest.raises(ValueError, match=r"ratio must be at least 0 and below 1. Received: ratio"):
        mr.adapters.MaskedGenerator(ratio=ratio)


def test_other_masks_and_vectors_are_refused():
    with pytest.raises(ValueError, match=r"mask must be one of \['positions', 'channels'\]. Rece"):
        mr.adapters.MaskedGenerator(mask="samples")
    with pytest.raises(ValueError, match="MaskedGenerator takes feature maps"):
        mr.adapters.MaskedGenerator().build((None, 6), (None, 6))
