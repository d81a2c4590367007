"""Tests of `balance`, against terms and gradients worked out one by one, and of fit's warning."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
Y = np.arange(8) % 3


def net(name, noise=0.0):
    layers = [keras.layers.Dense(5, name="hidden"), keras.layers.Dropout(noise, seed=1)]
    layers = [*layers, keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((4,)), *layers], name=name)


def made(noise=0.0, hint=100.0, labels=1.0, **arguments):
    keras.utils.set_random_seed(3)
    knowledge = [
        mr.Response("kd", weight=0.5),
        mr.Feature("hint", at="hidden", adapter="linear_embedding", weight=hint),
    ]
    distiller = mr.Distiller(
        student=net("student", noise),
        teacher=net("teacher"),
        knowledge=knowledge,
        supervised_weight=labels,
    )
    distiller.compile("sgd", LOSS, metrics=["accuracy"], run_eagerly=True, **arguments)
    return distiller


def test_it_is_what_each_term_gives_by_itself():
    distiller = made()
    found = distiller.balance((X, Y))
    weights = distiller.student.trainable_variables
    terms = {term.log_name: term for term in distiller.objective().terms}
    values, norms = {}, {}
    for name, term in terms.items():
        with tf.GradientTape() as tape:
            outputs = distiller.forward(X, training=True, labels=Y)
            value = tf.reduce_mean(term.values(outputs))
        gradients = tape.gradient(value, [v.value for v in weights], unconnected_gradients="zero")
        values[name] = float(value)
        norms[name] = np.sqrt(sum(np.sum(np.square(g)) for g in gradients))
    factors = {"ce": 1.0, "kd": 0.5, "hint": 100.0}
    assert list(found) == list(factors)
    for name, part in found.items():
        total = sum(factors[n] * values[n] for n in factors)
        norm = sum(factors[n] * norms[n] for n in factors)
        expected = (
            values[name],
            factors[name],
            factors[name] * values[name] / total,
            factors[name] * norms[name] / norm,
        )
        np.testing.assert_allclose(part, expected, rtol=1e-4)
    assert "of gradient" in str(found).splitlines()[0] and len(str(found).splitlines()) == 4


def test_it_changes_nothing():
    """The training after it is that of a distiller that was never asked, bit for bit."""
    asked, other = made(noise=0.5), made(noise=0.5)
    before = [v.numpy() for v in asked.variables]
    asked.balance((X, Y))
    for variable, value in zip(asked.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    for distiller in (asked, other):
        distiller.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    for one, two in zip(asked.variables, other.variables, strict=True):
        np.testing.assert_array_equal(one, two)


def test_sample_weights_count():
    distiller, weights = made(), np.array([3, 0, 0, 0, 0, 0, 0, 1], "float32")
    found = distiller.balance((X, Y, weights))
    outputs = distiller.forward(X, training=True, labels=Y)
    for term in distiller.objective().terms:
        values = keras.ops.convert_to_numpy(term.values(outputs))
        np.testing.assert_allclose(found[term.log_name].value, np.mean(weights * values), rtol=1e-5)


def test_peers_have_shares_of_their_own():
    peers = mr.PeerDistiller({"a": net("a"), "b": net("b")}, aggregator="mean")
    peers.compile("sgd", LOSS, run_eagerly=True)
    found = peers.balance((X, Y))
    for name in "ab":
        own = [part for term, part in found.items() if term.startswith(f"{name}/")]
        np.testing.assert_allclose(sum(part.loss for part in own), 1.0, rtol=1e-5)
        np.testing.assert_allclose(sum(part.gradient for part in own), 1.0, rtol=1e-5)


def test_it_needs_to_be_compiled():
    distiller = mr.Distiller(student=net("s"), teacher=net("t"))
    with pytest.raises(ValueError, match=r"Compile the distiller first"):
        distiller.balance((X, Y))


def warned(distiller):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            distiller.fit(X, Y, batch_size=4, verbose=0)
    own = [one for one in caught if str(one.message).startswith("On the first batch")]
    assert {one.filename for one in own} <= {__file__}
    return [str(one.message) for one in own]


def test_fit_warns_once_of_a_term_that_outweighs_all_others():
    (text,) = warned(made(hint=1e4))
    assert "the term 'hint'" in text and "distiller.balance((x, y))" in text
    (text,) = warned(made(hint=0.0, labels=1e-3))
    assert "the term 'kd'" in text


def test_weights_of_the_papers_are_not_warned_of():
    assert warned(made(hint=1.0)) == []
    default = mr.Distiller(student=net("s"), teacher=net("t"))
    default.compile("sgd", LOSS, run_eagerly=True)
    assert warned(default) == []
    alone = mr.Distiller(student=net("s"), teacher=net("t"), knowledge="kd")
    alone.compile("sgd", run_eagerly=True)
    assert warned(alone) == []


def test_the_warning_neither_traces_again_nor_stays_in_the_way():
    distiller = made()
    distiller.compile("sgd", LOSS, on_nonfinite="stop")
    distiller.fit(X, Y, batch_size=4, verbose=0)
    function = distiller.train_function
    distiller.fit(X, Y, batch_size=4, verbose=0)
    assert distiller.train_function is function
    with pytest.raises(mr.NonFiniteError):
        distiller.fit(np.full_like(X, np.inf), Y, verbose=0)


def test_a_step_that_a_callback_puts_around_it_stays():
    class Counted(keras.callbacks.Callback):
        calls = 0

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 0:
                inner = self.model.train_function

                def counted(iterator):
                    self.calls += 1
                    return inner(iterator)

                self.model.train_function = counted

    distiller, callback = made(hint=1e4), Counted()
    with pytest.warns(UserWarning, match="On the first batch the term 'hint'"):
        distiller.fit(X, Y, batch_size=4, epochs=2, callbacks=[callback], verbose=0)
    assert callback.calls == 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, r"one batch of arrays.*next\(iter\(dataset\)\)\. Received: None"),
        (tf.data.Dataset.from_tensors((X, Y)), r"one batch of arrays.*Received: <_TensorDataset"),
        ((X, Y[:3]), r"one entry for each sample.*'y': \[3\]"),
        ((X, Y + 5), r"class indices from 0 to 2\. Received: y with \[5, 6, 7\]"),
        ((tf.constant(X), tf.constant(Y + 5)), r"class indices from 0 to 2\. Received: y with"),
    ],
    ids=["nothing", "dataset", "too few labels", "other classes", "tensors"],
)
def test_data_that_are_no_batch_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        made().balance(data)
