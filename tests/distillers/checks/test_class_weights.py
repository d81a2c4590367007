"""Tests of `class_weight`: what is no weight of one class for each example is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")

X = np.random.default_rng(0).normal(size=(12, 5)).astype("float32")
Y = np.arange(12) % 3
ONE_HOT = np.eye(3, dtype="float32")[Y]
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
DENSE = keras.losses.CategoricalCrossentropy(from_logits=True)
BINARY = keras.losses.BinaryCrossentropy(from_logits=True)


def distiller(loss, units=3, knowledge="kd"):
    student, teacher = (
        keras.Sequential([keras.Input((5,)), keras.layers.Dense(units)]) for _ in range(2)
    )
    made = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response(knowledge)])
    made.compile(keras.optimizers.SGD(0.0), loss)
    return made


@pytest.mark.parametrize(("loss", "labels"), [(SPARSE, Y), (DENSE, ONE_HOT)])
def test_classes_weigh_their_examples(loss, labels):
    made, weights = distiller(loss), {0: 1.0, 1: 4.0, 2: 0.5}
    logs = made.fit(X, labels, class_weight=weights, batch_size=12, verbose=0).history
    z = made.student.predict(X, verbose=0).astype("float64")
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    by_sample = np.array([1.0, 4.0, 0.5])[Y]
    assert logs["ce"][0] == pytest.approx(np.mean(-log_p[np.arange(12), Y] * by_sample), rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "labels", "knowledge"),
    [
        (DENSE, 0.7 * ONE_HOT + 0.1, "kd"),
        (BINARY, np.minimum(ONE_HOT + ONE_HOT[::-1], 1.0), "binary_kd"),
    ],
    ids=["smoothed", "several hot"],
)
def test_labels_that_are_not_one_class_are_refused_with_what_does_it(loss, labels, knowledge):
    made = distiller(loss, knowledge=knowledge)
    message = r"class_weight is for labels that are one class.*sample_weight=y @ np.array.*a row \["
    for train in (made.fit, made.train_on_batch):
        with pytest.raises(ValueError, match=message):
            train(X, labels, class_weight={0: 1.0, 1: 4.0})
    made.fit(X, labels, sample_weight=labels @ np.array([1.0, 4.0, 1.0]), verbose=0)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ("balanced", TypeError, r"must be a dict from class to weight.*counts = np.bincount\(y\)"),
        ({"0": 2.0}, ValueError, r"integers from 0 to 2 as keys.*\{'0': 2.0\}"),
        ({7: 3.0, 1: 1.0}, ValueError, r"Received: \{7: 3.0\}"),
        ({0: -1.0}, ValueError, r"not negative.*\{0: -1.0\}"),
    ],
    ids=["name", "string", "no class", "negative"],
)
def test_what_is_no_weight_of_a_class_is_refused(weights, error, message):
    with pytest.raises(error, match=message):
        distiller(SPARSE).fit(X, Y, class_weight=weights, verbose=0)
    counts = np.bincount(Y)
    balanced = dict(enumerate(len(Y) / (counts.size * counts)))
    distiller(SPARSE).fit(X, Y, class_weight=balanced, verbose=0)


@pytest.mark.graph
def test_labels_of_another_rank_need_a_new_step():
    made = distiller(SPARSE)
    made.fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match=r"calls before had other axes.*compile the distiller"):
        made.fit(X, Y[:, None], verbose=0)
    made.compile(keras.optimizers.SGD(0.0), SPARSE)
    made.fit(X, Y[:, None], verbose=0)


@pytest.mark.graph
def test_weights_of_other_positions_are_refused_after_a_good_fit():
    student, teacher = (
        keras.Sequential([keras.Input((4, 5)), keras.layers.Dense(3)]) for _ in range(2)
    )
    made = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("kd")])
    made.compile(keras.optimizers.SGD(0.0), SPARSE)
    x, y = np.ones((6, 4, 5), "float32"), np.ones((6, 4), "int64")
    made.fit(x, y, sample_weight=np.ones((6, 4)), verbose=0)
    with pytest.raises(ValueError, match=r"Received: shape \(6, 3\) for labels of shape \(6, 4\)"):
        made.fit(x, y, sample_weight=np.ones((6, 3)), verbose=0)


def test_arrays_of_strings_are_refused_with_what_takes_them():
    words = np.array(["a", "b", "c"] * 4)
    vectors = keras.layers.TextVectorization(output_mode="multi_hot", vocabulary=["a", "b", "c"])
    student, teacher = (
        keras.Sequential([keras.Input((), dtype="string"), vectors, keras.layers.Dense(3)])
        for _ in range(2)
    )
    made = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("kd")])
    made.compile("sgd", SPARSE)
    for array in (words, words.astype(object)):
        with pytest.raises(ValueError, match=r"tensors of strings: tf.constant\(x\)"):
            made.fit(array, Y, verbose=0)
    made.fit(tf.constant(words), Y, verbose=0)


@pytest.mark.graph
@pytest.mark.parametrize("name", ["y", "sample_weight"])
def test_data_that_do_not_say_their_rank(name):
    def batch(x, y):
        dtype = "int32" if name == "y" else "float32"
        unknown = tf.py_function(lambda y: tf.cast(y, dtype), [y], dtype)
        return (x, unknown) if name == "y" else (x, y, unknown)

    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    message = rf"^{name} has an unknown number of axes: tf\.ensure_shape\({name}, \(None,\)\)"
    with pytest.raises(ValueError, match=message):
        distiller(SPARSE).fit(data.map(batch), shuffle=False, verbose=0)
