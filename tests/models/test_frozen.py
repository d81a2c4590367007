"""Students that are made of a frozen teacher train, and leave the teacher frozen."""

import keras
import pytest
from keras import layers

import modreduce_keras as mr

MAKERS = {
    "shallower": lambda teacher: mr.models.shallower(teacher, every=2),
    "prune_channels": lambda teacher: mr.prune_channels(teacher, 0.5),
    "low_rank": lambda teacher: mr.models.low_rank(teacher, rank=1),
}


def teacher():
    blocks = [layers.Dense(8, "relu", name=f"block_{i}") for i in range(4)]
    return keras.Sequential(
        [keras.Input((5,)), layers.Dense(8, name="first"), *blocks, layers.Dense(3, name="logits")]
    )


def trained(model):
    return [weight.path for weight in model.trainable_weights]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_student_trains_whatever_of_the_teacher_is_frozen(make):
    model = teacher()
    whole = trained(make(model))
    model.get_layer("logits").trainable = False
    assert trained(make(model)) == whole
    model.trainable = False
    assert trained(make(model)) == whole
    assert trained(model) == []


def test_kernels_that_lora_adapts_stay_frozen():
    model = teacher()
    for i in range(4):
        model.get_layer(f"block_{i}").enable_lora(2)
    student = MAKERS["shallower"](model)
    assert len(trained(student)) == len(student.weights) - 2
    assert not student.get_layer("block_0").variables[0].trainable
