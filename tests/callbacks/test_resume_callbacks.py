"""Callbacks that `Resume` is told of: their state after a kill is that of an uninterrupted run."""

import csv
import datetime
import io

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from tests.support.trainings.scored import EPOCHS, KilledError, Scores, X, Y, stopping, train
from tests.support.trainings.small_trainings import assert_same, distiller, plain, values

both = pytest.mark.parametrize("build", [plain, distiller])
slowly_both = pytest.mark.parametrize(
    "build", [plain, pytest.param(distiller, marks=pytest.mark.slow)]
)


@both
def test_early_stopping_gives_the_best_weights(build, tmp_path):
    expected, history = train(build, tmp_path / "once", stopping())
    assert history.epoch == [0, 1, 2, 3, 4]
    train(build, tmp_path / "run", stopping(), kill_in=3)
    after = stopping()
    model, resumed = train(build, tmp_path / "run", after, seed=2)
    assert_same(values(model), values(expected))
    assert (resumed.epoch, resumed.history) == (history.epoch, history.history)
    assert (after.best_epoch, after.stopped_epoch) == (1, 4)
    for array in after.best_weights:
        if isinstance(array, np.ndarray):
            array += 1  # it is writable


@both
@pytest.mark.parametrize("named", [True, False])
def test_a_run_that_a_callback_ended_stays_ended(build, named, tmp_path):
    def run(seed, epochs):
        stop = stopping()
        model = build(seed)
        resume = mr.callbacks.Resume(tmp_path, callbacks=[stop] if named else [])
        steps = []
        counting = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: steps.append(1)
        )
        callbacks = [Scores(), stop, counting, resume]
        history = model.fit(
            X, Y, epochs=epochs, shuffle=False, verbose=0, batch_size=4, callbacks=callbacks
        )
        return values(model), history, len(steps)

    expected, history, steps = run(1, EPOCHS)
    assert steps == 15
    for seed, epochs in ((2, EPOCHS), (3, EPOCHS), (4, 2 * EPOCHS)):
        found, again, steps = run(seed, epochs)
        assert steps == 0
        assert_same(found, expected)
        assert (again.epoch, again.history) == (history.epoch, history.history)


