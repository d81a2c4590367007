"""Tests of `weight="balanced"`: against NumPy, after a resume, on replicas, from files."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X = np.random.default_rng(0).normal(size=(13, 4)).astype("float32")
Y = np.arange(13) % 3
WEIGHTS = np.linspace(0.5, 2.0, 13).astype("float32")


def net(name, seed, width=5):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(width, "tanh", name="hidden"), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((4,)), *layers], name=name)


def hint(weight="balanced", **arguments):
    return mr.Feature("hint", at="hidden", adapter=None, weight=weight, **arguments)


def made(knowledge=None, loss=LOSS, labels=1.0, seed=1, **arguments):
    knowledge = hint() if knowledge is None else knowledge
    distiller = mr.Distiller(
        student=net("student", seed),
        teacher=net("teacher", 9),
        knowledge=knowledge,
        supervised_weight=labels,
    )
    distiller.compile(keras.optimizers.SGD(0.1), loss, **{"run_eagerly": True, **arguments})
    return distiller


def dense(layer, x):
    kernel, bias = layer.get_weights()
    return x.astype("float64") @ kernel + bias


def by_hand(distiller, x, y, weights=None):
    """The means of the cross-entropy and of the hint, times the sample weights."""
    weights = np.ones(len(x)) if weights is None else weights
    student, teacher = (
        np.tanh(dense(model.layers[0], x)) for model in (distiller.student, distiller.teacher)
    )
    logits = dense(distiller.student.layers[1], student)
    ce = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(x)), y]
    distance = np.mean((student - teacher) ** 2, axis=1)
    return np.mean(weights * ce), np.mean(weights * distance)


def weight_of(distiller, student="student", index=-1):
    return float(distiller.knowledge[student][index].weight)


def said(function, *args, **arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*args, **arguments)
    return [str(one.message) for one in caught if one.category is UserWarning]


def test_the_first_batch_sets_it():
    distiller = made(labels=0.5)
    ce, distance = by_hand(distiller, X, Y, WEIGHTS)
    found = distiller.train_on_batch(X, Y, sample_weight=WEIGHTS, return_dict=True)
    np.testing.assert_allclose(weight_of(distiller), 0.5 * ce / distance, rtol=1e-5)
    np.testing.assert_allclose(found["hint"], distance, rtol=1e-5)
    np.testing.assert_allclose(found["loss"], 2 * 0.5 * ce, rtol=1e-5)


def test_the_update_is_that_of_the_number():
    distiller = made()
    ce, distance = by_hand(distiller, X, Y)
    other = made(hint(ce / distance))
    for one in (distiller, other):
        one.fit(X, Y, batch_size=13, epochs=3, shuffle=False, verbose=0)
    for ours, expected in zip(distiller.student.weights, other.student.weights, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [{"steps_per_execution": 2}, pytest.param({"jit_compile": True}, marks=pytest.mark.slow)],
)
def test_a_compiled_step_sets_it_once_and_is_traced_once(arguments):
    distiller = made(run_eagerly=False, **arguments)
    ce, distance = by_hand(distiller, X[:4], Y[:4])
    data = tf.data.Dataset.from_tensor_slices((X[:12], Y[:12])).batch(4, drop_remainder=True)
    distiller.fit(data.repeat(2), shuffle=False, epochs=2, steps_per_epoch=2, verbose=0)
    np.testing.assert_allclose(weight_of(distiller), ce / distance, rtol=1e-5)
    before = weight_of(distiller)
    function = distiller.train_function
    distiller.fit(data.repeat(2), shuffle=False, epochs=1, steps_per_epoch=2, verbose=0)
    assert distiller.train_function is function and weight_of(distiller) == before


def test_several_are_each_as_large_as_the_labels():
    distiller = made({"kd": "balanced", "dist": 0.3, "logit_mse": "balanced"})
    distiller.train_on_batch(X, Y)
    fresh = made({"kd": weight_of(distiller, index=0), "dist": 0.3})
    table = fresh.balance((X, Y))
    np.testing.assert_allclose(table["kd"].loss, table["ce"].loss, rtol=1e-5)
    assert not np.isclose(weight_of(distiller, index=0), weight_of(distiller))


def test_without_labels_it_is_as_large_as_the_knowledge_with_weights():
    distiller = made([mr.Response("logit_mse", weight=0.7), hint()], loss=None)
    _, distance = by_hand(distiller, X, Y)
    found = distiller.train_on_batch(X, return_dict=True)
    np.testing.assert_allclose(weight_of(distiller), 0.7 * found["logit_mse"] / distance, rtol=1e-5)


def test_alone_it_is_an_error():
    with pytest.raises(ValueError, match=r"Compile with a loss, or give one weight.*\['hint'\]"):
        made(loss=None)


def test_a_term_has_to_say_whose_it_is():
    class Own(mr.Distiller):
        def build_terms(self):
            compute = self.offline_terms()[1].compute
            return [mr.distillers.Term("own", compute, 1.0)]

    distiller = Own(student=net("s", 1), teacher=net("t", 2), knowledge=hint())
    with pytest.raises(ValueError, match=r"Term\(\.\.\., knowledge=\.\.\.\).*\['hint'\]"):
        distiller.compile("sgd", LOSS)


def test_balance_shows_what_a_batch_would_set_and_what_is_set():
    distiller = made(labels=0.5)
    ce, distance = by_hand(distiller, X, Y)
    table = distiller.balance((X, Y))
    np.testing.assert_allclose(table["hint"].weight, 0.5 * ce / distance, rtol=1e-5)
    np.testing.assert_allclose(table["hint"].loss, 0.5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"weight of 'hint' is 'balanced' and has no value yet"):
        distiller.all_knowledge()[0].weight  # noqa: B018
    distiller.train_on_batch(X, Y)
    assert distiller.balance((X[:2], Y[:2]))["hint"].weight == weight_of(distiller)


def test_an_evaluation_that_needs_it_says_so():
    distiller = made(evaluate_knowledge=True)
    for evaluate in (distiller.evaluate, distiller.test_on_batch):
        with pytest.raises(ValueError, match=r"\['hint'\] has no value yet, and the loss of this"):
            evaluate(X, Y)
    distiller.fit(X, Y, batch_size=13, validation_data=(X, Y), verbose=0)
    ce, distance = by_hand(distiller, X, Y)
    found = distiller.evaluate(X, Y, batch_size=13, verbose=0, return_dict=True)
    np.testing.assert_allclose(found["loss"], ce + weight_of(distiller) * distance, rtol=1e-5)
    made().evaluate(X, Y, verbose=0)


def test_a_batch_that_does_not_tell_is_waited_out():
    distiller = made()
    same = [distiller.teacher.get_weights(), distiller.student.get_weights()]
    distiller.student.set_weights(same[0])
    (text,) = said(distiller.fit, X, Y, batch_size=13, verbose=0)
    assert "weight='balanced' of ['hint'] was not set, and the term did not count" in text
    distiller.student.set_weights(same[1])
    ce, distance = by_hand(distiller, X, Y)
    assert said(distiller.fit, X, Y, batch_size=13, verbose=0) == []
    np.testing.assert_allclose(weight_of(distiller), ce / distance, rtol=1e-5)


def test_a_skipped_step_does_not_set_it():
    distiller = made(on_nonfinite="skip", run_eagerly=False)
    (text,) = said(distiller.train_on_batch, np.full_like(X, np.nan), Y)
    assert "was skipped" in text
    assert "was not set" in said(distiller.fit, np.full_like(X, np.nan), Y, verbose=0)[-1]
    ce, distance = by_hand(distiller, X, Y)
    distiller.train_on_batch(X, Y)
    np.testing.assert_allclose(weight_of(distiller), ce / distance, rtol=1e-5)


def test_it_stays_through_compile_and_is_set_anew_on_request():
    distiller = made()
    distiller.train_on_batch(X, Y)
    before = weight_of(distiller)
    distiller.compile("sgd", LOSS, run_eagerly=True)
    distiller.train_on_batch(X[:4], Y[:4])
    assert weight_of(distiller) == before
    distiller.all_knowledge()[0].weight = "balanced"
    ce, distance = by_hand(distiller, X[:4], Y[:4])
    distiller.train_on_batch(X[:4], Y[:4])
    np.testing.assert_allclose(weight_of(distiller), ce / distance, rtol=1e-5)
    distiller.all_knowledge()[0].weight = 3.0
    distiller.train_on_batch(X, Y)
    assert weight_of(distiller) == 3.0 == distiller.all_knowledge()[0].get_config()["weight"]


@pytest.mark.parametrize("trained", [True, False])
def test_files_keep_it(trained, tmp_path):
    distiller = made()
    if trained:
        distiller.train_on_batch(X, Y)
    distiller.save(tmp_path / "all.keras")
    distiller.save_weights(tmp_path / "own.weights.h5")
    loaded, other = keras.models.load_model(tmp_path / "all.keras"), made(seed=2)
    other.load_weights(tmp_path / "own.weights.h5")
    for one in (loaded, other):
        assert one.all_knowledge()[0].get_config()["weight"] == "balanced"
        assert one.all_knowledge()[0].has_no_weight is not trained
        if trained:
            one.train_on_batch(X[:3], Y[:3])
            assert weight_of(one) == weight_of(distiller)


def test_a_copy_begins_anew():
    first = made()
    first.train_on_batch(X, Y)
    again = made(first.all_knowledge()[0])
    assert again.all_knowledge()[0] is not first.all_knowledge()[0]
    assert again.all_knowledge()[0].has_no_weight


class StopError(Exception):
    pass


@pytest.mark.slow
def test_a_resumed_run_is_exact(tmp_path):
    def run(folder, stops=False, seed=1):
        distiller = made(seed=seed)

        def stop(batch, logs=None):
            if stops and batch == 2:
                raise StopError

        callbacks = [keras.callbacks.LambdaCallback(on_train_batch_end=stop)]
        if folder:
            callbacks.insert(0, mr.callbacks.Resume(folder, every=1))
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(3)
        distiller.fit(data, shuffle=False, epochs=2, callbacks=callbacks, verbose=0)
        return distiller

    expected = run(None)
    with pytest.raises(StopError):
        run(tmp_path, stops=True)
    resumed = run(tmp_path, seed=2)
    for ours, theirs in zip(resumed.variables, expected.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert weight_of(resumed) == weight_of(expected)


@pytest.mark.slow
def test_two_replicas_equal_one(two_replicas):
    """The means are over the batch of both; the last one leaves a replica without a sample."""
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    one = made(run_eagerly=False)
    ce, distance = by_hand(one, X[:4], Y[:4])
    with two_replicas.scope():
        two = made(run_eagerly=False)
    assert two.all_knowledge()[0].has_no_weight
    for distiller in (one, two):
        distiller.fit(data, shuffle=False, verbose=0)
    values = two_replicas.experimental_local_results(two.all_knowledge()[0].weight.value)
    np.testing.assert_allclose([float(v) for v in values], [ce / distance] * 2, rtol=1e-5)
    for ours, expected in zip(two.variables, one.variables, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_modreduce_normalizes_by_what_was_set():
    modreduce = mr.ModReduce(
        teacher=net("t", 9),
        students={"a": net("a", 1), "b": net("b", 2)},
        knowledge={"a": [mr.Response("kd", weight=2.0), hint()]},
        aggregator="mean",
        online_weight=mr.schedules.Linear(1.0, 0.25, steps=1),
        multipliers={"a": 10.0},
    )
    modreduce.compile("sgd", LOSS, run_eagerly=True)
    one = mr.Distiller(student=modreduce.students["a"], teacher=modreduce.teacher, knowledge="kd")
    ce, distance = by_hand(one, X, Y)
    modreduce.train_on_batch(X, Y)  # at an online weight of 1 the knowledge counts 0
    expected = ce / distance
    np.testing.assert_allclose(weight_of(modreduce, "a"), expected, rtol=1e-5)
    found = {name: float(weight) for name, weight in modreduce.term_weights().items()}
    factor = 0.75 * 10.0 / (1.0 + 2.0 + expected)
    np.testing.assert_allclose(found["a/hint"], factor * expected, rtol=1e-5)
    np.testing.assert_allclose(found["a/ce"], factor, rtol=1e-5)


def test_what_it_cannot_be():
    with pytest.raises(ValueError, match=r"compares with the terms of fit.*or staged=False"):
        hint(staged=True)
    with pytest.raises(ValueError, match=r"cannot become 'balanced' after construction"):
        hint(1.0).weight = "balanced"
    with pytest.raises(ValueError, match=r"a number, 'balanced' or a schedule"):
        hint("balance")
    with pytest.raises(ValueError, match=r"not negative, 'balanced', or a schedule"):
        hint(-1.0)
