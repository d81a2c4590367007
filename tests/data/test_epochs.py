"""Which epoch data are read in: of `fit` in all its forms, of a block, or the next iteration."""

import inspect
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.keras_internals import running_fit

SAMPLES, BATCH = 6, 2
STEPS = SAMPLES // BATCH


@pytest.fixture
def data():
    """A dataset, and the batches of the labels 0 to 5 that were read from it."""
    x = np.arange(SAMPLES, dtype="float32")[:, None]
    shuffled = mr.data.epoch_shuffle(
        tf.data.Dataset.from_tensor_slices((x, np.arange(SAMPLES) % 3)), seed=3
    )
    return shuffled.batch(BATCH)


@pytest.fixture
def orders(data):
    """The order of each epoch."""
    found = []
    for epoch in range(8):
        with mr.data.in_epoch(epoch):
            found.append(read(data))
    assert len(set(map(tuple, found))) == 8
    return found


def read(dataset):
    return [int(number) for x, _ in dataset for number in x[:, 0]]


def noting(model):
    """Notes the inputs of every training step."""
    model.seen = []
    step = model.train_step

    def noted(batch):
        model.seen += [int(number) for number in batch[0].numpy()[:, 0]]
        return step(batch)

    model.train_step = noted
    return model


def net():
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(3)])


def plain():
    model = net()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True), run_eagerly=True)
    return noting(model)


def distiller():
    model = mr.Distiller(student=net(), teacher=net(), knowledge=[mr.Response("kd")])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True), run_eagerly=True)
    return noting(model)


both = pytest.mark.parametrize("build", [plain, distiller])
slowly_both = pytest.mark.parametrize(
    "build", [plain, pytest.param(distiller, marks=pytest.mark.slow)]
)


def fit(model, dataset, epochs=3, **arguments):
    model.fit(dataset, epochs=epochs, shuffle=False, verbose=0, **arguments)
    return model.seen


def flat(several):
    return [number for one in several for number in one]


@both
def test_every_fit_on_one_dataset_sees_the_same_orders(build, data, orders):
    read(data)  # a look shifts nothing
    for _ in range(2):
        assert fit(build(), data.prefetch(2)) == flat(orders[:3])
    assert fit(plain(), data, epochs=1) == orders[0]


@slowly_both
def test_initial_epoch(build, data, orders):
    assert fit(build(), data, epochs=4, initial_epoch=2) == flat(orders[2:4])


