"""Shared layers: the model by hand, its gradients and files, and what cannot be shared."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr
from modreduce_keras.models.shared_layers import share_layers


def blocks(number=3, **arguments):
    """Attention and a dense layer for each block, with normalizations between."""
    inputs = x = keras.Input((4, 6))
    for index in range(1, number + 1):
        attention = layers.MultiHeadAttention(2, 3, name=f"block{index}_attention")
        x = layers.LayerNormalization(name=f"block{index}_norm")(x + attention(x, x))
        x = layers.Dense(6, "relu", name=f"block{index}_dense", **arguments)(x)
    return keras.Model(inputs, layers.Dense(2, name="logits")(layers.Flatten()(x)))


def test_the_first_layer_runs_in_the_place_of_all(random, settled):
    model = settled(blocks())
    shared = share_layers(model, layers=["block*_attention", "block*_dense"])
    for kind in ("attention", "dense"):
        weights = model.get_layer(f"block1_{kind}").get_weights()
        for index in (2, 3):
            model.get_layer(f"block{index}_{kind}").set_weights(weights)
    x = random.normal(size=(5, 4, 6)).astype("float32")
    np.testing.assert_array_equal(shared(x), model(x))
    own = sum(model.get_layer(f"block1_{kind}").count_params() for kind in ("attention", "dense"))
    assert model.count_params() - shared.count_params() == 2 * own
    assert mr.TapReader(shared, ["block1_dense:2"])(x).features["block1_dense:2"].shape == (5, 4, 6)


def test_the_gradient_is_the_sum_over_the_places_and_a_file_keeps_the_ties(random, tmp_path):
    model = blocks()
    shared = share_layers(model, layers=["block*_dense"])
    for index in (2, 3):
        weights = model.get_layer("block1_dense").get_weights()
        model.get_layer(f"block{index}_dense").set_weights(weights)
    x = random.normal(size=(5, 4, 6)).astype("float32")

    def gradients(model, names):
        kernels = [model.get_layer(name).kernel.value for name in names]
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x) ** 2)
        return tape.gradient(loss, kernels)

    expected = np.sum(gradients(model, [f"block{index}_dense" for index in (1, 2, 3)]), axis=0)
    found = gradients(shared, ["block1_dense"])[0]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    shared.save(tmp_path / "shared.keras")
    again = keras.models.load_model(tmp_path / "shared.keras")
    assert again.count_params() == shared.count_params()
    np.testing.assert_array_equal(again(x), shared(x))


class Subclassed(keras.Model):
    def call(self, x):
        return x


def subclassed():
    dense = [layers.Dense(3, name=name) for name in ("a1", "a2")]
    return keras.Sequential([keras.Input((3,)), *dense, Subclassed(name="inner")])


def nested():
    """Two blocks in a model in a model, and a third one outside."""
    inputs = x = keras.Input((4, 6))
    for index in (1, 2):
        layer = layers.Dense(6, "relu", name="block_dense")
        inner = keras.Sequential([keras.Input((4, 6)), layer, layers.ReLU()], name=f"inner{index}")
        x = inner(x)
    encoder = keras.Model(inputs, x, name="encoder")
    inputs = keras.Input((4, 6))
    x = layers.Dense(6, "relu", name="block_dense")(encoder(inputs))
    return keras.Model(inputs, layers.Dense(2, name="logits")(layers.Flatten()(x)))


@pytest.mark.parametrize(
    ("pattern", "shared_by"), [("block_dense", 3), ("encoder/*/block_dense", 2)]
)
def test_layers_of_nested_models_are_shared_too(pattern, shared_by, random, settled):
    model = settled(nested())
    before = model.get_config()
    shared = share_layers(model, layers=[pattern])
    inside = [model.get_layer("encoder").get_layer(f"inner{index}") for index in (1, 2)]
    every = [one.get_layer("block_dense") for one in inside] + [model.get_layer("block_dense")]
    for one in every[:shared_by]:
        one.set_weights(every[0].get_weights())
    x = random.normal(size=(5, 4, 6)).astype("float32")
    np.testing.assert_array_equal(shared(x), model(x))
    assert model.count_params() - shared.count_params() == (shared_by - 1) * every[0].count_params()
    assert not [one for one in shared.layers if isinstance(one, keras.Model)]
    assert model.get_config() == before


MISTAKES = {
    "one pattern": (lambda: share_layers(blocks(), layers="block*"), "must be a list with"),
    "none": (lambda: share_layers(blocks(), layers=[]), "at least one pattern"),
    "one layer": (
        lambda: share_layers(blocks(), layers=["block1_dense"]),
        r"at least two layers.*which matches \['block1_dense'\]",
    ),
    "no layer": (
        lambda: share_layers(blocks(), layers=["conv9*"]),
        r"It has \[.*'block1_dense', .*\]. Received: 'conv9\*', which matches \[\]",
    ),
    "different": (
        lambda: share_layers(blocks(), layers=["block1*"]),
        "'block1_attention' .* and 'block1_norm'",
    ),
    "no weights": (
        lambda: share_layers(
            keras.Sequential([keras.Input((3,)), layers.ReLU(name="a1"), layers.ReLU(name="a2")]),
            layers=["a*"],
        ),
        "same class, config and shapes, and weights",
    ),
    "twice": (
        lambda: share_layers(blocks(), layers=["block*_dense", "block?_dense"]),
        "Each layer must be in one group",
    ),
    "a subclassed model in it": (
        lambda: share_layers(subclassed(), layers=["a*"]),
        r"keras.Model\(inputs, outputs\). Received: .* with \['inner'\]",
    ),
}


@pytest.mark.parametrize(("call", "message"), MISTAKES.values(), ids=MISTAKES)
def test_what_cannot_be_shared_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
