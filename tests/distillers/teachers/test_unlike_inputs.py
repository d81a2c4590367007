"""Inputs that students take and the teacher does not: an error that says how to give it its own."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
Y = np.arange(6) % 3


def plain():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)], name="plain")


def named(*names):
    inputs = {name: keras.Input((4,), name=name) for name in names}
    together = keras.ops.sum(keras.ops.stack(list(inputs.values())), axis=0)
    return keras.Model(inputs, keras.layers.Dense(3)(together), name="named")


def fit(student, teacher, x, **arguments):
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge="kd", **arguments)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", loss, run_eagerly=True)
    return distiller.fit(x, Y, batch_size=6, shuffle=False, verbose=0).history["kd"][0]


@pytest.mark.parametrize(
    ("student", "teacher", "received"),
    [
        (["a"], [], r"a dict of \['a'\]"),
        (["a", "b"], ["c", "d"], r"a dict of \['a', 'b'\]"),
        ([], ["a", "b"], r"1 without names"),
    ],
)
def test_the_error_names_the_teacher_and_the_argument(student, teacher, received):
    models = [named(*names) if names else plain() for names in (student, teacher)]
    x = dict.fromkeys(student, X) if student else X
    with pytest.raises(ValueError, match=rf"The teacher '\w+' takes.*teacher_input=.*{received}"):
        fit(*models, x)


def test_what_the_teacher_takes_may_be_more_or_another_part():
    both = named("a", "b"), named("c", "d")
    assert np.isfinite(fit(*both, dict.fromkeys("abcd", X)))
    keras.utils.set_random_seed(0)
    by_key = fit(named("a"), plain(), {"a": X}, teacher_input="a")
    keras.utils.set_random_seed(0)
    by_function = fit(named("a"), plain(), {"a": X}, teacher_input=lambda x: x["a"])
    assert by_key == by_function
