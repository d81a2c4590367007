"""StudentCheckpoint: files of the student alone, the best or all, whole and with Resume."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from tests.support.trainings.small_trainings import assert_same, distiller, net, plain, values

X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
Y = np.arange(12) % 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class KilledError(Exception):
    """Stands for a kill."""


class Scores(keras.callbacks.Callback):
    """Logs given values, by epoch; notes the weights of the students; kills where asked to."""

    def __init__(self, kill_in=None, **scores):
        super().__init__()
        self.kill_in, self.scores, self.weights = kill_in, scores, []

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.kill_in:
            raise KilledError

    def on_epoch_end(self, epoch, logs=None):
        logs.update({name: each[epoch] for name, each in self.scores.items()})
        self.weights.append({n: values(one) for n, one in self.model.students.items()})


def fit(model, scores, *callbacks, epochs=4):
    model.fit(
        X, Y, epochs=epochs, batch_size=4, shuffle=False, verbose=0, callbacks=[scores, *callbacks]
    )
    return scores


def peers():
    model = mr.PeerDistiller({"a": net(1), "b": net(2)}, aggregator="mean")
    model.compile(keras.optimizers.SGD(0.5), LOSS, metrics=["accuracy"], run_eagerly=True)
    return model


def stored(path):
    model = keras.saving.load_model(path)
    assert type(model) is keras.Sequential
    assert [type(layer) for layer in model.layers] == [keras.layers.Dense]
    assert not model.compiled
    return values(model)


def test_the_best_student_is_written_alone(tmp_path):
    path = tmp_path / "new" / "best.keras"
    checkpoint = mr.callbacks.StudentCheckpoint(path, save_best_only=True)
    scores = fit(distiller(1), Scores(val_loss=[3.0, 1.0, np.nan, 2.0]), checkpoint)
    assert_same(stored(path), scores.weights[1]["student"])
    assert checkpoint.best == {"student": -1.0}
    assert [one.name for one in path.parent.iterdir()] == ["best.keras"]


def fit_pruned(path, losses):
    """Prunes in the first two epochs of four."""
    student = mr.prune(net(1), mr.schedules.Polynomial(0.0, 0.5, steps=6))
    model = mr.Distiller(student=student, teacher=net(2), knowledge="kd")
    model.compile("sgd", LOSS, run_eagerly=True)
    checkpoint = mr.callbacks.StudentCheckpoint(path, save_best_only=True)
    fit(model, Scores(val_loss=losses), checkpoint)
    return mr.strip(keras.saving.load_model(path)).get_weights()[0]


def test_the_best_student_from_before_the_zeros_is_reported(tmp_path):
    zeros = fit_pruned(tmp_path / "late.keras", [1.0, 2.0, 3.0, 0.5]) == 0.0
    assert zeros.mean() == pytest.approx(0.5, abs=0.1)
    # 0.5 - 0.5 · 0.5³ = 0.4375
    message = r"(The best 'student' .*|'.*' is used as .*)sparsity is 0\.44 at step 3, .*at step 6"
    with pytest.warns(UserWarning, match=message) as found:
        fit_pruned(tmp_path / "early.keras", [1.0, 2.0, 3.0, 4.0])
    own = [one for one in found if "sparsity" in str(one.message)]
    assert {one.filename for one in own} == {__file__}
    texts = [str(one.message) for one in own]
    assert ["StudentCheckpoint" in text for text in texts] == [True, False]


@pytest.mark.parametrize(
    ("monitor", "mode", "best"),
    [("val_auc", "auto", 1), ("val_auc", "min", 0), ("val_kd", "auto", 0)],
)
def test_more_or_less_is_better(monitor, mode, best, tmp_path):
    arguments = {"monitor": monitor, "mode": mode, "save_best_only": True}
    checkpoint = mr.callbacks.StudentCheckpoint(tmp_path / "{epoch}.keras", **arguments)
    scores = fit(distiller(1), Scores(**{monitor: [0.1, 0.9]}), checkpoint, epochs=2)
    assert_same(stored(tmp_path / f"{best + 1}.keras"), scores.weights[best]["student"])
    assert len(list(tmp_path.iterdir())) == 1 + best


def test_each_epoch_has_a_file_by_its_logs(tmp_path):
    place = tmp_path / "{student}-{epoch:02d}-{val_loss:.1f}.keras"
    scores = fit(
        distiller(1), Scores(val_loss=[3, 1]), mr.callbacks.StudentCheckpoint(place), epochs=2
    )
    assert_same(stored(tmp_path / "student-01-3.0.keras"), scores.weights[0]["student"])
    assert_same(stored(tmp_path / "student-02-1.0.keras"), scores.weights[1]["student"])


SEVERAL = {"val_a/accuracy": [0.1, 0.6, 0.5, 0.2], "val_b/accuracy": [0.5, 0.4, 0.9, 0.9]}


@pytest.mark.parametrize("monitor", [None, "val_accuracy"])
def test_of_several_students_the_best_of_all_epochs_is_written(monitor, tmp_path):
    path = tmp_path / "{val_accuracy:.1f}.keras"
    checkpoint = mr.callbacks.StudentCheckpoint(path, monitor=monitor, save_best_only=True)
    scores = fit(peers(), Scores(**SEVERAL), checkpoint)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["0.5.keras", "0.6.keras", "0.9.keras"]
    for name, epoch, student in (("0.5", 0, "b"), ("0.6", 1, "a"), ("0.9", 2, "b")):
        assert_same(stored(tmp_path / f"{name}.keras"), scores.weights[epoch][student])


def test_each_of_several_students_has_its_own_best(tmp_path):
    path = tmp_path / "{student}.keras"
    checkpoint = mr.callbacks.StudentCheckpoint(path, monitor="val_accuracy", save_best_only=True)
    scores = fit(peers(), Scores(**SEVERAL), checkpoint)
    assert_same(stored(tmp_path / "a.keras"), scores.weights[1]["a"])
    assert_same(stored(tmp_path / "b.keras"), scores.weights[2]["b"])


def test_a_resumed_training_knows_the_best_value(tmp_path):
    def train(folder, seed, kill_in=None):
        checkpoint = mr.callbacks.StudentCheckpoint(folder / "best.keras", save_best_only=True)
        resume = mr.callbacks.Resume(folder / "run", callbacks=[checkpoint])
        scores = Scores(kill_in, val_loss=[3.0, 1.0, 2.0, 1.5])
        fit(distiller(seed), scores, checkpoint, resume)
        return checkpoint.best

    best = train(tmp_path / "once", 1)
    with pytest.raises(KilledError):
        train(tmp_path, 1, kill_in=2)
    assert train(tmp_path, 2) == best == {"student": -1.0}
    assert_same(stored(tmp_path / "best.keras"), stored(tmp_path / "once" / "best.keras"))


def test_a_file_that_fails_leaves_the_last_one(tmp_path, monkeypatch):
    path, model = tmp_path / "last.keras", distiller(1)
    fit(model, Scores(), mr.callbacks.StudentCheckpoint(path), epochs=1)
    before = path.read_bytes()

    def broken(made):
        made.write_bytes(b"half")
        raise OSError("no space")

    monkeypatch.setattr(model.student, "save", broken)
    with pytest.raises(OSError, match="no space"):
        fit(model, Scores(), mr.callbacks.StudentCheckpoint(path), epochs=1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_replicas_write_what_they_share(two_replicas, tmp_path):
    with two_replicas.scope():
        model = mr.Distiller(student=net(1), teacher=net(2), knowledge="kd")
        model.compile("sgd", LOSS)
    path = tmp_path / "best.keras"
    fit(model, Scores(), mr.callbacks.StudentCheckpoint(path), epochs=1)
    assert_same(stored(path), values(model.student))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filepath": "best.h5"}, "ends in '.keras'"),
        ({"filepath": "{epoch.keras"}, "filepath must have its places in braces"),
        ({"filepath": "a.keras", "monitor": 3}, "monitor must be a name in the logs"),
        ({"filepath": "a.keras", "mode": "most"}, "mode"),
        ({"filepath": "a.keras", "save_best_only": "yes"}, "save_best_only"),
    ],
)
def test_what_it_refuses_at_once(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        mr.callbacks.StudentCheckpoint(**arguments)


# Keras' own, which pytest.warns tells again.
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@quiet
def test_what_it_refuses_in_training(tmp_path):
    make = mr.callbacks.StudentCheckpoint
    with pytest.raises(TypeError, match=r"keras\.callbacks\.ModelCheckpoint is for other models"):
        plain(1).fit(X, Y, verbose=0, callbacks=[make(tmp_path / "a.keras")])
    with pytest.raises(ValueError, match=r"have no \['val_f1'\]"):
        missing = make(tmp_path / "a.keras", monitor="val_f1", save_best_only=True)
        fit(distiller(1), Scores(val_loss=[1.0]), missing, epochs=1)
    with pytest.raises(ValueError, match="filepath must have places for the epoch"):
        fit(distiller(1), Scores(), make(tmp_path / "{val_f1}.keras"), epochs=1)
    with pytest.warns(UserWarning, match="wrote no file: it needs validation_data"):
        fit(distiller(1), Scores(), make(tmp_path / "a.keras", save_best_only=True), epochs=1)
    with pytest.warns(UserWarning, match=r"wrote no file.*or '\{student\}' in its path"):
        fit(peers(), Scores(), make(tmp_path / "a.keras"), epochs=1)


@quiet
@pytest.mark.parametrize("weights_only", [False, True])
def test_the_checkpoint_of_keras_is_said_to_write_more(weights_only, tmp_path):
    path = tmp_path / ("all.weights.h5" if weights_only else "all.keras")
    whole = keras.callbacks.ModelCheckpoint(path, save_weights_only=weights_only)
    with pytest.warns(UserWarning, match=r"mr\.callbacks\.StudentCheckpoint"):
        fit(distiller(1), Scores(), whole, epochs=1)
