"""Tests of the warning of students that augment their inputs where the teacher does not see it."""

import warnings

import keras
import pytest

import modreduce_keras as mr
from modreduce_keras.distillers.checks.augmentation import augmenting_layers

layers = keras.layers


def model_of(*hidden, name="student"):
    return keras.Sequential(
        [keras.Input((8, 8, 3)), *hidden, layers.Flatten(), layers.Dense(3)], name=name
    )


def functional(*hidden):
    """Returns a model in which the layers come after a scaled input and before a convolution."""
    inputs = keras.Input((8, 8, 3))
    maps = layers.Normalization(mean=0.5, variance=2.0)(inputs)
    for layer in hidden:
        maps = layer(maps)
    maps = layers.Flatten()(layers.Conv2D(2, 3)(maps))
    return keras.Model(inputs, layers.Dense(3)(maps), name="student")


def nested(*hidden):
    """Returns a model that has the layers in a model of their own, inside another one."""
    augment = keras.Sequential([*hidden], name="augment")
    return model_of(keras.Sequential([augment, layers.Conv2D(2, 3)]))


class Subclassed(keras.Model):
    """A model of layers that are called as they are given."""

    def __init__(self, *hidden):
        super().__init__(name="student")
        self.hidden, self.head = list(hidden), model_of()
        self.built = True

    def call(self, inputs, training=False):
        for layer in self.hidden:
            inputs = layer(inputs, training=training)
        return self.head(inputs)


class Jitter(layers.Layer):
    """A layer of a user's own that adds random numbers."""

    def __init__(self):
        super().__init__(name="jitter")
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, inputs, training=False):
        return inputs


KINDS = pytest.mark.parametrize("build", [model_of, functional, nested, Subclassed])


@KINDS
def test_layers_that_augment_are_found_in_order(build):
    given = [layers.RandomFlip(name="flip"), layers.GaussianNoise(0.1, name="noise"), Jitter()]
    assert augmenting_layers(build(*given)) == ["flip", "noise", "jitter"]


@KINDS
def test_layers_without_random_numbers_and_dropouts_are_not(build):
    given = [layers.Dropout(0.1), layers.SpatialDropout2D(0.1), layers.CenterCrop(8, 8)]
    assert (
        augmenting_layers(build(layers.Rescaling(2.0), layers.GaussianDropout(0.1), *given)) == []
    )


def test_noise_of_hidden_layers_is_not_but_layers_that_augment_images_are():
    hidden = [layers.Conv2D(2, 3), layers.GaussianNoise(0.1), Jitter(), layers.RandomRotation(0.1)]
    assert augmenting_layers(model_of(*hidden)) == [hidden[-1].name]


@pytest.mark.parametrize(
    "layer",
    [
        layers.RandomCrop(8, 8),
        layers.RandomTranslation(0.1, 0.1),
        layers.RandomContrast(0.1),
        layers.RandomErasing(),
        layers.RandAugment(),
        layers.AugMix(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_every_layer_that_augments_images_is_known(layer):
    assert augmenting_layers(model_of(layer)) == [layer.name]


def test_a_distiller_warns_once_and_says_what_to_write():
    student, teacher = model_of(layers.RandomFlip(name="flip")), model_of(name="teacher")
    message = (
        r"The student 'student' changes its inputs at random, in \['flip'\]\. The teacher does not "
        r"see .*dataset\.map\(lambda x, y: \(augment\(x, training=True\), y\)\)\.$"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("kd")])
    assert [one.filename for one in caught] == [__file__]


def test_peers_are_told_of_student_inputs():
    students = {"a": model_of(layers.RandomFlip(), name="a"), "b": model_of(name="b")}
    knowledge = {"a": [mr.Response("kd")], "b": [mr.Response("kd")]}
    with pytest.warns(
        UserWarning, match=r"or, .*student_inputs=\{'a': augment\}, which the"
    ) as caught:
        mr.PeerDistiller(students, teacher=model_of(name="teacher"), knowledge=knowledge)
    assert caught[0].filename == __file__


def test_without_a_teacher_there_is_no_other_view():
    def flipping(name):
        return model_of(layers.RandomFlip(), name=name)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mr.PeerDistiller([flipping("a"), flipping("b")])
        mr.MeanTeacher(flipping("c"))
        teacher = model_of(name="teacher")
        mr.Distiller(student=model_of(), teacher=teacher, knowledge=[mr.Response("kd")])
        only_b = {"b": [mr.Response("kd")]}
        students = {"a": flipping("a"), "b": model_of(name="b")}
        mr.PeerDistiller(students, teacher=teacher, knowledge=only_b)
        alone = [mr.Response("confidence_penalty")]
        mr.Distiller(student=flipping("d"), teacher=None, knowledge=alone)
