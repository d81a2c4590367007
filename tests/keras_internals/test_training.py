"""What is internal in training as the package relies on it: `fit`, callbacks, datasets, tuners.

A test that fails here names what a new version has changed; `make test-next` runs them against
pre-releases.
"""

import threading

import h5py
import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf

from modreduce_keras import keras_internals
from tests.support.models.small import Epochs, compiled, data


def test_the_epoch_that_fit_begins_with_is_read_after_training_begins():
    model = compiled()
    assert keras_internals.begins_at(model) is None
    callback = Epochs(lambda model: keras_internals.begin_at(model, 2))
    model.fit(*data(), epochs=4, callbacks=[callback], verbose=0)
    assert callback.seen == [2, 3]
    assert keras_internals.begins_at(model) == 2
    keras_internals.begin_at(model, None)
    callback = Epochs()
    model.fit(*data(), epochs=2, callbacks=[callback], verbose=0)
    assert callback.seen == [0, 1]


def test_the_epoch_that_fit_begins_with_is_tested_for_truth_once_when_it_is_read():
    tested = []

    class Number(int):
        def __bool__(self):
            tested.append(int(self))
            return True

    callback = Epochs(lambda model: keras_internals.begin_at(model, Number(1)))
    compiled().fit(*data(), epochs=2, callbacks=[callback], verbose=0)
    assert callback.seen == [1]
    assert tested == [1]


@pytest.mark.parametrize("way", ["fit", "train_on_batch"])
def test_the_batch_that_a_model_is_built_on_before_training(way):
    seen, built_on = [], []

    @keras_internals.builds_on_local_batch
    class Own(keras.Model):
        def build(self, shape):
            built_on.append(shape[0])
            self.head = keras.layers.Dense(1)
            self.head.build(shape)
            self.built = True

        def call(self, inputs):
            return self.head(inputs)

        def batch_to_build_on(self, iterator):
            *_, batches = next(iter(iterator))
            seen.append(next(batches)[0].shape)
            x, y = data(2)
            return x, y, None

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = Own()
        model.compile("sgd", "mse")
    x, y = data()
    model.fit(x, y, batch_size=4, verbose=0) if way == "fit" else model.train_on_batch(x, y)
    assert seen == ([(4, 3)] if way == "fit" else [])
    assert built_on[0] == (2 if way == "fit" else 4)


