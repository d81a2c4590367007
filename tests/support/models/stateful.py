"""Models whose layers have more state than weights: statistics, vocabularies, assets."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

NUMBERS = np.random.default_rng(0).normal(30.0, 5.0, (16, 4)).astype("float32")
TOKENS = np.random.default_rng(0).choice(["a", "b", "c d", "é"], (16, 2))
IDS = np.random.default_rng(0).choice([10, 20, 77], (16, 2))
TEXTS = np.array(["one two three", "two three", "four", "one"] * 4)


@keras.saving.register_keras_serializable(package="stateful")
class Derived(layers.Layer):
    """Divides by what it was adapted to: a variable, of which the inverse is derived."""

    def build(self, shape):
        self.mean = self.add_weight(shape=(shape[-1],), initializer="ones", trainable=False)
        self.finalize_state()

    def adapt(self, data):
        self.build(data.shape)
        self.mean.assign(data.mean(axis=0))
        self.finalize_state()

    def finalize_state(self):
        self.inverse = 1.0 / ops.convert_to_tensor(self.mean)

    def load_own_variables(self, store):
        super().load_own_variables(store)
        self.finalize_state()

    def call(self, inputs):
        return inputs * self.inverse


@keras.saving.register_keras_serializable(package="stateful")
class DerivedByUs(Derived):
    """The same, for whom nobody but `finalize_state` derives it."""

    load_own_variables = layers.Layer.load_own_variables


@keras.saving.register_keras_serializable(package="stateful")
class Asset(layers.Layer):
    """Multiplies by a number that it keeps in a file of its own."""

    factor = 1.0

    def adapt(self, data):
        self.factor = 10.0 / float(data.mean())

    def save_assets(self, folder):
        (pathlib.Path(folder) / "factor.txt").write_text(str(self.factor))

    def load_assets(self, folder):
        self.factor = float((pathlib.Path(folder) / "factor.txt").read_text())

    def call(self, inputs):
        return inputs * self.factor


@keras.saving.register_keras_serializable(package="stateful")
class Forgetful(Asset):
    """Multiplies by a number that it keeps nowhere."""

    def save_assets(self, folder):
        pass

    def load_assets(self, folder):
        pass


class OfNumbers:
    """Makes a model of vectors whose first layer has a state."""

    data = NUMBERS

    def __init__(self, layer, **arguments):
        self.layer, self.arguments = layer, arguments

    def __call__(self, name=None):
        layer = self.layer(**self.arguments, name="stateful")
        if hasattr(layer, "adapt") and "mean" not in self.arguments:
            layer.adapt(self.data)
        return self.model(layer, name)

    def model(self, layer, name):
        inputs = keras.Input((4,), name="numbers")
        return keras.Model(inputs, end(layers.Flatten()(layer(inputs))), name=name)


class Inside(OfNumbers):
    """Has it behind a layer with weights, in a model in the model."""

    def model(self, layer, name):
        inner = keras.Sequential([keras.Input((4,)), layer, layers.Dense(4)], name="inner")
        inputs = keras.Input((4,), name="numbers")
        return keras.Model(inputs, end(inner(layers.ReLU()(inputs))), name=name)


class OfTokens(OfNumbers):
    """Makes a model of strings, or of integers."""

    dtype = "string"

    def __init__(self, layer, data, **arguments):
        super().__init__(layer, **arguments)
        self.adapted_to, self.shape = data, data.shape[1:]
        # NumPy's strings have another dtype than TensorFlow's.
        self.data = tf.constant(data.tolist())
        if data.dtype.kind == "i":
            self.data, self.dtype = data, "int64"

    def __call__(self, name=None):
        layer = self.layer(**self.arguments, name="stateful")
        layer.adapt(self.adapted_to)
        inputs = keras.Input(self.shape, dtype=self.dtype, name="tokens")
        values = layer(inputs)
        if self.arguments.get("output_mode", "int") == "int":
            values = layers.Embedding(layer.vocabulary_size(), 3)(values)
        return keras.Model(inputs, end(layers.Flatten()(values)), name=name)


def end(values):
    """Returns the logits of three classes."""
    return layers.Dense(3, name="logits")(layers.Dense(6, activation="relu", name="hidden")(values))


MAKERS = {
    "normalization": OfNumbers(layers.Normalization),
    "normalization_of_all": OfNumbers(layers.Normalization, axis=None),
    "normalization_given": OfNumbers(
        layers.Normalization, mean=[1, 2, 3, 4], variance=[1, 4, 9, 9]
    ),
    "normalization_inside": Inside(layers.Normalization),
    "discretization": OfNumbers(layers.Discretization, num_bins=3, output_mode="one_hot"),
    "string_lookup": OfTokens(layers.StringLookup, TOKENS),
    "string_lookup_tf_idf": OfTokens(layers.StringLookup, TOKENS, output_mode="tf_idf"),
    "integer_lookup": OfTokens(layers.IntegerLookup, IDS),
    "text": OfTokens(layers.TextVectorization, TEXTS, output_sequence_length=3),
    "text_tf_idf": OfTokens(layers.TextVectorization, TEXTS, output_mode="tf_idf"),
    "derived": OfNumbers(Derived),
    "derived_by_us": Inside(DerivedByUs),
    "asset": OfNumbers(Asset),
}
"""Everything that can be copied whole, by name."""


every_state = pytest.mark.parametrize("state", MAKERS)


def outputs(model, state):
    return np.asarray(model(MAKERS[state].data, training=False))


def maps(layer):
    """Returns a model of maps with a layer behind `"stage1"`."""
    inputs = keras.Input((4, 4, 1))
    stage = layers.Conv2D(4, 3, padding="same", activation="relu", name="stage1")(inputs)
    values = layers.Rescaling(1.0)(layer(stage))
    values = layers.Conv2D(5, 1, activation="relu", name="stage2")(values)
    return keras.Model(inputs, end(layers.GlobalAveragePooling2D()(values)))


def adapted(layer):
    layer.adapt(NUMBERS[:, :4])
    return layer


ON_MAPS = {
    "normalization": lambda: adapted(layers.Normalization(name="stateful")),
    "given": lambda: layers.Normalization(mean=[1.0, 2, 3, 4], variance=[1.0, 4, 9, 9]),
    "discretization": lambda: adapted(layers.Discretization(num_bins=3, dtype="float32")),
    "derived": lambda: adapted(Derived(name="stateful")),
    "asset": lambda: adapted(Asset(name="stateful")),
}


@keras.saving.register_keras_serializable(package="stateful")
class Subclassed(keras.Model):
    """A model that cannot be taken apart, with layers that have a state."""

    def __init__(self, first, **kwargs):
        super().__init__(**kwargs)
        self.first, self.last = first, layers.Dense(3)

    def build(self, shape):
        if not self.first.built:
            self.first.build(shape)
        self.last.build(shape)

    def call(self, inputs, training=None):
        return self.last(self.first(inputs))

    def get_config(self):
        first = keras.saving.serialize_keras_object(self.first)
        return {**super().get_config(), "first": first}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("first")), **config)


def subclassed(layer):
    model = Subclassed(adapted(layer))
    model(NUMBERS)
    return model
