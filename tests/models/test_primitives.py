"""Primitives: students of simpler layers, which compute the same."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import modreduce_keras as mr
from modreduce_keras.models.integer_layers import PASSED
from modreduce_keras.models.primitives import primitive

SHAPE = (6, 6, 4)


def model_of(*stack):
    return keras.Sequential([keras.Input(SHAPE), *stack])


def of(function):
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, function(inputs))


def shared(inputs):
    conv = layers.SeparableConv2D(4, 3, padding="same", activation="silu", name="shared")
    inner = keras.Input(SHAPE)
    return keras.Model(inner, conv(inner), name="inner")(conv(inputs))


CASES = {
    "silu": (lambda: model_of(layers.Activation("silu", name="a")), ["a_sigmoid", "a"]),
    "conv": (
        lambda: model_of(layers.Conv2D(3, 2, activation="silu", name="a")),
        ["a_linear", "a_sigmoid", "a"],
    ),
    "relu": (lambda: model_of(layers.Conv2D(3, 2, activation="relu", name="a")), ["a"]),
    "gate": (
        lambda: model_of(layers.DepthwiseConv2D(3, activation="sigmoid", name="a")),
        ["a_linear", "a"],
    ),
    "separable": (
        lambda: model_of(
            layers.SeparableConv2D(
                3, 3, 2, "same", depth_multiplier=2, use_bias=False, activation="tanh", name="a"
            )
        ),
        ["a_depthwise", "a_linear", "a"],
    ),
    "dilated": (
        lambda: model_of(layers.SeparableConv2D(3, 2, dilation_rate=2, name="a")),
        ["a_depthwise", "a"],
    ),
    "dense on maps": (
        lambda: model_of(layers.Dense(3, use_bias=False, activation="relu", name="a")),
        ["a"],
    ),
    "dense on rows": (
        lambda: model_of(
            layers.Reshape((36, 4), name="r"), layers.Dense(3, activation="gelu", name="a")
        ),
        ["r", "a_linear", "a"],
    ),
    "functions": (
        lambda: of(lambda x: ops.silu(ops.relu6(x + 1.0) / 3.0 - ops.hard_sigmoid(x))),
        None,
    ),
    "shared": (lambda: of(shared), None),
    "layer normalization": (lambda: model_of(layers.LayerNormalization(), layers.ReLU()), None),
    "not centred": (
        lambda: model_of(
            layers.Reshape((9, 16)), layers.LayerNormalization(axis=[2], epsilon=0.1, center=False)
        ),
        None,
    ),
    "RMS normalization": (lambda: model_of(layers.RMSNormalization(epsilon=0.1)), None),
    "unit normalization": (lambda: model_of(layers.Flatten(), layers.UnitNormalization()), None),
    "group normalization": (lambda: model_of(layers.GroupNormalization(2, epsilon=0.1)), None),
    "layer scale": (
        lambda: model_of(keras.src.applications.convnext.LayerScale(0.1, 4)),
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_primitives_compute_the_same_with_the_same_weights(name, settled, random):
    make, names = CASES[name]
    model = settled(make())
    parts = primitive(model)
    images = random.normal(size=(5, *SHAPE)).astype("float32")
    np.testing.assert_allclose(parts(images), model(images), rtol=1e-5, atol=1e-5)
    assert parts.count_params() == model.count_params()
    if names is not None:
        assert [layer.name for layer in parts.layers[1:]] == names


def test_regularizers_and_what_is_frozen_come_along(settled):
    """The penalty is a sum of squares of weights, computed here from the student's."""
    l2 = keras.regularizers.L2
    student = settled(
        model_of(
            layers.SeparableConv2D(
                3, 3, depthwise_regularizer=l2(0.1), pointwise_regularizer=l2(0.2), name="a"
            ),
            layers.Dense(2, kernel_regularizer=l2(0.3), name="b"),
            layers.Conv2D(2, 1, activation="silu", trainable=False),
        )
    )
    parts = primitive(student)
    first, second = student.layers[0], student.layers[1]
    weights = (first.depthwise_kernel, 0.1), (first.pointwise_kernel, 0.2), (second.kernel, 0.3)
    expected = sum(factor * np.square(weight).sum() for weight, factor in weights)
    np.testing.assert_allclose(sum(parts.losses), expected, rtol=1e-5)
    assert len(parts.trainable_weights) == len(student.trainable_weights)


