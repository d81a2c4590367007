"""What cannot be copied is named; what cannot be folded runs as it was given."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr
from tests.support.models.functions import OfFunction
from tests.support.models.stateful import (
    NUMBERS,
    Forgetful,
    OfNumbers,
    adapted,
    end,
    maps,
    subclassed,
)
from tests.support.models.stateful_distillers import distiller, distiller_of


def test_what_a_layer_keeps_nowhere_is_named():
    model = OfNumbers(Forgetful)()
    message = r"gives other outputs than the model itself, from the layer 'stateful' \(Forgetful\)"
    for copy in (
        mr.models.copy_model,
        mr.models.fold,
        lambda model: mr.models.fold(model, dtype="bfloat16"),
        lambda model: mr.models.branch(model, at="hidden"),
        lambda model: mr.MeanTeacher(model).mean_teacher(),
    ):
        with pytest.raises(ValueError, match=message):
            copy(model)
    with pytest.raises(ValueError, match=message):
        mr.models.reuse_classifier(
            student=maps(layers.ReLU()),
            teacher=maps(adapted(Forgetful(name="stateful"))),
            student_at="stage1",
            teacher_at="stage1",
        )


@pytest.fixture
def served(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    model.export(str(tmp_path / "served"), verbose=False)
    return OfNumbers(layers.TFSMLayer, filepath=str(tmp_path / "served"))()


def test_a_saved_model_in_a_model_is_named(served, tmp_path):
    for copy in (
        mr.models.copy_model,
        mr.models.fold,
        lambda model: mr.models.branch(model, at="hidden"),
        lambda model: mr.MeanTeacher(model).mean_teacher(),
    ):
        with pytest.raises(ValueError, match=r"The layer 'stateful' \(TFSMLayer\) cannot be rebu"):
            copy(served)
    made = distiller(served, "normalization")
    with pytest.raises(ValueError, match=r"cannot hold this one: The layer 'stateful'.*SavedModel"):
        made.save(tmp_path / "distiller.keras")
    # What the message advises.
    made.student.save(tmp_path / "student.keras")
    made.save_weights(tmp_path / "distiller.weights.h5")
    made.load_weights(tmp_path / "distiller.weights.h5")
    # What runs as it was given does run.
    exported = mr.export.to_saved_model(served, tmp_path / "exported")
    loaded = tf.saved_model.load(str(exported))
    got = loaded.serve({"numbers": NUMBERS})["logits"]
    np.testing.assert_allclose(got, served(NUMBERS), rtol=1e-6)


@keras.saving.register_keras_serializable(package="stateful")
class NoConfig(layers.Layer):
    def get_config(self):
        raise AttributeError("'NoConfig' object has no attribute 'units'")

    def call(self, inputs):
        return 2.0 * inputs


@pytest.mark.parametrize(
    "copy",
    [
        mr.models.copy_model,
        mr.models.fold,
        lambda model: mr.models.branch(model, at="stage1"),
        lambda model: mr.models.branch(model, at="stage2"),
        lambda model: mr.MeanTeacher(model).mean_teacher(),
        lambda model: mr.models.reuse_classifier(
            student=maps(layers.ReLU()), teacher=model, student_at="stage1", teacher_at="stage1"
        ),
    ],
    ids=["copy_model", "fold", "head", "trunk", "mean_teacher", "reuse"],
)
def test_a_layer_that_cannot_be_written_in_a_config_is_named(copy):
    with pytest.raises(ValueError, match=r"The layer 'foreign' .OfFunction. cannot be rebuilt"):
        copy(maps(OfFunction(lambda inputs: 2.0 * inputs, name="foreign")))


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, "Object Foreign was created by passing non-serializable argument values"),
        ({"get_config": lambda self: {"name": self.name}}, "OfFunction.__init__() missing 1"),
    ],
    ids=["no_config", "own_config"],
)
def test_the_reason_is_one_line_without_the_advice_of_keras(own, expected):
    foreign = type("Foreign", (OfFunction,), own)(lambda inputs: 2.0 * inputs, name="foreign")
    with pytest.raises(ValueError, match="cannot be rebuilt") as error:
        mr.models.copy_model(maps(foreign))
    reason = str(error.value).partition("its config: ")[2]
    assert reason.startswith(expected)
    assert not any(advice in reason for advice in ("\n", "CustomLayer", "Error when"))


def test_a_layer_whose_config_fails_is_built_from_its_arguments():
    model = maps(NoConfig(name="foreign"))
    x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype("float32")
    for copy in (mr.models.copy_model(model), mr.MeanTeacher(model).mean_teacher()):
        np.testing.assert_array_equal(copy(x), model(x))
    np.testing.assert_allclose(mr.models.fold(model)(x), model(x), rtol=1e-5, atol=1e-6)


class OfClass(layers.Layer):
    """Takes a class, at which Keras fails when it writes the config."""

    def __init__(self, inner, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.inner, self.factor = inner(name="inner"), factor

    def call(self, inputs):
        return self.factor * self.inner(inputs)

    def get_config(self):
        inner = keras.saving.serialize_keras_object(type(self.inner))
        return {**super().get_config(), "inner": inner, "factor": self.factor}

    @classmethod
    def from_config(cls, config):
        config["inner"] = keras.saving.deserialize_keras_object(config["inner"])
        return cls(**config)


def test_a_layer_that_takes_a_class_is_copied():
    layer = OfClass(layers.LayerNormalization, factor=2.0, name="foreign")
    model = maps(layer)
    layer.inner.gamma.assign(layer.inner.gamma + 0.5)
    x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype("float32")
    copy = mr.models.copy_model(model)
    assert copy.get_layer("foreign").inner is not layer.inner
    np.testing.assert_array_equal(copy(x), model(x))
    with pytest.raises(TypeError, match="get_config"):  # as before, and as outside
        keras.saving.serialize_keras_object(layers.LayerNormalization)


class OwnInit(layers.Layer):
    """Has an `__init__` and no `get_config`: Keras then writes a config without the name."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.factor = 3.0

    def call(self, inputs):
        return self.factor * inputs


def test_layers_without_a_config_of_their_own_keep_their_names():
    inputs = keras.Input((4,))
    trunk = layers.Dense(3, name="stage1")(OwnInit()(inputs))
    model = keras.Model(inputs, layers.Dense(3)(OwnInit()(trunk)))
    names = [layer.name for layer in model.layers]
    for copy in (mr.models.copy_model(model), mr.models.fold(model)):
        assert [layer.name for layer in copy.layers] == names
        np.testing.assert_array_equal(copy(NUMBERS), model(NUMBERS))
    branches = mr.models.branch(model, at="stage1", branches=2)
    kept = keras.Model(inputs, trunk)
    np.testing.assert_array_equal(branches.trunk(NUMBERS), kept(NUMBERS))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_whatever_cannot_be_folded_runs_as_given(dtype, served):
    inputs = keras.Input((4,))
    layer = OfFunction(lambda inputs: 2.0 * inputs, name="foreign")
    foreign = keras.Model(inputs, end(layer(inputs)), name="foreign")
    for teacher in (foreign, served):
        student = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
        with pytest.warns(UserWarning, match="which runs unchanged"):
            made = distiller_of(student, teacher, dtype)
        assert made.teacher is teacher
        made.fit(NUMBERS, np.arange(16) % 3, verbose=0)


def test_a_subclassed_model_that_keeps_its_state_nowhere_is_refused():
    with pytest.raises(ValueError, match="gives other outputs than the model itself"):
        mr.models.copy_model(subclassed(Forgetful()))
