"""Objects of callbacks that make their variables late: given back, or refused before it is late."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from tests.support.trainings.small_trainings import plain

X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
Y = np.arange(12) % 3
FOUND = np.eye(3, dtype="float32")[[0, 1, 2, 0]]
LABELS = np.eye(3, dtype="float32")[[0, 1, 1, 0]]


class Holding(keras.callbacks.Callback):
    """Makes an object when it is constructed, and uses it at the end of each epoch.

    Args:
        make: Returns the object.
        use: Uses it.
        build: Is called with it when training begins.
    """

    def __init__(self, make, use, build=lambda one: None):
        super().__init__()
        self.use, self.build = use, build
        self.held = {"it": [make()]}

    @property
    def it(self):
        return self.held["it"][0]

    def on_train_begin(self, logs=None):
        self.build(self.it)

    def on_epoch_end(self, epoch, logs=None):
        self.use(self.it)


def train(folder, holding, epochs):
    callbacks = [holding, mr.callbacks.Resume(folder, callbacks=[holding])]
    model = plain(1)
    model.fit(X, Y, epochs=epochs, batch_size=12, shuffle=False, verbose=0, callbacks=callbacks)
    return holding


def update(metric):
    metric.update_state(LABELS, FOUND)


METRICS = {
    "f1": lambda: keras.metrics.F1Score(),
    "f1, micro": lambda: keras.metrics.F1Score(average="micro"),
    "r2": lambda: keras.metrics.R2Score(),
    "auc": lambda: keras.metrics.AUC(multi_label=True, num_thresholds=5),
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_built_by_their_labels_get_their_values(name, tmp_path):
    train(tmp_path, Holding(METRICS[name], update), 2)
    resumed = train(tmp_path, Holding(METRICS[name], update), 3).it
    expected = METRICS[name]()
    for _ in range(3):
        update(expected)
    assert len(resumed.variables) == len(expected.variables)
    for one, other in zip(resumed.variables, expected.variables, strict=True):
        np.testing.assert_array_equal(one, other)


class OwnMetric(keras.metrics.Metric):
    def __init__(self):
        super().__init__()
        self.total = None

    def update_state(self, y_true, y_pred, sample_weight=None):
        if self.total is None:
            self.total = self.add_variable((3,), "zeros")
        self.total.assign_add(keras.ops.sum(y_pred, axis=0))

    def result(self):
        return self.total


def build_metric(metric):
    update(metric)
    metric.reset_state()


def variables():
    return [keras.Variable([1.0, 2.0])]


def step(optimizer):
    own = VARIABLES[id(optimizer)] = VARIABLES.get(id(optimizer)) or variables()
    optimizer.apply([keras.ops.ones(2)], own)


def build_optimizer(optimizer):
    own = VARIABLES[id(optimizer)] = variables()
    optimizer.build(own)


VARIABLES = {}
LATE = {
    "metric": (OwnMetric, update, build_metric, "update_state on a sample and then reset_state"),
    "layer": (
        lambda: keras.layers.Dense(2),
        lambda layer: layer(X),
        lambda layer: layer.build((None, 3)),
        r"build\(input_shape\)",
    ),
    "optimizer": (
        lambda: keras.optimizers.Adam(0.1),
        step,
        build_optimizer,
        r"build\(variables\)",
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_others_are_refused_at_the_first_checkpoint_and_the_advice_works(name, tmp_path):
    make, use, build, advice = LATE[name]
    with pytest.raises(ValueError, match=rf"Holding.held\['it'\]\[0\], which .*{advice}"):
        train(tmp_path / "refused", Holding(make, use), 2)
    before = train(tmp_path / "run", Holding(make, use, build), 2)
    expected = [keras.ops.convert_to_numpy(one).copy() for one in before.it.variables]
    resumed = train(tmp_path / "run", Holding(make, lambda one: None, build), 2)
    for one, other in zip(resumed.it.variables, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_made_in_training_is_refused(tmp_path):
    class Late(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.mean = keras.metrics.Mean()

    with pytest.raises(ValueError, match=r"Late\.mean, which is a Mean that was not there when"):
        train(tmp_path, Late(), 2)


def test_get_state_that_returns_an_object_is_refused_when_training_begins(tmp_path):
    class Telling(keras.callbacks.Callback):
        def get_state(self):
            return [keras.metrics.Mean()]

        def set_state(self, state):
            raise NotImplementedError

    with pytest.raises(ValueError, match=r"Telling\.get_state\(\)\[0\], which is a Mean"):
        train(tmp_path, Telling(), 2)