def test_augmentations_that_pass_give_their_inputs_in_inference(random):
    images = random.uniform(0, 255, size=(2, 8, 8, 3)).astype("float32")
    arguments = {
        **dict.fromkeys(("RandomFlip", "RandomGrayscale", "RandomInvert", "RandAugment"), ()),
        **{"RandomTranslation": (0.2, 0.2), "RandomShear": (0.2, 0.2), "RandomPosterization": (4,)},
        **dict.fromkeys(("RandomPerspective", "RandomErasing", "AugMix"), ()),
    }
    several = [kind for kind in PASSED if kind.__name__.startswith(("Rand", "AugMix"))]
    assert len(several) >= 15
    for kind in several:
        given = arguments.get(kind.__name__, (0.2,))
        try:
            layer = kind(*given)
        except TypeError:
            layer = kind()
        np.testing.assert_allclose(layer(images, training=False), images, err_msg=kind.__name__)


def test_lora_is_added_to_the_kernels():
    data = np.random.default_rng(0)
    inputs = keras.Input((6, 6, 2))
    maps = keras.layers.Conv2D(3, 3, activation="relu", name="conv")(inputs)
    logits = keras.layers.Dense(4, name="logits")(keras.layers.Flatten()(maps))
    student = keras.Model(inputs, logits)
    for name in ("conv", "logits"):
        layer = student.get_layer(name)
        layer.enable_lora(2)
        layer.lora_kernel_b.assign(data.normal(size=layer.lora_kernel_b.shape))
    x = data.normal(size=(5, 6, 6, 2)).astype("float32")
    split = primitive(student)
    np.testing.assert_allclose(split(x), student(x), rtol=1e-5, atol=1e-5)
    assert len(split.trainable_variables) == 4
    rounded = mr.quantize_aware(student)(x)
    assert np.abs(rounded - student(x)).max() <= 0.02 * np.abs(student(x)).max()


@keras.saving.register_keras_serializable(package="test_primitives")
class Block(layers.Layer):
    """A residual block, as users write them."""

    def __init__(self, drops_by_hand=False, **kwargs):
        super().__init__(**kwargs)
        self.drops_by_hand = drops_by_hand
        self.conv = layers.Conv2D(4, 3, padding="same", activation="silu", name="conv")
        self.norm = layers.BatchNormalization(name="norm")
        self.drop = layers.Dropout(0.5, name="drop")

    def call(self, inputs, training=False):
        maps = self.drop(self.norm(self.conv(inputs), training=training), training=training)
        if training and self.drops_by_hand:
            maps = maps * 2.0
        return ops.relu(maps + inputs)


def test_a_layer_of_layers_is_taken_apart(settled, random):
    model = settled(model_of(Block(name="block"), layers.Dense(2, name="end")))
    model.get_layer("block").conv.trainable = False
    parts = primitive(model)
    images = random.normal(size=(5, *SHAPE)).astype("float32")
    np.testing.assert_allclose(parts(images), model(images), rtol=1e-5, atol=1e-5)
    names = [one.name for one in parts.layers]
    first = names.index("conv_linear")
    assert names[first : first + 4] == ["conv_linear", "conv_sigmoid", "conv", "norm"]
    assert type(parts.get_layer("block")) is layers.Identity
    inner = parts
    assert [inner.get_layer(name).trainable for name in ("conv_linear", "norm")] == [False, True]
    # Each batch is normalized by itself, and drawn anew.
    means = np.array(inner.get_layer("norm").moving_mean)
    assert not np.array_equal(parts(images, training=True), parts(images, training=True))
    assert not np.array_equal(means, inner.get_layer("norm").moving_mean)


def test_a_layer_that_does_something_else_in_training_is_left(settled):
    with pytest.raises(ValueError, match="the layer 'block' of type Block, which is not one of"):
        primitive(model_of(Block(drops_by_hand=True, name="block")))