@slowly_both
def test_validation_and_evaluation_on_the_same_dataset_change_nothing(build, data, orders):
    model = build()

    class Reading(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            assert read(data) == orders[epoch]
            model.evaluate(data, verbose=0)

    found = fit(model, data.prefetch(2), validation_data=data, callbacks=[Reading()])
    assert found == flat(orders[:3])
    model.evaluate(data, verbose=0)
    model.seen.clear()
    assert fit(model, data) == flat(orders[:3])


@pytest.mark.parametrize("ahead", [0, 2])
def test_steps_per_epoch_counts_passes(data, orders, ahead):
    endless = data.repeat().prefetch(ahead) if ahead else data.repeat()
    for _ in range(2):
        model = plain()
        found = fit(model, endless, steps_per_epoch=2, initial_epoch=1, epochs=5)
        assert found == flat(orders[1:])[: 4 * 2 * BATCH]
    assert fit(plain(), data, steps_per_epoch=STEPS) == flat(orders[:3])


def test_a_model_that_fit_builds(data, orders):
    model = keras.Sequential([keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(True)
    model.compile("sgd", loss, metrics=["accuracy"], run_eagerly=True)
    assert fit(noting(model), data.prefetch(2)) == flat(orders[:3])


@pytest.mark.slow
def test_several_fits_of_a_search(data, orders, tmp_path):
    tuner = pytest.importorskip("keras_tuner")
    models = []

    def build(hp):
        hp.Float("rate", 0.1, 0.2)
        models.append(plain())
        return models[-1]

    search = tuner.RandomSearch(build, "val_loss", max_trials=2, directory=tmp_path)
    search.search(data, epochs=2, validation_data=data, shuffle=False, verbose=0)
    assert [model.seen for model in models if model.seen] == [flat(orders[:2])] * 2


def test_after_an_error_the_next_fit_begins_anew(data, orders):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    caught = []
    for _ in range(2):
        try:
            fit(plain(), data, callbacks=[Stop()])
        except KeyboardInterrupt as error:
            caught.append(error)  # with its frames, as a notebook keeps them
    assert fit(plain(), data) == flat(orders[:3])
    assert running_fit() is None
    assert [read(data) for _ in range(2)] == orders[:2]


def test_iterations_elsewhere_are_counted(data, orders):
    first, second = iter(data), iter(data)
    found = [[int(n) for x, _ in each for n in x[:, 0]] for each in (first, second)]
    plain().evaluate(data, verbose=0)
    assert [*found, read(data)] == [orders[0], orders[1], orders[3]]


def test_a_block(data, orders):
    with mr.data.in_epoch(4):
        assert [read(data), read(data)] == [orders[4]] * 2
        with mr.data.in_epoch(2):
            assert read(data) == orders[2]
        assert read(data) == orders[4]
    with pytest.raises(RuntimeError), mr.data.in_epoch(4):
        raise RuntimeError
    assert read(data) == orders[0]
    with (
        pytest.raises(ValueError, match=r"epoch must be an integer of at least 0.*epoch=-1"),
        mr.data.in_epoch(-1),
    ):
        pass


def test_a_fit_in_a_thread(data, orders):
    models = [plain(), plain()]
    for model in models:
        thread = threading.Thread(target=fit, args=(model, data))
        thread.start()
        thread.join()
    assert [model.seen for model in models] == [flat(orders[:3])] * 2


def shuffled():
    x = np.arange(SAMPLES, dtype="float32")[:, None]
    samples = tf.data.Dataset.from_tensor_slices((x, np.arange(SAMPLES) % 3))
    return mr.data.epoch_shuffle(samples, seed=3).batch(BATCH)


def test_with_steps_per_epoch_what_else_reads_the_data_takes_a_dataset_of_its_own(data, orders):
    class Reading(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            read(self.dataset)

    callback = Reading()
    callback.dataset = shuffled()
    found = fit(plain(), data.repeat(), steps_per_epoch=STEPS, callbacks=[callback])
    assert found == flat(orders[:3])


def in_two_threads(first, second, order):
    """Trains with one dataset in epoch 5 and, while that waits, with a second from epoch 0 on.

    Threads begin in the given order.
    """
    begun, done, seen, errors = threading.Event(), threading.Event(), [], []

    class Waiting(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            begun.set()
            done.wait(30)

    def train(dataset, callbacks=(), **arguments):
        if not callbacks:
            begun.wait(30)
        try:
            seen.append(fit(plain(), dataset, callbacks=list(callbacks), **arguments))
        except tf.errors.OpError as error:
            errors.append(error.message)

    threads = [
        threading.Thread(
            target=train, args=(first, [Waiting()]), kwargs={"epochs": 6, "initial_epoch": 5}
        ),
        threading.Thread(target=train, args=(second,), kwargs={"epochs": 2}),
    ]
    for place in order:
        threads[place].start()
    threads[1].join(30)
    done.set()
    threads[0].join(30)
    return seen, errors


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_fits_in_two_threads_with_a_dataset_each(order, data, orders):
    second = shuffled().map(lambda x, y: (x, y)).prefetch(2)
    assert in_two_threads(data, second, order) == ([flat(orders[:2]), orders[5]], [])


def test_fits_in_two_threads_that_share_a_dataset_never_read_the_others_epoch(data):
    seen, errors = in_two_threads(data, data.prefetch(1), (0, 1))
    assert len(seen) == 1
    assert "Several fits run at once" in errors[0] and "mr.data.in_epoch(epoch)" in errors[0]
    assert "fits that are in the epochs [0, 5]" in errors[0]


def test_what_is_read_of_keras_is_there():
    """The names of Keras' own variables: if they change, this says so."""
    names = inspect.unwrap(keras.Model.fit).__code__.co_varnames
    assert {"initial_epoch", "epoch", "epoch_iterator", "callbacks", "x", "validation_data"} <= set(
        names
    )
    assert running_fit() is None
