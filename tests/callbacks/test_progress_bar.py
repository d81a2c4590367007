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
        model.compile("sgd", cross_entropy, metrics=["accuracy"])
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
    model.compile("sgd", cross_entropy, metrics=["accuracy"])
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
    model.compile(loss="mse")
    with pytest.raises(ValueError, match="fit none"):
        model.fit(np.ones((1, 1)), np.ones(1), callbacks=[bar], verbose=0)


def test_wrong_patterns_are_refused():
    with pytest.raises(ValueError, match=r"at least one log. Received: none"):
        mr.callbacks.ProgressBar([])
    with pytest.raises(TypeError, match=r"names or patterns of them. Received: 3"):
        mr.callbacks.ProgressBar(["loss", 3])
