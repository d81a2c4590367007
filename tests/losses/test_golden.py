"""Losses without weights against the reference implementations: value and gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

FILES = {
    "dkd": mr.losses.DKD(target_weight=1.0, nontarget_weight=8.0, temperature=4.0),
    "pkt": mr.losses.PKT(),
    "fsp": mr.losses.FSP(),
    "cc": mr.losses.CC(variant="reference"),
    "ab": mr.losses.AB(margin=1.0),
}
for size in ("same", "down", "up"):
    FILES |= {f"{name}_{size}": mr.losses.get(name) for name in ("at", "ft", "nst", "sp")}


def side(arrays, name):
    """Returns one array, or the list of `name_0`, `name_1`, ... where there are several."""
    if name in arrays:
        return arrays[name]
    return [arrays[f"{name}_{i}"] for i in range(len(arrays)) if f"{name}_{i}" in arrays]


@pytest.mark.parametrize("name", FILES)
def test_value_and_gradient_equal_the_reference(name, golden):
    arrays = golden(name)
    teacher = side(arrays, "teacher")
    if "labels" in arrays:
        teacher = {"teacher": teacher, "labels": arrays["labels"]}
    student = keras.tree.map_structure(tf.constant, side(arrays, "student"))
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss = tf.reduce_mean(FILES[name].call(teacher, student))
    np.testing.assert_allclose(loss, arrays["loss"], rtol=1e-5)
    gradients = keras.tree.flatten(tape.gradient(loss, student))
    expected = keras.tree.flatten(side(arrays, "grad_student"))
    for gradient, reference in zip(gradients, expected, strict=True):
        size = np.abs(reference).max()
        np.testing.assert_allclose(gradient / size, reference / size, atol=1e-5)
