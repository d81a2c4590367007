"""Tests of the progress bar that shows chosen logs only."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr


@pytest.fixture
def fit(net, inputs, labels, cross_entropy):
    """Trains a small network for two epochs with some callbacks."""

    def train(*callbacks, verbose=2, **arguments):
        model = net("model")
        model.compile("sgd", cross_entropy, metrics=["accuracy"], run_eagerly=True)
        data = {"x": inputs, "y": labels, "validation_data": (inputs, labels), "epochs": 2}
        return model.fit(**data, callbacks=list(callbacks), verbose=verbose, **arguments)

    return train


def logs_of(line):
    """Returns the names of the logs in a line such as `2/2 - 0s - 9ms/step - loss: 1.0`."""
    return [part.partition(":")[0] for part in line.split(" - ")[1:] if ":" in part]


def test_only_chosen_logs_are_shown_one_line_for_each_epoch(fit, capsys):
    history = fit(mr.callbacks.ProgressBar(["val_*", "loss"]))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("Epoch")] == ["Epoch 1/2", "Epoch 2/2"]
    shown = [logs_of(line) for line in lines if " - " in line]
    assert shown == [["val_accuracy", "val_loss", "loss"]] * 2
    assert set(history.history) == {"accuracy", "loss", "val_accuracy", "val_loss"}


def test_it_takes_the_place_of_the_bar_of_keras_and_moves_with_the_batches(fit, capsys):
    fit(mr.callbacks.ProgressBar(["accuracy"]), verbose=1, batch_size=11)
    output = capsys.readouterr().out
    assert "2/2" in output
    assert "accuracy: " in output
    assert "loss" not in output


def test_it_is_silent_where_keras_is(fit, capsys):
    fit(mr.callbacks.ProgressBar(["accuracy"]), verbose=0)
    assert capsys.readouterr().out == ""


def test_evaluation_shows_the_chosen_logs_too(net, inputs, labels, cross_entropy, capsys):
    model = net("model")
    model.compile("sgd", cross_entropy, metrics=["accuracy"], run_eagerly=True)
    model.evaluate(inputs, labels, callbacks=[mr.callbacks.ProgressBar(["acc*"])], verbose=2)
    assert logs_of(capsys.readouterr().out) == ["accuracy"]


def test_a_log_that_two_patterns_fit_is_shown_once_and_in_the_order_of_the_patterns():
    bar = mr.callbacks.ProgressBar(["b*", "*a", "b?"])
    assert list(bar.chosen({"a": 1, "ba": 2, "bb": 3, "c": 4})) == ["ba", "bb", "a"]
    assert mr.callbacks.ProgressBar("loss").patterns == ["loss"]


def test_a_pattern_that_fits_nothing_is_an_error_after_the_first_epoch(fit):
    with pytest.raises(ValueError, match=r"Received patterns that fit none: \['accurcy'\]"):
        fit(mr.callbacks.ProgressBar(["loss", "accurcy"]), verbose=0)


def test_logs_of_a_validation_that_comes_later_are_waited_for(fit, capsys):
    fit(mr.callbacks.ProgressBar(["val_loss"]), validation_freq=2)
    shown = [logs_of(line) for line in capsys.readouterr().out.splitlines() if " - " in line]
    assert shown == [[], ["val_loss"]]


def test_every_training_is_checked_anew(fit):
    bar = mr.callbacks.ProgressBar(["val_accuracy"])
    fit(bar, verbose=0)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse", run_eagerly=True)
    with pytest.raises(ValueError, match="fit none"):
        model.fit(np.ones((1, 1)), np.ones(1), callbacks=[bar], verbose=0)


def test_wrong_patterns_are_refused():
    with pytest.raises(ValueError, match=r"at least one log. Received: none"):
        mr.callbacks.ProgressBar([])
    with pytest.raises(TypeError, match=r"names or patterns of them. Received: 3"):
        mr.callbacks.ProgressBar(["loss", 3])


STUDENTS = ("response", "feature", "relation")
SHOWN = [
    "loss",
    *(f"{name}/accuracy" for name in (*STUDENTS, "ensemble")),
    "val_loss",
    *(f"val_{name}/accuracy" for name in (*STUDENTS, "ensemble")),
]


class Seen(keras.callbacks.Callback):
    """Notes the names of the logs that it gets."""

    def on_train_batch_end(self, batch, logs=None):
        self.in_batch = set(logs)

    def on_epoch_end(self, epoch, logs=None):
        self.in_epoch = set(logs)


@pytest.fixture
def modreduce(net, teacher, cross_entropy):
    """Compiles a ModReduce of three students, which logs some thirty values."""

    def build(metrics=("accuracy",), loss=cross_entropy, **arguments):
        modreduce = mr.ModReduce(
            teacher=teacher,
            students={name: net(name) for name in STUDENTS},
            knowledge={
                name: [mr.Response("kd"), mr.Relation("rkd_distance", at="logits")]
                for name in STUDENTS
            },
            **arguments,
        )
        optimizer = keras.optimizers.SGD(0.1)
        modreduce.compile(optimizer, loss, metrics=metrics and list(metrics), run_eagerly=True)
        return modreduce

    return build


def last_line(output):
    """Returns the names of the logs in the line of a bar as it was left."""
    return logs_of(output.replace("\b", "").replace("\r", "\n").rstrip().splitlines()[-1])


@pytest.mark.parametrize("verbose", [1, 2, "auto"])
def test_fit_shows_the_total_and_accuracies_and_everything_sees_all_logs(
    modreduce, inputs, labels, tmp_path, capsys, verbose
):
    seen, path = Seen(), tmp_path / "logs.csv"
    callbacks = [seen, keras.callbacks.CSVLogger(path)]
    data = {"x": inputs, "y": labels, "validation_data": (inputs, labels), "batch_size": 11}
    history = modreduce().fit(**data, callbacks=callbacks, verbose=verbose).history
    assert last_line(capsys.readouterr().out) == SHOWN
    assert len(history) > 26
    assert {"feature/rkd_distance", "relation/ensemble_weight", "val_feature/ce"} <= set(history)
    assert seen.in_epoch == set(history)
    assert seen.in_batch == {name for name in history if not name.startswith("val_")}
    assert set(path.read_text().splitlines()[0].split(",")) == {"epoch", *history}


def test_evaluation_shows_the_total_and_accuracies(modreduce, inputs, labels, capsys):
    found = modreduce().evaluate(inputs, labels, verbose=2, return_dict=True)
    assert last_line(capsys.readouterr().out) == SHOWN[:5]
    assert "feature/ce" in found
    modreduce().fit(inputs, labels, verbose=0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("callback", "shown"),
    [
        (mr.callbacks.ProgressBar, SHOWN[:5]),
        (lambda: mr.callbacks.ProgressBar(["*/kd"]), [f"{n}/kd" for n in sorted(STUDENTS)]),
        (keras.callbacks.ProgbarLogger, None),
        (lambda: mr.callbacks.ProgressBar("*"), None),
    ],
)
def test_a_bar_that_is_given_takes_the_place(modreduce, inputs, labels, capsys, callback, shown):
    history = modreduce().fit(inputs, labels, callbacks=[callback()], verbose=2).history
    assert last_line(capsys.readouterr().out) == (sorted(history) if shown is None else shown)


@pytest.mark.parametrize(
    ("metrics", "more", "measure"),
    [
        (["sparse_top_k_categorical_accuracy"], {}, "sparse_top_k_categorical_accuracy"),
        ([keras.metrics.SparseCategoricalAccuracy("hits"), "accuracy"], {}, "accuracy"),
        ([keras.metrics.SparseCategoricalAccuracy("hits")], {"criterion": "ce"}, "ce"),
        (None, {}, "ce"),
    ],
)
def test_each_student_shows_one_measure(modreduce, inputs, labels, capsys, metrics, more, measure):
    modreduce(metrics, **more).fit(inputs, labels, verbose=2)
    expected = [f"{name}/{measure}" for name in (*STUDENTS, "ensemble")]
    assert last_line(capsys.readouterr().out) == ["loss", *expected]


def test_students_may_have_metrics_of_their_own_and_other_callbacks_add_logs(
    modreduce, inputs, labels, capsys
):
    model = modreduce(None)
    top = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")
    metrics = {"response": [top], "feature": ["accuracy"]}
    model.compile("sgd", model.loss, metrics=metrics, run_eagerly=True)
    rate = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)
    callbacks = [mr.callbacks.PeerMonitor(inputs), rate]
    model.fit(inputs, labels, callbacks=callbacks, verbose=2)
    assert last_line(capsys.readouterr().out) == [
        *("loss", "response/top2", "feature/accuracy", "relation/ce", "ensemble/ce"),
        *("diversity", "agreement", "learning_rate"),
    ]


def test_a_distiller_of_one_student_shows_all_logs(net, teacher, inputs, labels, capsys):
    distiller = mr.Distiller(student=net("student"), teacher=teacher, knowledge="kd")
    distiller.compile("sgd", "mse", run_eagerly=True)
    distiller.fit(inputs, np.eye(3)[labels], verbose=2)
    assert last_line(capsys.readouterr().out) == ["kd", "loss", "mean_squared_error"]