def test_a_step_is_wrapped_outside_of_what_is_compiled():
    traced = []

    @keras_internals.wraps_step
    class Own(keras.Sequential):
        def around_step(self, step):
            def wrapped(batch):
                traced.append(tf.nest.map_structure(lambda tensor: tensor.shape[1:], batch[0]))
                return step(batch)

            return wrapped

    model = Own([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=True)
    dataset = tf.data.Dataset.from_tensors(data())
    model.fit(dataset, shuffle=False, verbose=0)
    model.evaluate(dataset, verbose=0)
    model.predict(dataset, verbose=0)
    assert traced == [(3,)] * 3


def test_attributes_that_callbacks_make_anew_exist_and_are_no_others_of_keras():
    class Callback(keras.callbacks.Callback):
        pass

    assert keras_internals.made_anew(Callback()) == {"_model", "params"}
    monitors = keras.callbacks.EarlyStopping("loss", min_delta=0.5, mode="min")
    bar = keras.callbacks.ProgbarLogger()
    model = compiled()
    model.fit(*data(), epochs=1, callbacks=[monitors, bar], verbose=0)
    for callback in (monitors, bar):
        assert keras_internals.made_anew(callback) <= set(vars(callback))
    assert vars(monitors)["min_delta"] == -0.5


def test_attributes_of_the_csv_logger_that_are_made_anew(tmp_path):
    logger = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    compiled().fit(*data(), epochs=1, callbacks=[logger], verbose=0)
    assert {"csv_file", "writer", "append_header"} <= keras_internals.made_anew(logger)
    assert keras_internals.made_anew(logger) <= set(vars(logger))


def test_what_fit_is_doing_now():
    found = []
    callback = Epochs(
        lambda model: found.append(keras_internals.running_fit()),
        lambda: found.append(keras_internals.running_fit()),
    )
    x, y = data()
    dataset, validation = tf.data.Dataset.from_tensors((x, y)), (x, y)
    assert keras_internals.running_fit() is None
    model = compiled()
    arguments = {"epochs": 3, "initial_epoch": 1, "callbacks": [callback], "verbose": 0}
    arguments["shuffle"] = False
    model.fit(dataset, validation_data=validation, **arguments)
    assert keras_internals.running_fit() is None
    assert [(fit.first, fit.epoch) for fit in found] == [(1, None), (1, 1), (1, 2)]
    assert all(fit.callbacks[0] is callback for fit in found)
    assert any(isinstance(one, keras.callbacks.History) for one in found[0].callbacks)
    assert all(fit.data[0] is dataset and fit.data[1] is validation for fit in found)
    assert found[0].batches is found[2].batches is not None
    assert not found[0].goes_on
    model.fit(dataset.repeat(), steps_per_epoch=2, **arguments)
    assert found[-1].goes_on and found[-1].batches is not found[0].batches


def test_what_fits_of_other_threads_are_doing():
    seen, go_on, begun = [], threading.Event(), threading.Event()

    def wait():
        begun.set()
        assert go_on.wait(60)

    def look():
        seen.append(keras_internals.running_fits())

    model = compiled()
    arguments = {"epochs": 2, "initial_epoch": 1, "callbacks": [Epochs(at_epoch=wait)]}
    other = threading.Thread(target=lambda: model.fit(*data(), verbose=0, **arguments))
    other.start()
    try:
        assert begun.wait(60)
        look()
        compiled().fit(*data(), callbacks=[Epochs(at_epoch=look)], verbose=0)
    finally:
        go_on.set()
        other.join()
    (own, others), (own_in_fit, others_in_fit) = seen
    assert own == [] and [fit.epoch for fit in own_in_fit] == [0]
    for found in (others, others_in_fit):
        assert [[(fit.first, fit.epoch) for fit in fits] for fits in found] == [[(1, 1)]]


def test_the_datasets_that_a_dataset_is_made_of():
    first = tf.data.Dataset.range(4)
    batched = first.batch(2)
    assert keras_internals.inputs_of(batched) == [first]
    both = tf.data.Dataset.zip((first, batched))
    assert keras_internals.inputs_of(both) == [first, batched]
    assert keras_internals.inputs_of(first) == []
    assert keras_internals.inputs_of(first.take(2).with_options(tf.data.Options())) != []
    distributed = tf.distribute.MirroredStrategy(["CPU:0"]).experimental_distribute_dataset(batched)
    for other in (distributed, object(), np.ones(3), keras.Input((1,)), None):
        assert keras_internals.inputs_of(other) == []


def test_whether_a_dataset_is_shuffled_anew_in_each_epoch():
    dataset = tf.data.Dataset.range(8)
    assert not keras_internals.reshuffles(dataset)
    assert keras_internals.reshuffles(dataset.shuffle(8))
    assert keras_internals.reshuffles(dataset.shuffle(8, seed=1, reshuffle_each_iteration=True))
    assert not keras_internals.reshuffles(dataset.shuffle(8, reshuffle_each_iteration=False))
    assert not keras_internals.reshuffles(dataset.shuffle(8).batch(2))
    keras_internals.set_reshuffles(dataset)
    assert keras_internals.reshuffles(dataset)


def test_the_trials_that_a_search_runs_again(tmp_path):
    oracle = keras_tuner.RandomSearch(
        lambda hp: compiled(), objective="loss", directory=tmp_path, max_trials=2
    ).oracle
    trial = oracle.create_trial("tuner")
    trial.status = "INVALID"
    oracle.max_retries_per_trial = 1
    oracle.end_trial(trial)
    queue = keras_internals.retry_queue(oracle)
    assert queue == [trial.trial_id]
    queue.clear()
    assert oracle.create_trial("tuner").trial_id != trial.trial_id


def test_the_saver_and_nobody_else_is_told(tmp_path):
    class Views(keras.Model):
        def __init__(self):
            super().__init__()
            self.held = keras.layers.Dense(1)
            self.held.build((None, 3))
            self.built = True

        @property
        def a_view(self):
            return self.held

        def __dir__(self):
            hidden = {"a_view"} if keras_internals.is_asked_by_saver() else set()
            return sorted({*super().__dir__()} - hidden)

    class Inherited(Views):
        def __dir__(self):
            return super().__dir__()

    for cls in (Views, Inherited):
        assert "a_view" in dir(cls())
        cls().save_weights(tmp_path / "model.weights.h5")
        with h5py.File(tmp_path / "model.weights.h5") as file:
            assert "held" in file
            assert "a_view" not in file
