"""Tests of copies of models whose layers do not all have names of their own."""

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr
from tests.support.models.stateful import Asset

CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def ends(values, name=None):
    return layers.Dense(3, name=name)(layers.Flatten()(values))


def two_attentions(names=(None, None)):
    """Returns a model of two attentions, whose inner layers are of the same names."""
    inputs = values = keras.Input((3, 4))
    for name in names:
        values = layers.MultiHeadAttention(2, 4, name=name)(values, values)
    return keras.Model(inputs, ends(values))


def named_attentions():
    return two_attentions(("first", "second"))


def nested():
    """Returns a model of two layers `"dense"`, one of them in a model in it."""
    backbone = keras.Sequential([keras.Input((3, 4)), layers.Dense(4, name="dense")])
    inputs = keras.Input((3, 4))
    values = layers.Dense(4, name="dense")(backbone(inputs))
    return keras.Model(inputs, ends(values))


def twins():
    """Returns a model of two nested models of equal shapes and names of layers."""
    inputs = values = keras.Input((3, 4))
    for _ in range(2):
        values = keras.Sequential([keras.Input((3, 4)), layers.Dense(4, name="dense")])(values)
    return keras.Model(inputs, ends(values))


@keras.saving.register_keras_serializable(package="equal_names")
class Block(layers.Layer):
    """Two attentions in one layer."""

    def build(self, shape):
        self.one, self.two = layers.MultiHeadAttention(2, 4), layers.MultiHeadAttention(2, 4)
        for layer in (self.one, self.two):
            layer.build(shape, shape)

    def call(self, inputs):
        values = self.one(inputs, inputs)
        return self.two(values, values)


def composite():
    inputs = keras.Input((3, 4))
    return keras.Model(inputs, ends(Block()(inputs)))


def with_assets():
    """Returns a model of two layers of one name whose state is in files."""
    inputs = values = keras.Input((3, 4))
    for _ in range(2):
        values = keras.Sequential([keras.Input((3, 4)), Asset(name="asset")])(values)
    return keras.Model(inputs, ends(values))


MAKERS = [two_attentions, named_attentions, nested, twins, composite, with_assets]
every_model = pytest.mark.parametrize("make", MAKERS)


@pytest.fixture
def images(random):
    return random.normal(size=(4, 3, 4)).astype("float32")


def changed(model, random):
    """Gives a model weights of which no two are equal, and other assets."""
    for variable in model.trainable_variables:
        variable.assign(random.normal(size=variable.shape))
    for layer in model._flatten_layers():
        if isinstance(layer, Asset):
            layer.factor = random.uniform(1.0, 2.0)
    return model


def copied(source, target):
    mr.models.copy_state(source, target)
    return target


COPIES = {
    "copy_state": lambda model, make: copied(model, make()),
    "copy_model": lambda model, make: mr.models.copy_model(model),
    "fold": lambda model, make: mr.models.fold(model),
    "import": lambda model, make: mr.models.import_keras_weights(model=make(), source=model),
    "mean_teacher": lambda model, make: mr.MeanTeacher(model).mean_teacher(into=make()),
}


@pytest.mark.parametrize("copy", COPIES)
@every_model
def test_copies_give_the_same_outputs(make, copy, images, random):
    model = changed(make(), random)
    np.testing.assert_array_equal(COPIES[copy](model, make)(images), model(images))


def test_equal_paths_go_before_the_order(images, random):
    def side_by_side(names):
        inputs = keras.Input((3, 4))
        made = {name: layers.MultiHeadAttention(2, 4, name=name)(inputs, inputs) for name in names}
        return keras.Model(inputs, ends(made["a"] - made["b"], "end"))

    model = changed(side_by_side("ab"), random)
    other = side_by_side("ba")
    mr.models.copy_state(model, other)
    np.testing.assert_array_equal(other(images), model(images))


def distiller(teacher, dtype):
    student = keras.Sequential([keras.Input((3, 4)), layers.Flatten(), layers.Dense(3)])
    made = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("kd")], teacher_dtype=dtype
    )
    made.compile(keras.optimizers.SGD(0.0), CE, run_eagerly=True)
    return made


def distilled(made, images):
    return made.fit(images, np.arange(4) % 3, verbose=0).history["kd"][0]


@pytest.mark.parametrize("make", [two_attentions, nested, composite, with_assets])
def test_folded_teachers_follow_and_are_loaded(make, tmp_path, images, random):
    teacher = changed(make(), random)
    made = distiller(teacher, "float32")
    distilled(made, images)
    changed(teacher, random)
    plain = distiller(teacher, None)
    plain.student.set_weights(made.student.get_weights())
    expected = distilled(plain, images)
    assert distilled(made, images) == pytest.approx(expected, rel=1e-5)
    made.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    np.testing.assert_array_equal(loaded.teacher(images), teacher(images))
    assert distilled(loaded, images) == pytest.approx(expected, rel=1e-5)


def test_what_cannot_follow_is_folded_anew(images, random, monkeypatch):
    made = distiller(changed(two_attentions(), random), "float32")
    changed(made.teacher, random)
    copied = "modreduce_keras.distillers.teachers.live.copy_state"
    monkeypatch.setattr(copied, lambda one, other: None)
    plain = distiller(made.teacher, None)
    plain.student.set_weights(made.student.get_weights())
    assert distilled(made, images) == pytest.approx(distilled(plain, images), rel=1e-5)
