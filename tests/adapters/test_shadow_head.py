"""Tests of the shadow head: where it begins, what it fuses, what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from tests.support.inputs.cases import assert_close

CLASSES = 5


def adopted(width=8, use_bias=True):
    """Returns an adapter and the kernel and bias of the teacher's classifier."""
    layers = [keras.Input((width,)), keras.layers.Dense(CLASSES, use_bias=use_bias)]
    teacher = keras.Sequential(layers)
    if use_bias:
        teacher.layers[-1].bias.assign(np.arange(CLASSES))
    adapter = mr.adapters.ShadowHead()
    adapter.adopt(None, teacher)
    return adapter, [w.numpy() for w in teacher.layers[-1].weights]


@pytest.mark.parametrize("shape", [(8,), (3, 2, 8)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_on_one_feature_it_begins_as_the_teachers_classifier(shape, use_bias, random):
    adapter, weights = adopted(use_bias=use_bias)
    feature = random.normal(size=(4, *shape)).astype("float32")
    logits = random.normal(size=(2, 4, CLASSES)).astype("float32")
    (student, shadow), teacher = adapter(logits[0], [feature, logits[1]])
    pooled = feature.reshape(4, -1, 8).astype("float64").mean(1)
    assert_close(shadow, pooled @ weights[0] + (weights[1] if use_bias else 0.0))
    np.testing.assert_array_equal(student, logits[0])
    np.testing.assert_array_equal(teacher, logits[1])
    assert len(adapter.trainable_variables) == 1 + use_bias


def conv(maps, kernel, stride):
    """A convolution in float64, as TensorFlow pads it."""
    size, (height, width) = kernel.shape[0], maps.shape[1:3]
    rows, columns = -(-height // stride), -(-width // stride)
    needed = [max((n - 1) * stride + size - m, 0) for n, m in ((rows, height), (columns, width))]
    edges = [(0, 0), *((n // 2, n - n // 2) for n in needed), (0, 0)]
    padded = np.pad(maps.astype("float64"), edges)
    result = np.zeros((len(maps), rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride, j * stride
            window = padded[:, top : top + size, left : left + size]
            result[:, i, j] = np.tensordot(window, kernel, axes=3)
    return result


def unit(maps, layer, stride):
    """Convolution, BatchNorm with the statistics of the batch, ReLU."""
    result = conv(maps, layer.convolution.kernel.numpy(), stride)
    gamma, beta = layer.normalization.gamma.numpy(), layer.normalization.beta.numpy()
    mean, variance = result.mean((0, 1, 2)), result.var((0, 1, 2))
    return np.maximum(gamma * (result - mean) / np.sqrt(variance + 1e-5) + beta, 0.0)


def test_on_several_maps_it_is_the_fusion_of_the_published_code(random):
    adapter, (kernel, bias) = adopted()
    shapes = [(8, 8, 4), (4, 4, 6), (2, 2, 8)]
    maps = [random.normal(size=(3, *shape)).astype("float32") for shape in shapes]
    logits = random.normal(size=(3, CLASSES)).astype("float32")
    (_, shadow), _ = adapter(logits, [*maps, logits], training=True)
    (down_0, side_0), (down_1, side_1) = adapter.units
    fused = unit(maps[0], down_0, 2) + unit(maps[1], side_0, 1)
    fused = unit(fused, down_1, 2) + unit(maps[2], side_1, 1)
    pooled = unit(fused, adapter.last, 1).mean((1, 2))
    assert_close(shadow, pooled @ kernel + bias, rtol=1e-4, atol=1e-4)
    assert [layer.convolution.kernel.shape for layer in (down_0, side_0, down_1, side_1)] == [
        (3, 3, 4, 6),
        (1, 1, 6, 6),
        (3, 3, 6, 8),
        (1, 1, 8, 8),
    ]
    assert adapter.last.convolution.kernel.shape == (3, 3, 8, 8)
    assert len(adapter.trainable_variables) == 5 * 3


@pytest.mark.parametrize("shapes", [[(8,)], [(4, 4, 4), (2, 2, 8)]])
def test_no_gradient_reaches_the_teacher(shapes, random):
    adapter, _ = adopted()
    features = [tf.constant(random.normal(size=(3, *s)), "float32") for s in shapes]
    logits = tf.constant(random.normal(size=(3, CLASSES)), "float32")
    adapter(logits, [*features, logits])
    (classifier,) = adapter.classifiers()
    own = [variable.value for variable in adapter.trainable_variables]
    teachers = [*features, logits, *(w.value for w in classifier.weights)]
    with tf.GradientTape() as tape:
        tape.watch([own, teachers])
        (_, shadow), teacher = adapter(tf.zeros_like(logits), [*features, logits], training=True)
        total = tf.reduce_sum(shadow**2) + tf.reduce_sum(teacher)
    to_own, to_teacher = tape.gradient(total, [own, teachers])
    assert to_teacher == [None] * len(teachers)
    assert all(np.abs(gradient).max() > 0 for gradient in to_own)
    held = {id(variable) for variable in adapter.variables}
    assert not held & {id(weight) for weight in classifier.weights}


@pytest.mark.usefixtures("mixed_bfloat16")
def test_logits_are_not_rounded_under_low_precision(random):
    adapter, _ = adopted()
    logits = random.normal(size=(2, 3, CLASSES)).astype("float32")
    (student, _), teacher = adapter(logits[0], [np.ones((3, 8), "float32"), logits[1]])
    np.testing.assert_array_equal(student, logits[0])
    np.testing.assert_array_equal(teacher, logits[1])


LOGITS = (None, CLASSES)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (LOGITS, LOGITS, "at its end its logits, of as many classes: student='logits'"),
        (LOGITS, [LOGITS], r"student of shape \(None, 5\) and teacher of shapes \[\(None, 5\)\]"),
        ((None, 4), [(None, 8), LOGITS], "of as many classes"),
        ((None, 2, 5), [(None, 8), LOGITS], "of as many classes"),
        (LOGITS, [(None, 4, 4, 4), (None, 8), LOGITS], "of several maps"),
        (LOGITS, [(None, 7), LOGITS], "of 8 channels: the tap before it"),
        (LOGITS, [(None, 4, 4, 4), (None, 3, 3, 8), LOGITS], "a whole number of times smaller"),
        (LOGITS, [(None, 2, 2, 4), (None, 4, 4, 8), LOGITS], "a whole number of times smaller"),
        (LOGITS, [(None, None, 4, 4), (None, 2, 2, 8), LOGITS], "of known size"),
    ],
)
def test_features_that_do_not_fit_are_refused(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        adopted()[0].build(student, teacher)


def test_a_head_without_a_teacher_says_so():
    shapes = [(None, 4, 4, 4), (None, 2, 2, 8), LOGITS]
    adapter = mr.adapters.ShadowHead()
    adapter.build(LOGITS, shapes)
    maps = [np.ones((2, *shape[1:]), "float32") for shape in shapes]
    with pytest.raises(ValueError, match="reuses a model's classifier"):
        adapter(maps[-1], maps)
