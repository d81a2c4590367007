"""Tests of the callbacks that classify embeddings, against scikit-learn and plain loops."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.callbacks import LinearProbe, NearestNeighbors

RANDOM = np.random.default_rng(0)
CENTRES = RANDOM.normal(size=(3, 5))


def samples(number, seed):
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, number)
    return (CENTRES[y] + 1.2 * random.normal(size=(number, 5))).astype("float32"), y


X, Y = samples(60, 1)
VALIDATION = samples(40, 2)


def net(name=None):
    layers = [
        keras.Input((5,)),
        keras.layers.Dense(4, "tanh", name="hidden"),
        keras.layers.Dense(3),
    ]
    return keras.Sequential(layers, name=name)


def embeddings(student, x):
    return np.tanh(x @ student.weights[0].numpy() + student.weights[1].numpy()).astype("float64")


def fitted(probe, epochs=1, **students):
    students = students or {"student": net()}
    if len(students) == 1:
        distiller = mr.Distiller(student=students["student"], teacher=net(), knowledge="kd")
    else:
        distiller = mr.PeerDistiller(students=students, aggregator="mutual")
    distiller.compile(keras.optimizers.SGD(0.0))
    return distiller, distiller.fit(X, callbacks=[probe], epochs=epochs, verbose=0).history


def knn(student, k, temperature):
    (known, held_out), right = (embeddings(student, x) for x in (X, VALIDATION[0])), 0
    for row, expected in zip(held_out, VALIDATION[1], strict=True):
        cosines = known @ row / np.linalg.norm(known, axis=1) / np.linalg.norm(row)
        votes = np.zeros(3)
        for neighbour in np.argsort(-cosines)[:k]:
            votes[Y[neighbour]] += np.exp(cosines[neighbour] / temperature)
        right += votes.argmax() == expected
    return right / len(held_out)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.5), (100, 0.07)])
def test_neighbours_vote_as_in_a_loop(k, temperature):
    probe = NearestNeighbors(X, Y, validation_data=VALIDATION, k=k, temperature=temperature)
    distiller, logs = fitted(probe)
    expected = knn(distiller.student, k, temperature)
    assert logs["val_knn_accuracy"] == [pytest.approx(expected)]
    assert 0.4 < expected < 1.0


def test_the_probe_is_the_ridge_regression_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    probe = LinearProbe(X, Y, validation_data=VALIDATION, l2=0.3)
    distiller, logs = fitted(probe)
    h, others = (embeddings(distiller.student, x) for x in (X, VALIDATION[0]))
    mean, std = h.mean(axis=0), h.std(axis=0)
    ridge = linear_model.Ridge(alpha=0.3 * len(h)).fit((h - mean) / std, np.eye(3)[Y])
    scores = ridge.predict((others - mean) / std)
    expected = (scores.argmax(axis=1) == VALIDATION[1]).mean()
    assert logs["val_linear_probe_accuracy"] == [pytest.approx(expected)]
    assert 0.4 < expected < 1.0


def test_unlabelled_samples_are_left_out_and_labels_may_be_one_hot():
    partly = np.where(np.arange(60) < 30, Y, -1)
    every = NearestNeighbors(X[:30], np.eye(3)[Y[:30]], validation_data=VALIDATION, k=3)
    some = NearestNeighbors(X, partly[:, None], validation_data=VALIDATION, k=3)
    distiller, logs = fitted(every)
    some.set_model(distiller)
    some.on_train_begin()
    assert some.measure() == {"val_knn_accuracy": logs["val_knn_accuracy"][0]}


def test_maps_are_averaged_and_each_of_several_students_is_measured():
    x = RANDOM.normal(size=(12, 6, 6, 1)).astype("float32")
    y = np.arange(12) % 3
    students = {
        name: mr.models.get("convnet", num_classes=3, widths=(4, 4), input_shape=(6, 6, 1))
        for name in ("a", "b")
    }
    peers = mr.PeerDistiller(students=students, aggregator="mutual")
    peers.compile(keras.optimizers.SGD(0.0))
    at_map = LinearProbe(x, y, validation_data=(x, y), at="stage1")
    logs = peers.fit(x, callbacks=[at_map], verbose=0).history
    for name, student in students.items():
        features = mr.TapReader(student, ["stage1"])(x).features["stage1"].numpy()
        means = features.astype("float64").mean(axis=(1, 2))
        expected = (at_map.predict_classes(means, y, means) == y).mean()
        assert logs[f"val_{name}/linear_probe_accuracy"] == [pytest.approx(expected, abs=0.1)]


def test_it_measures_every_few_epochs_and_a_plain_model_too(tmp_path):
    probe = NearestNeighbors(X, Y, validation_data=VALIDATION, every=2)
    student = net()
    student.compile(keras.optimizers.SGD(0.0), "mse")
    resume = mr.callbacks.Resume(tmp_path, callbacks=[probe])
    distiller, _ = fitted(probe, student=student)
    calls = []
    measure = probe.measure
    probe.measure = lambda: calls.append(1) or measure()
    given = {"shuffle": False, "epochs": 4, "verbose": 0}
    measured = distiller.fit(X, callbacks=[probe, resume], **given).history
    assert len(calls) == 3
    assert len(measured["val_knn_accuracy"]) == 4
    history = student.fit(X, np.zeros((60, 3)), callbacks=[probe], verbose=0).history
    assert "val_knn_accuracy" in history


def test_an_embedding_that_is_not_finite_has_no_accuracy():
    student = net()
    student.set_weights([np.nan * weight for weight in student.get_weights()])
    student.compile(keras.optimizers.SGD(0.0), "mse")
    for probe in (NearestNeighbors, LinearProbe):
        watched = probe(X, Y, validation_data=VALIDATION)
        logs = student.fit(X, np.zeros((60, 3)), callbacks=[watched], verbose=0).history
        assert np.isnan(logs[f"val_{probe.log}"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation_data": X}, r"held-out samples \(x, y\)"),
        ({"x": X[:5]}, "one sample for each of 60 labels y"),
        ({"y": np.full(60, -1)}, "a label that is not -1"),
        ({"y": np.full(60, -2)}, "from 0 on, or -1"),
        ({"y": np.full(60, 0.5)}, "class indices"),
        ({"k": 0}, "k must be a positive integer"),
        ({"temperature": 0}, "temperature must be .* above 0"),
        ({"every": 0}, "every must be"),
    ],
)
def test_mistakes_are_told(arguments, message):
    given = {"x": X, "y": Y, "validation_data": VALIDATION} | arguments
    with pytest.raises(ValueError, match=f"{message}.*Received"):
        NearestNeighbors(given.pop("x"), given.pop("y"), **given)


def test_an_unknown_tap_is_told_when_training_begins():
    with pytest.raises(ValueError, match=r"Unknown tap 'nowhere'"):
        fitted(NearestNeighbors(X, Y, validation_data=VALIDATION, at="nowhere"))
