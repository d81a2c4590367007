"""Layers of the user, which nobody has registered: they export, or it is said what they lack."""

import keras
import pytest
from keras import layers

import modreduce_keras as mr
from tests.support.models.exporting import CLASSES, CLOSE, assert_exports
from tests.support.models.functions import OfFunction


class Scaled(layers.Layer):
    """Multiplies by weights of its own and a number; Keras knows its config by itself."""

    def __init__(self, by, **arguments):
        super().__init__(**arguments)
        self.by = by

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], initializer="ones")

    def call(self, inputs):
        return inputs * keras.ops.cast(self.by * self.scale, inputs.dtype)


def student(layer):
    inputs = keras.Input((5,))
    hidden = layers.BatchNormalization()(layers.Dense(8)(inputs))
    return keras.Model(inputs, layers.Dense(CLASSES, name="logits")(layer(hidden)), name="own")


@pytest.mark.parametrize("layer", [Scaled, lambda by: OfFunction(lambda inputs: by * inputs)])
def test_layers_without_registration_export(layer, tmp_path, settled, random):
    assert_exports(tmp_path, settled(student(layer(2.0))), random.normal(size=(20, 5)))


def test_in_low_precision_they_are_rebuilt_where_their_config_tells_how(
    tmp_path, settled, random, mixed_bfloat16
):
    trained = settled(student(Scaled(2.0)))
    keras.config.set_dtype_policy("float32")
    twin = student(Scaled(2.0))
    twin.set_weights(trained.get_weights())
    path = mr.export.to_tflite(trained, tmp_path / "student.tflite")
    data = random.normal(size=(20, 5)).astype("float32")
    assert mr.export.verify(path, twin, data, repeats=1).largest_difference < CLOSE


@pytest.mark.parametrize("export", ["to_tflite", "to_saved_model"])
def test_in_low_precision_the_config_that_is_missing_is_named(export, tmp_path, mixed_bfloat16):
    trained = student(OfFunction(lambda inputs: -inputs))
    told = r"float32.*Received: 'own' of \['bfloat16'\](?s:.*OfFunction.*get_config)"
    with pytest.raises(ValueError, match=told):
        getattr(mr.export, export)(trained, tmp_path / "student.tflite")
    assert not list(tmp_path.iterdir())
