"""Teachers in an evaluation of the knowledge: of several outputs, several, and in a cache."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from tests.support.equations.per_sample import kd

pytestmark = pytest.mark.usefixtures("eagerly")

L = keras.layers


def test_teachers_with_several_outputs(held_out, random):
    def net(name):
        inputs = keras.Input((8, 8, 1))
        flat = L.Flatten()(inputs)
        outputs = {"kind": L.Dense(3, name="kind")(flat), "size": L.Dense(2, name="size")(flat)}
        return keras.Model(inputs, outputs, name=name)

    student, teacher, x = net("s"), net("t"), held_out[0]
    knowledge = [
        mr.Response("kd", at="kind", weight=2.0),
        mr.Response("logit_mse", at="size", weight=0.5),
    ]
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=knowledge)
    distiller.compile("sgd", None)
    labels = {"kind": held_out[1], "size": held_out[1]}
    weights = {"kind": held_out[2], "size": np.ones(len(x))}
    found = distiller.evaluate(x, labels, 4, 0, weights, return_dict=True)
    own, taught = student(x), teacher(x)
    soft = (held_out[2] * kd(np.asarray(taught["kind"]), np.asarray(own["kind"]), 4.0)).mean()
    numbers = np.square(np.asarray(own["size"]) - np.asarray(taught["size"])).mean()
    np.testing.assert_allclose(found["kd"], soft, rtol=1e-5)
    np.testing.assert_allclose(found["loss"], 2 * soft + 0.5 * numbers, rtol=1e-5)


def test_several_teachers(net, held_out):
    x, teachers = held_out[0], [net((6, 8), name="one"), net((5, 7), name="two")]
    knowledge = [mr.Response("kd", average="logits", weight=1.0)]
    distiller = mr.Distiller(student=net(), teacher=teachers, knowledge=knowledge)
    distiller.compile("sgd", None)
    logits = [np.asarray(m(x, training=False)) for m in (*teachers, distiller.student)]
    expected = kd((logits[0] + logits[1]) / 2, logits[2], 4.0).mean()
    found = distiller.evaluate(x, verbose=0, batch_size=4, return_dict=True)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)


@pytest.fixture
def cached(net, teacher, images, labels, tmp_path):
    """Returns a distiller with a cache of its training data, the cache, and the data."""
    train = mr.data.with_index(tf.data.Dataset.from_tensor_slices((images, labels))).batch(5)
    cache = mr.data.TeacherCache(tmp_path / "train", teacher)
    cache.fill(train)
    distiller = mr.Distiller(student=net(), teacher=cache, knowledge=[mr.Response("kd", weight=1)])
    distiller.compile(keras.optimizers.SGD(0.05), None)
    return distiller, cache, train


def test_a_teacher_of_a_cache_runs_on_data_that_the_cache_has_not(
    cached, teacher, held_out, tmp_path
):
    distiller, cache, train = cached
    x, y = held_out[:2]
    logs = distiller.fit(
        cache.attach(train), validation_data=(x, y), validation_batch_size=4, shuffle=False,
        verbose=0,
    ).history  # fmt: skip
    logits = [np.asarray(m(x, training=False)) for m in (teacher, distiller.student)]
    expected = kd(*logits, 4.0).mean()
    np.testing.assert_allclose(logs["val_loss"][0], expected, rtol=1e-5)
    # or has a cache of its own, whose outputs are read instead
    data = mr.data.with_index(tf.data.Dataset.from_tensor_slices((x, y))).batch(4)
    other = mr.data.TeacherCache(tmp_path / "validation", teacher)
    other.fill(data)
    found = distiller.evaluate(other.attach(data), verbose=0, return_dict=True)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)


def test_data_that_are_not_in_a_cache_cannot_be_attached_to_it(cached, held_out):
    _, cache, _ = cached
    data = mr.data.with_index(tf.data.Dataset.from_tensor_slices(held_out[:2])).batch(4)
    message = r"inputs of sample 0 are not those .* Data to validate on go without attach, .*"
    with pytest.raises(ValueError, match=message):
        cache.attach(data)


def test_changes_of_the_teacher_reach_an_evaluation(net, teacher, held_out):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distiller = mr.Distiller(
            student=net(), teacher=teacher, knowledge=[mr.Response("kd")], teacher_dtype="float32"
        )
    distiller.compile("sgd", None)
    first = distiller.evaluate(held_out[0], verbose=0)
    for variable in teacher.trainable_variables:
        variable.assign(variable * 2.0)
    x = held_out[0]
    logits = [np.asarray(m(x, training=False)) for m in (teacher, distiller.student)]
    found = distiller.evaluate(x, verbose=0, return_dict=True)["kd"]
    np.testing.assert_allclose(found, kd(*logits, 4.0).mean(), rtol=1e-3)
    assert first != found


def test_data_without_the_teachers_input_name_the_way_out(net, teacher, held_out):
    x, y, _ = held_out
    distiller = mr.Distiller(
        student=net(), teacher=teacher, knowledge=[mr.Response("kd")], teacher_input="clean"
    )
    distiller.compile("sgd", None)
    message = r"teacher_input='clean' is a key .*evaluate_knowledge=False\) evaluates without it"
    with pytest.raises(ValueError, match=message):
        distiller.evaluate({"image": x}, y, verbose=0)
    found = distiller.evaluate({"image": x, "clean": x}, y, verbose=0, return_dict=True)
    assert found["kd"] > 0
