"""Names of new layers: none is that of another layer, and those of the model's layers stay."""

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr
from modreduce_keras.models.names import free_name
from modreduce_keras.models.primitives import primitive


def ends(inputs, maps):
    return keras.Model(inputs, layers.Dense(3, name="logits")(layers.Flatten()(maps)))


def sums():
    """Sums of three are split into two, whose names Keras gives to the next sums."""
    inputs = keras.Input((6, 6, 3))
    maps = [layers.Conv2D(4, 3, name=f"conv_{i}")(inputs) for i in range(3)]
    first = layers.Add(name="add")(maps)
    second = layers.Add(name="add_1")([first, maps[0]])
    return ends(inputs, layers.Add(name="add_2")([first, second, maps[1]]))


def chain(*names, activation=None):
    inputs = maps = keras.Input((6, 6, 8))
    for name in names:
        maps = layers.Conv2D(8, 3, padding="same", name=name, activation=activation)(maps)
    return ends(inputs, maps)


def twice():
    inputs = keras.Input((6, 6, 8))
    conv = layers.Conv2D(8, 3, padding="same", name="conv")
    maps = layers.Conv2D(8, 3, padding="same", name="conv_2")(conv(conv(inputs)))
    return ends(inputs, maps)


def nested(*names):
    """The last names are those of layers of the model `inner`, and of one in it."""
    inputs = maps = keras.Input((6, 6, 8), name="image")
    for name in names[:-2]:
        maps = layers.Conv2D(8, 3, padding="same", name=name)(maps)
    inner = [layers.Conv2D(8, 3, padding="same", name=name) for name in names[-2:]]
    within = keras.Sequential([keras.Input((6, 6, 8)), inner[1]], name="within")
    maps = keras.Sequential([keras.Input((6, 6, 8)), inner[0], within], name="inner")(maps)
    return ends(inputs, maps)


def low_rank(model):
    return mr.models.low_rank(model, rank=2)


def prune(model):
    return mr.prune_channels(model, 0.5)


CASES = {
    "sums": (mr.quantize_aware, sums),
    "ranges": (mr.quantize_aware, lambda: chain("conv", "conv_range", "conv_range_range")),
    "ranges of two calls": (mr.quantize_aware, twice),
    "activations": (
        mr.quantize_aware,
        lambda: chain("conv", "conv_linear", "conv_sigmoid", activation="swish"),
    ),
    "primitives": (primitive, lambda: chain("conv", "conv_linear", activation="tanh")),
    "factors": (low_rank, lambda: chain("conv_low", "conv", "conv_low_low")),
    "channels": (prune, lambda: nested("conv", "inner_conv", "conv", "other")),
    "channels, twice": (
        prune,
        lambda: nested("conv", "inner_conv_1", "inner_conv", "conv", "conv"),
    ),
    "channels, of an input": (prune, lambda: nested("conv", "other", "image")),
}


@pytest.mark.parametrize("case", CASES)
def test_new_names_are_free_and_old_ones_stay(case, random, tmp_path):
    make, model = CASES[case][0], CASES[case][1]()
    made = make(model)
    names = [one.name for one in made.operations]
    assert len(set(names)) == len(names)
    own = {layer.name for layer in model.layers if not isinstance(layer, keras.Model)}
    assert own <= set(names)
    for name in own:
        assert type(made.get_layer(name)).__name__ in (
            type(model.get_layer(name)).__name__,
            "FakeQuantizedKernel",
            "Activation",
            "Multiply",
        )
    x = random.normal(size=(4, *model.input_shape[1:])).astype("float32")
    if make is not low_rank and make is not prune:
        # Those that round have no ranges yet, and round the weights alone.
        np.testing.assert_allclose(made(x), model(x), atol=0.1 * np.abs(model(x)).max())
    made.save(tmp_path / "made.keras")
    loaded = keras.saving.load_model(tmp_path / "made.keras")
    np.testing.assert_allclose(loaded(x), made(x), atol=1e-6)


def test_a_free_name_is_the_wanted_one_or_numbered():
    assert free_name("a", {"b"}) == "a"
    assert free_name("a", {"a", "a_1"}) == "a_2"
