"""Branches, heads and exits keep the state of the layers that they copy or share."""

import importlib

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr
from tests.support.models.stateful import (
    ON_MAPS,
    Asset,
    end,
    maps,
)


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("state", ON_MAPS)
def test_reused_and_shared_layers_keep_their_state(state, size, random):
    teacher = maps(ON_MAPS[state]())
    student = keras.Sequential(
        [keras.Input((size, size, 1)), layers.Conv2D(4, 3, padding="same", name="stage1")]
    )
    reusing = mr.models.reuse_classifier(
        student=student, teacher=teacher, student_at="stage1", teacher_at="stage1", factor=1
    )
    features = random.normal(30.0, 20.0, (3, 4, 4, 4)).astype("float32")
    rest = keras.Model(teacher.get_layer("stage1").output, teacher.output)
    np.testing.assert_array_equal(reusing.get_layer("classifier")(features), rest(features))
    with_exits = mr.models.exits(teacher, ["stage1"])
    images = random.normal(size=(3, 4, 4, 1)).astype("float32")
    np.testing.assert_array_equal(with_exits(images)["final"], teacher(images))


def test_heads_of_branches_keep_what_was_adapted(random):
    model = maps(ON_MAPS["normalization"]())
    branched = mr.models.branch(model, at="stage1", branches=3)
    features = random.normal(30.0, 5.0, (2, 4, 4, 4)).astype("float32")
    expected = model.get_layer("stateful")(features)
    for head in branched.heads.values():
        np.testing.assert_array_equal(head.get_layer("stateful")(features), expected)
    kernels = [head.get_layer("stage2").kernel.numpy() for head in branched.heads.values()]
    assert not np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], model.get_layer("stage2").kernel.numpy())


@keras.saving.register_keras_serializable(package="stateful")
class Scaled(layers.Layer):
    """Multiplies by what it derives from its weight where that is loaded, and only there."""

    doubled = 0.0

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="normal")

    def load_own_variables(self, store):
        super().load_own_variables(store)
        self.doubled = 2.0 * self.scale.numpy()

    def call(self, inputs):
        return inputs * self.scale + self.doubled


def in_heads(layer):
    """Returns a model with a layer behind `"stage1"`, in a model in the model."""
    inputs = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), layer, layers.Dense(4)], name="inner")
    return keras.Model(inputs, end(inner(layers.Dense(4, name="stage1")(inputs))))


def test_all_heads_of_branches_keep_assets_and_their_own_weights():
    asset = Asset(name="stateful")
    asset.factor = 7.0
    model = in_heads(asset)
    branched = mr.models.branch(model, at="stage1", branches=3)
    inner = [head.get_layer("inner") for head in branched.heads.values()]
    assert [one.get_layer("stateful").factor for one in inner] == [7.0, 7.0, 7.0]
    kernels = [one.layers[-1].kernel.numpy() for one in [*inner, model.get_layer("inner")]]
    assert len({kernel.tobytes() for kernel in kernels}) == 4


def test_heads_of_branches_derive_from_their_own_weights():
    layer = Scaled(name="stateful")
    model = in_heads(layer)
    layer.load_own_variables({"0": np.full(4, 5.0)})
    branched = mr.models.branch(model, at="stage1", branches=3)
    found = [head.get_layer("inner").get_layer("stateful") for head in branched.heads.values()]
    for one in found:
        np.testing.assert_array_equal(one.doubled, 2.0 * one.scale.numpy())
    assert len({one.scale.numpy().tobytes() for one in [*found, layer]}) == 4


def test_the_check_of_a_branch_draws_no_random_numbers(monkeypatch):
    def weights_after():
        keras.utils.set_random_seed(3)
        branched = mr.models.branch(in_heads(layers.Dropout(0.5)), at="stage1", branches=2)
        later = layers.Dense(2)
        later.build((None, 3))
        return [*branched.get_weights(), *later.get_weights()]

    checked = weights_after()
    # The package has a function of that name.
    module = importlib.import_module("modreduce_keras.models.branch")
    monkeypatch.setattr(module, "_require_copied", lambda graph: None)
    for one, other in zip(checked, weights_after(), strict=True):
        np.testing.assert_array_equal(one, other)