def test_killed_between_the_last_epoch_and_the_end(tmp_path):
    class Kill(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            raise KilledError

    def run(folder, *others):
        stop = stopping()
        model = plain(1)
        callbacks = [*others, Scores(), stop, mr.callbacks.Resume(folder, callbacks=[stop])]
        try:
            model.fit(X, Y, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=callbacks)
        except KilledError:
            return None
        return values(model)

    expected = run(tmp_path / "once")
    assert run(tmp_path / "run", Kill()) is None
    assert_same(run(tmp_path / "run"), expected)
    assert_same(run(tmp_path / "run"), expected)


def test_a_finished_run_has_the_weights_that_fit_left_and_goes_on_from_the_last_epoch(tmp_path):
    def run(folder, epochs, named):
        stop = keras.callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True)
        model = plain(1)
        resume = mr.callbacks.Resume(folder, callbacks=[stop] if named else [])
        callbacks = [Scores(), stop, resume]
        model.fit(X, Y, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
        return values(model)

    for named in (True, False):
        folder = tmp_path / str(named)
        best = run(folder, 3, named)
        assert_same(run(folder, 3, named), best)
        longer = plain(1)
        longer.fit(X, Y, epochs=5, shuffle=False, verbose=0)
        run(folder, 5, named)
        for ended in folder.glob("*-ended.checkpoint"):
            ended.unlink()
        last = plain(7)
        assert mr.callbacks.Resume(folder).restore(last)
        assert_same(values(last), values(longer))


def test_a_run_that_went_to_its_end_by_itself_leaves_one_file_more_only_where_it_differs(tmp_path):
    def run(folder, **optimizer):
        model = plain(1, keras.optimizers.SGD(0.5, **optimizer))
        arguments = {"shuffle": False, "verbose": 0, "callbacks": [mr.callbacks.Resume(folder)]}
        model.fit(X, Y, epochs=2, **arguments)
        return values(model), sorted(path.name for path in folder.glob("*-ended.checkpoint"))

    assert run(tmp_path / "a")[1] == []
    averages = {"use_ema": True, "ema_momentum": 0.5}
    first, names = run(tmp_path / "b", **averages)
    assert names == ["epoch-000002-step-000000000-ended.checkpoint"]
    assert_same(run(tmp_path / "b", **averages)[0], first)


class Everything(keras.callbacks.Callback):
    """Remembers something of every kind, some of it from the first epoch on only."""

    def __init__(self, patience=3, factor=1.0):
        super().__init__()
        self.patience, self.factor = patience, factor
        self.count, self.seen, self.name = 0, [], "start"
        self.mean = keras.metrics.Mean()
        self.variable = keras.Variable(0.0, trainable=False)
        self.random = np.random.default_rng(5)
        self.table = {}
        self.log = print
        self.optimizer = None

    def on_train_begin(self, logs=None):
        self.optimizer = self.model.optimizer
        self.kernel = self.model.trainable_variables[0]

    def on_epoch_end(self, epoch, logs=None):
        self.count += 1
        self.factor *= 0.5
        self.name += f"-{epoch}"
        self.seen.append(np.float32(logs["loss"]))
        self.mean.update_state(logs["loss"])
        self.variable.assign_add(1.0)
        self.table[epoch] = {"loss": logs["loss"], "nested": [(epoch, None)]}
        self.weights = self.model.get_weights()
        self.weights[0] += 0.0  # as arrays may be changed
        self.noise = self.random.normal(size=2)
        self.when = datetime.datetime(2024, 1, 1 + epoch)
        logs["noise"] = self.noise.tolist()
        self.model.optimizer.learning_rate = 0.5 * self.factor * (1 + 0.1 * self.noise[0])

    def state(self):
        return [
            *(self.count, self.factor, self.name, self.seen, self.table, self.when),
            float(self.mean.result()),
            float(keras.ops.convert_to_numpy(self.variable)),
            self.noise.tolist(),
            [weight.tolist() for weight in self.weights],
            self.random.normal(),
        ]


@slowly_both
@pytest.mark.parametrize("kill_in", [1, 4])
def test_everything_that_a_callback_holds(build, kill_in, tmp_path):
    once = Everything()
    expected, history = train(build, tmp_path / "once", once)
    train(build, tmp_path / "run", Everything(), kill_in=kill_in)
    after = Everything(patience=9)
    model, resumed = train(build, tmp_path / "run", after, seed=2)
    assert after.state() == once.state()
    assert after.patience == 9  # an argument that training has not changed
    assert after.optimizer is model.optimizer
    assert after.kernel is model.trainable_variables[0]
    assert_same(values(model), values(expected))
    assert resumed.history == history.history


def rows(path):
    return list(csv.reader(io.StringIO(path.read_text())))


@pytest.mark.parametrize("kill_after_row", [True, False])
def test_csv_logger(kill_after_row, tmp_path):
    class KillLate(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                raise KilledError

    def run(name, *others):
        logger = keras.callbacks.CSVLogger(tmp_path / f"{name}.csv", append=True)
        resume = mr.callbacks.Resume(tmp_path / name, callbacks=[logger])
        order = [logger, *others] if kill_after_row else [*others, logger]
        arguments = {"epochs": 5, "shuffle": False, "verbose": 0}
        try:
            plain(1).fit(X, Y, callbacks=[Scores(), *order, resume], **arguments)
        except KilledError:
            logger.csv_file.close()
        return rows(tmp_path / f"{name}.csv")

    expected = run("once")
    assert [row[0] for row in expected] == ["epoch", "0", "1", "2", "3", "4"]
    assert len(run("run", KillLate())) == (4 if kill_after_row else 3)
    assert run("run") == expected
    assert run("run") == expected


def test_a_csv_logger_that_overwrites_is_refused(tmp_path):
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    with pytest.raises(ValueError, match=r"CSVLogger\('.*log\.csv', append=True\)\. Received"):
        train(plain, tmp_path / "run", logger)
    logger.csv_file.close()


def averages():
    return keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5)


@pytest.mark.parametrize(
    ("make", "optimizer"),
    [
        (lambda folder: keras.callbacks.ReduceLROnPlateau("val_loss", patience=1), None),
        (
            lambda folder: keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, min_delta=2.0),
            None,
        ),
        (
            lambda folder: keras.callbacks.EarlyStopping("val_loss", patience=4, min_delta=2.0),
            None,
        ),
        (lambda folder: keras.callbacks.LearningRateScheduler(lambda e, r: 0.9 * r), None),
        (
            lambda folder: keras.callbacks.ModelCheckpoint(
                folder / "best.weights.h5", "val_loss", save_best_only=True, save_weights_only=True
            ),
            None,
        ),
        (lambda folder: keras.callbacks.SwapEMAWeights(swap_on_epoch=True), averages),
        (lambda folder: keras.callbacks.SwapEMAWeights(), averages),
        (lambda folder: keras.callbacks.BackupAndRestore(folder / "backup"), None),
        (lambda folder: keras.callbacks.TerminateOnNaN(), None),
    ],
    ids=[
        "plateau",
        "wide plateau",
        "stopping",
        "scheduler",
        "checkpoint",
        "swap_on_epoch",
        "swap",
        "backup",
        "nan",
    ],
)
@pytest.mark.filterwarnings("ignore:ModelCheckpoint writes the whole distiller")
@slowly_both
def test_callbacks_of_keras(build, make, optimizer, tmp_path):
    def run(name, seed, **arguments):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        callback = make(folder)
        given = {"optimizer": optimizer and optimizer(), **arguments}
        model, history = train(build, folder / "resume", callback, seed=seed, **given)
        best = folder / "best.weights.h5"
        return model, history, best.stat().st_mtime_ns if best.exists() else None

    expected, history, _ = run("once", 1)
    *_, written = run("run", 1, kill_in=4)
    model, resumed, again = run("run", 2)
    assert_same(values(model), values(expected))
    assert resumed.history == history.history
    assert again == written  # nothing that was worse took the best one's place


@pytest.mark.slow
def test_our_own_callbacks_can_be_named(tmp_path):
    monitor = mr.callbacks.PeerMonitor(X)
    _, history = train(distiller, tmp_path / "once", monitor)
    train(distiller, tmp_path / "run", mr.callbacks.PeerMonitor(X), kill_in=3)
    after = mr.callbacks.PeerMonitor(X)
    _, resumed = train(distiller, tmp_path / "run", after, seed=2)
    assert resumed.history == history.history
    assert after.get_state() == monitor.get_state()
    assert list(after.get_state()) == [1, 2, 3, 4, 5, 6]
    train(distiller, tmp_path / "bar", mr.callbacks.ProgressBar(["loss"]), epochs=1)
