"""Tests of the gradients of branched models: what heads give their trunk, and a step of SGD."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr
from tests.support.models.to_branch import assert_equal, linear, weights


@pytest.mark.parametrize(("trunk_gradient", "divisor"), [("sum", 1), ("mean", 3)])
@pytest.mark.parametrize("jit", [False, True])
def test_gradients_of_the_heads_reach_the_trunk_summed_or_averaged(
    trunk_gradient, divisor, jit, random
):
    branches = mr.models.branch(linear(), at="hidden", trunk_gradient=trunk_gradient)
    inputs = random.normal(size=(5, 3)).astype("float32")
    upstream = {name: random.normal(size=(5, 2)).astype("float32") for name in branches.names}

    @tf.function(jit_compile=jit, autograph=False)
    def gradients():
        with tf.GradientTape() as tape:
            outputs = branches(inputs, training=True)
            loss = sum(tf.reduce_sum(outputs[name] * upstream[name]) for name in outputs)
        kernels = [part.trainable_variables[0].value for part in parts]
        return tape.gradient(loss, kernels)

    parts = [branches.trunk, *branches.heads.values()]
    trunk, *heads = (part.get_weights()[0].astype("float64") for part in parts)
    ours = gradients()
    flowing = sum(upstream[name] @ head.T for name, head in zip(upstream, heads, strict=True))
    np.testing.assert_allclose(ours[0], inputs.T @ flowing / divisor, rtol=1e-4, atol=1e-5)
    for name, own in zip(branches.names, ours[1:], strict=True):
        np.testing.assert_allclose(own, (inputs @ trunk).T @ upstream[name], rtol=1e-4, atol=1e-5)


def test_the_fork_gives_each_head_what_the_trunk_gave(gradient):
    values = np.array([0.0, -0.0, 1 / 3, -1e-45, 3e38, np.inf, -np.inf], "float32")
    branches = mr.models.branch(linear(), at="hidden", branches=4, trunk_gradient="mean")
    assert np.array(branches.fork(values)).tobytes() == values.tobytes()
    np.testing.assert_array_equal(gradient(branches.fork, values[:3]), np.full(3, 0.25))
    unscaled = mr.models.branch(linear(), at="hidden", branches=4)
    tensor = tf.constant(values)
    assert unscaled.fork(tensor) is tensor


def test_the_fork_takes_layers_of_several_outputs(random, gradient):
    steps = keras.Input((4, 3))
    outputs = layers.LSTM(2, return_state=True, return_sequences=True, name="states")(steps)
    sequence = layers.GlobalAveragePooling1D()(outputs[0])
    model = keras.Model(steps, layers.Dense(2)(layers.Concatenate()([sequence, *outputs[1:]])))
    branches = mr.models.branch(model, at="states", branches=2, trunk_gradient="mean")
    data = random.normal(size=(5, 4, 3)).astype("float32")
    joint = branches(data)
    for name, student in branches.students.items():
        assert_equal(student(data), joint[name])
    branched = branches.fork
    forked = gradient(lambda v: sum(map(tf.reduce_sum, branched([v, v]))), data)
    np.testing.assert_array_equal(forked, np.ones_like(data))


def test_a_student_by_itself_has_its_whole_gradient(random):
    branches = mr.models.branch(linear(), at="hidden", trunk_gradient="mean")
    student = branches.students["branch_1"]
    inputs = random.normal(size=(5, 3)).astype("float32")
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(student(inputs))
    (ours,) = tape.gradient(total, [branches.trunk.trainable_variables[0].value])
    flowing = np.ones((5, 2)) @ student.get_layer("logits").get_weights()[0].T
    np.testing.assert_allclose(ours, inputs.T @ flowing, rtol=1e-5)


def test_compiled_it_trains_every_branch_on_the_labels(random):
    branches = mr.models.branch(linear(), at="hidden", branches=2, trunk_gradient="mean")
    branches.compile(keras.optimizers.SGD(0.1), dict.fromkeys(branches.names, "mse"))
    inputs = random.normal(size=(5, 3)).astype("float32")
    labels = {name: random.normal(size=(5, 2)).astype("float32") for name in branches.names}
    trunk, *heads = (kernel.astype("float64") for kernel in weights(branches))
    branches.train_on_batch(inputs, labels)
    hidden = inputs @ trunk
    errors = [
        2 * (hidden @ head - labels[name]) / 10
        for name, head in zip(branches.names, heads, strict=True)
    ]
    flowing = sum(error @ head.T for error, head in zip(errors, heads, strict=True)) / 2
    expected = [trunk - 0.1 * inputs.T @ flowing] + [
        head - 0.1 * hidden.T @ error for head, error in zip(heads, errors, strict=True)
    ]
    for ours, theirs in zip(weights(branches), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
