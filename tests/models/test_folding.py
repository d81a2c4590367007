"""Folding: the same outputs as the model's in inference, with no normalization left."""

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


def outputs(model, images):
    return np.asarray(model(images, training=False), "float64")


def assert_equal(folded, model, images):
    expected = outputs(model, images)
    np.testing.assert_allclose(outputs(folded, images), expected, rtol=1e-5, atol=1e-5)


BEFORE = {
    "Conv2D": lambda: layers.Conv2D(6, 3, use_bias=False),
    "Conv2D with bias": lambda: layers.Conv2D(6, 3, padding="same"),
    "Conv2D in groups": lambda: layers.Conv2D(6, 3, groups=3),
    "Conv2DTranspose": lambda: layers.Conv2DTranspose(6, 3, strides=2),
    "DepthwiseConv2D": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
    "SeparableConv2D": lambda: layers.SeparableConv2D(6, 3),
    "Dense": lambda: layers.Dense(6),
}


@pytest.mark.parametrize("scale", [True, False], ids=["gamma", "no gamma"])
@pytest.mark.parametrize("before", BEFORE)
def test_a_normalization_goes_into_the_layer_before_it(before, scale, settled, random):
    images = random.normal(size=(5, 8, 8, 3)).astype("float32")
    inputs = keras.Input((8, 8, 3))
    maps = layers.BatchNormalization(scale=scale, center=not scale)(BEFORE[before]()(inputs))
    model = settled(keras.Model(inputs, layers.Conv2D(2, 1)(layers.ReLU()(maps))))
    folded = mr.models.fold(model)
    assert "BatchNormalization" not in kinds(folded)
    assert "Affine" not in kinds(folded)
    assert [layer.name for layer in folded.layers] == [layer.name for layer in model.layers]
    np.testing.assert_allclose(
        outputs(folded, images), outputs(model, images), rtol=1e-5, atol=1e-5
    )


def read_twice(inputs):
    maps = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    return layers.Add()([maps, layers.BatchNormalization()(maps)])


def used_twice(inputs):
    conv, norm = layers.Conv2D(3, 3, padding="same", name="conv"), layers.BatchNormalization()
    return norm(conv(conv(inputs)))


def activated(inputs):
    return layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(inputs))


def first(inputs):
    return layers.Conv2D(4, 3)(layers.BatchNormalization()(inputs))


def another_axis(inputs):
    return layers.BatchNormalization(axis=1)(layers.Conv2D(4, 3)(inputs))


@pytest.mark.parametrize("architecture", [read_twice, used_twice, activated, first, another_axis])
def test_elsewhere_it_becomes_a_multiplication_and_an_addition(architecture, settled, random):
    images = random.normal(size=(5, 8, 8, 3)).astype("float32")
    inputs = keras.Input((8, 8, 3))
    head = layers.Dense(2)(layers.GlobalAveragePooling2D()(architecture(inputs)))
    model = settled(keras.Model(inputs, head))
    folded = mr.models.fold(model)
    assert "BatchNormalization" not in kinds(folded)
    assert kinds(folded).count("Affine") == 1
    np.testing.assert_allclose(
        outputs(folded, images), outputs(model, images), rtol=1e-5, atol=1e-5
    )


def test_a_tapped_layer_stays_what_it_is(settled, random):
    images = random.normal(size=(3, 8, 8, 1)).astype("float32")
    model = settled(mr.models.get("convnet", num_classes=3, widths=(4, 6), input_shape=(8, 8, 1)))
    taps = ["stage1_conv", "stage2_norm", "stage2"]
    assert all(model.get_layer(tap) for tap in taps)
    folded = mr.models.fold(model, taps=taps)
    assert kinds(folded).count("Affine") == 1
    expected = mr.TapReader(model, taps)(images).features
    for tap, feature in mr.TapReader(folded, taps)(images).features.items():
        np.testing.assert_allclose(feature, expected[tap], rtol=1e-5, atol=1e-5, err_msg=tap)


