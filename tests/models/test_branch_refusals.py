"""Tests of what cannot be branched, and of how that is said."""

import keras
import pytest
from keras import layers

import modreduce_keras as mr
from tests.support.models.to_branch import assert_equal, convnet, linear, nested, resnet


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def masked():
    words = keras.Input((6,), dtype="int32")
    vectors = layers.Embedding(9, 4, mask_zero=True, name="vectors")(words)
    return keras.Model(words, layers.Dense(2)(layers.LSTM(3, name="read")(vectors)))


def both_sides():
    shared, inputs = layers.Dense(4, name="shared"), keras.Input((4,))
    return keras.Model(inputs, shared(layers.Dense(4, name="middle")(shared(inputs))))


def constant():
    zeros = layers.Dense(2, kernel_initializer="zeros", name="logits")
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, name="hidden"), zeros])


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (Subclassed, {}, "must be a functional or a built Sequential model. Received: model=<Subc"),
        (lambda: keras.Sequential([layers.Dense(3)]), {}, "functional or a built Sequential"),
        (lambda: "resnet56", {}, "functional or a built Sequential model.*model='resnet56'"),
        (linear, {"at": "stage4"}, r"one of \['hidden', 'logits'\]. Received: at='stage4'"),
        (convnet, {"at": "image"}, r"after its inputs, .*'stage1_conv', .*Received: at='image'"),
        (nested, {"at": "backbone/conv2d"}, r"not one inside a nested model: .*'backbone', 'neck'"),
        (nested, {"at": "twice"}, "a layer that runs once. Received: at='twice', which runs 2"),
        (resnet, {"at": "stage2_1_conv"}, "paths lead .*at='stage2_1_conv', around which some"),
        (masked, {"at": "vectors"}, "whose output has no mask, .*Received: at='vectors'"),
        (both_sides, {"at": "middle"}, r"Received: at='middle', with the layers \['shared'\] on"),
        (linear, {"at": "logits"}, "leave some layers to the heads. Received: at='logits', the la"),
        (
            constant,
            {"at": "hidden"},
            r"random weights .*at='hidden', after which come \['lo",
        ),
        (
            linear,
            {"branches": 1},
            "branches must be an integer of at least 2. Received: branches=1",
        ),
        (linear, {"branches": 2.0}, "branches must be an integer .* Received: branches=2.0"),
        (linear, {"names": ["a", "b"]}, r"names must be 3 different .*names=\['a', 'b'\] with bra"),
        (linear, {"names": ["a", "b", "a"]}, "names must be 3 different strings"),
        (linear, {"names": "abc"}, "names must be 3 different strings.*names='abc'"),
        (linear, {"names": [1, 2, 3]}, "names must be 3 different strings"),
        (linear, {"names": ["a", "b", "c/d"]}, "names must be of letters, .*'c/d'"),
        (linear, {"names": ["a", "b", "c d"]}, "names must be of letters, .*'c d'"),
        (linear, {"names": ["a", "b", ""]}, "names must be of letters, .*''"),
        (
            linear,
            {"trunk_gradient": "max"},
            r"one of \['sum', 'mean'\]. Received: trunk_gradient='m",
        ),
    ],
)
def test_what_does_not_fit_is_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.models.branch(model(), **{"at": "hidden", **arguments})


def test_a_mask_that_ends_in_the_trunk_is_fine(random):
    branches = mr.models.branch(masked(), at="read")
    words = random.integers(0, 3, size=(5, 6)).astype("int32")
    joint = branches(words)
    for name, student in branches.students.items():
        assert_equal(student(words), joint[name])