def test_nested_and_sequential_models(settled, random):
    images = random.normal(size=(3, 8, 8, 3)).astype("float32")
    backbone = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(),
            layers.ReLU(name="maps"),
        ],
        name="backbone",
    )
    inputs = keras.Input((8, 8, 3))
    head = layers.Dense(2)(layers.GlobalMaxPooling2D()(backbone(inputs)))
    model = settled(keras.Model(inputs, head))
    folded = mr.models.fold(model, dtype="bfloat16")
    inner = folded.get_layer("backbone")
    assert "Affine" not in kinds(inner)
    assert inner.get_layer("conv").kernel.dtype == "bfloat16"
    full = mr.models.fold(model)
    assert_equal(full, model, images)
    np.testing.assert_allclose(outputs(folded, images), outputs(model, images), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(("dtype", "digits"), [("bfloat16", 8), ("float16", 11)])
def test_weights_and_arithmetic_are_of_the_dtype(dtype, digits, settled, random):
    images = random.normal(size=(16, 32, 32, 3)).astype("float32")
    model = settled(mr.models.get("resnet8", num_classes=5))
    folded = mr.models.fold(model, dtype=dtype)
    features = mr.TapReader(folded, ["stage2"])(images)
    assert features.features["stage2"].dtype == dtype
    assert features.logits.dtype == "float32"
    dtypes = {v.dtype for layer in folded.layers[:-1] for v in layer.variables}
    assert dtypes == {dtype}
    expected = outputs(model, images)
    error = np.sqrt(np.mean((outputs(folded, images) - expected) ** 2)) / expected.std()
    # Nine convolutions, each rounding to the digits of the dtype.
    assert 2.0**-digits / 9 < error < 9 * 2.0**-digits


def test_the_given_model_is_not_changed(settled, random):
    images = random.normal(size=(2, 8, 8, 1)).astype("float32")
    model = settled(mr.models.get("convnet", num_classes=3, widths=(4,), input_shape=(8, 8, 1)))
    before, weights = outputs(model, images), [v.numpy() for v in model.variables]
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    folded = mr.models.fold(model, dtype="float16")
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    assert [v.dtype for v in model.variables] == ["float32"] * len(weights)
    for variable, value in zip(model.variables, weights, strict=True):
        np.testing.assert_array_equal(variable, value)
        variable.assign(np.zeros(variable.shape))
    np.testing.assert_allclose(outputs(folded, images), before, atol=0.02)
    assert not folded.trainable_variables


def test_inputs_keep_their_names_and_structure(settled, random):
    parts = {name: keras.Input((4,), name=name) for name in ("left", "right")}
    both = layers.Concatenate()([layers.Dense(3)(one) for one in parts.values()])
    model = settled(keras.Model(parts, layers.Dense(2)(layers.BatchNormalization()(both))))
    given = {name: random.normal(size=(5, 4)).astype("float32") for name in parts}
    assert_equal(mr.models.fold(model), model, given)


def test_a_folded_model_is_saved_and_loaded(settled, random, tmp_path):
    images = random.normal(size=(2, 32, 32, 3)).astype("float32")
    inputs = keras.Input((32, 32, 3))
    head = layers.Dense(2)(layers.GlobalAveragePooling2D()(read_twice(inputs)))
    folded = mr.models.fold(settled(keras.Model(inputs, head)))
    folded.save(tmp_path / "folded.keras")
    loaded = keras.models.load_model(tmp_path / "folded.keras")
    np.testing.assert_array_equal(outputs(loaded, images), outputs(folded, images))


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def test_a_layer_is_not_known_by_the_name_of_its_class(settled, random):
    @keras.saving.register_keras_serializable("test_folding")
    class Dense(layers.Dense):
        """Of which nothing can go into the kernel."""

        def call(self, inputs):
            return super().call(inputs) ** 2

    inputs = keras.Input((3,))
    maps = layers.BatchNormalization()(Dense(4, use_bias=False)(inputs))
    model = settled(keras.Model(inputs, layers.Dense(2)(maps)))
    given = random.normal(size=(5, 3)).astype("float32")
    folded = mr.models.fold(model)
    assert "Affine" in kinds(folded)
    assert_equal(folded, model, given)


def test_what_cannot_be_folded():
    with pytest.raises(ValueError, match="functional or a built Sequential model"):
        mr.models.fold(Subclassed())
    with pytest.raises(ValueError, match=r"dtype must be one of .*Received: dtype='half'"):
        mr.models.fold(mr.models.get("resnet8", num_classes=2), dtype="half")

    class Custom(layers.Layer):
        def __init__(self, times):
            super().__init__()
            self.times = times

        def call(self, inputs):
            return self.times * inputs

    inputs = keras.Input((3,))
    model = keras.Model(inputs, Custom(np.ones(3, "float32"))(inputs), name="own")
    with pytest.raises(ValueError, match=r"'own' cannot be folded: The layer 'custom' \(Custom\)"):
        mr.models.fold(model)


@keras.saving.register_keras_serializable(package="tests")
class Doubled(layers.Layer):
    """A layer whose config is not what its constructor takes, as some of keras-hub are."""

    def __init__(self, times, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, dtype=self.dtype_policy)
        self.times = times

    def build(self, shape):
        self.dense.build(shape)

    def call(self, inputs):
        return self.times * self.dense(inputs)

    def get_config(self):
        return {**super().get_config(), "units": 3}


@keras.saving.register_keras_serializable(package="tests")
class Applied(Doubled):
    """The same with a function, which Keras keeps no arguments with."""

    def __init__(self, times, function, **kwargs):
        super().__init__(times, **kwargs)
        self.function = function

    def call(self, inputs):
        return self.function(super().call(inputs))

    def get_config(self):
        return {**super().get_config(), "times": self.times, "function": self.function}


@pytest.mark.parametrize("given", [(Doubled, 2), (Applied, 2, keras.ops.tanh)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_of_a_faulty_config_are_built_as_they_were(dtype, given, random):
    kind, *arguments = given
    inputs = keras.Input((4,))
    faulty = kind(*arguments, name="faulty")
    model = keras.Model(inputs, layers.Dense(2)(faulty(inputs)))
    folded = mr.models.fold(model, dtype=dtype)
    assert folded.get_layer("faulty").compute_dtype == dtype
    x = random.normal(size=(5, 4)).astype("float32")
    tolerance = 1e-6 if dtype == "float32" else 0.05
    np.testing.assert_allclose(folded(x), model(x), atol=tolerance)


def test_quantization_aware_models_are_compared_without_rounding(monkeypatch, random):
    """A value that rounds the other way early on would change what all later layers round."""
    from modreduce_keras.models import folding
    from modreduce_keras.models.fake_quantization import FakeQuantize

    seen = []
    monkeypatch.setattr(
        folding,
        "require_same_outputs",
        lambda *_, **__: seen.append(np.asarray(rounding(np.array([0.1, 9.0], "float32")))),
    )
    rounding = FakeQuantize(minimum=-1.0, maximum=1.0)
    model = mr.models.get("convnet", num_classes=3, widths=(4,), input_shape=(8, 8, 1))
    images = random.normal(size=(4, 8, 8, 1)).astype("float32")
    for one in (mr.quantize_aware(model, representative=images), model):
        mr.models.fold(one)
    # Levels of 2 / 255, of which 0 is one.
    rounded = [np.float32(round(0.1 * 127.5) / 127.5), np.float32(1.0)]
    np.testing.assert_allclose(seen[0], [0.1, 1.0], atol=1e-6)
    np.testing.assert_allclose(seen[1], rounded, atol=1e-2)
    assert abs(seen[1][0] - 0.1) > 1e-4


@keras.saving.register_keras_serializable(package="tests")
class LeavesPrecision(layers.Layer):
    """A layer that does not hand its precision on, as blocks of MiT in keras-hub."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, inputs):
        return inputs + self.dense(inputs)


def test_a_layer_that_does_not_run_in_half_precision_stays_in_float32(random):
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="before")(inputs)
    x = LeavesPrecision(name="own")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(4, name="after")(x)))
    folded = mr.models.fold(model, dtype="bfloat16")
    found = {name: folded.get_layer(name).compute_dtype for name in ("before", "own", "after")}
    assert found == {"before": "bfloat16", "own": "float32", "after": "bfloat16"}
    x = random.normal(size=(5, 4)).astype("float32")
    np.testing.assert_allclose(folded(x), model(x), atol=0.05)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "layer",
    [
        layers.GRU(5),
        layers.LSTM(5, return_sequences=True),
        layers.Bidirectional(layers.SimpleRNN(5)),
        layers.RNN([layers.GRUCell(5), layers.LSTMCell(4)]),
    ],
    ids=["GRU", "LSTM", "bidirectional", "stacked cells"],
)
def test_recurrent_layers_in_half_precision(layer, dtype, random):
    inputs = keras.Input((6, 3))
    logits = layers.Dense(4)(layers.Flatten()(type(layer).from_config(layer.get_config())(inputs)))
    model = keras.Model(inputs, logits)
    folded = mr.models.fold(model, dtype=dtype)
    assert {weight.dtype for weight in folded.layers[1].weights} == {dtype}
    x = random.normal(size=(8, 6, 3)).astype("float32")
    expected = np.asarray(model(x))
    difference = np.abs(np.asarray(folded(x)) - expected).max()
    assert 0.0 < difference < 2e-2 * np.abs(expected).max()
