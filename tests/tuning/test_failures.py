"""Tests of failing trials: each is reported, and no search with failures ends in silence."""

import itertools

import keras
import pytest
from absl import logging

import modreduce_keras as mr
from modreduce_keras.tuning import Search, SearchError


@pytest.fixture
def failing(build):
    """A hypermodel of which the trials of the given numbers fail."""

    def make(*numbers):
        count = iter(range(100))

        def fit(hp, distiller, *args, **kwargs):
            if next(count) in numbers:
                raise RuntimeError("no\nmemory")
            return distiller.fit(*args, **kwargs)

        return mr.tuning.DistillerHyperModel(build, fit=fit)

    return make


@pytest.fixture
def told(monkeypatch):
    """What is logged as an error."""
    lines = []
    monkeypatch.setattr(logging, "error", lambda text, *args: lines.append(text % args))
    return lines


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Keras, told again by pytest.warns
def test_a_failed_trial_is_told_at_once_and_the_search_warns(failing, run, told, tmp_path):
    search = Search(failing(1), directory=tmp_path, max_trials=3, seed=1)
    with pytest.warns(RuntimeWarning, match="1 of 3 trials of the search failed:\n- trial 1 "):
        results = run(search)
    (lost,) = search.failures()
    assert lost.trial == "1"
    assert lost.reason == "RuntimeError: no memory"
    assert set(lost.values) == {"temperature", "weight/kd"}
    assert told == [f"Failed: {lost}"]
    assert [row["status"] for row in results.rows] == ["COMPLETED", "COMPLETED", "FAILED"]
    assert results.rows[-1]["error"] == "RuntimeError: no memory"
    assert results.rows[-1]["score"] is None
    search.best_student()


def test_a_search_can_raise_where_some_trials_failed(failing, run, told, tmp_path):
    given = {"directory": tmp_path, "max_trials": 2, "failed_trials": "raise", "seed": 1}
    search = Search(failing(0), **given)
    with pytest.raises(SearchError, match="1 of 2 trials") as raised:
        run(search)
    assert [one.trial for one in raised.value.failures] == ["0"]
    assert len(search.results().completed()) == 1
    with pytest.raises(SearchError, match="1 of 2 trials"):  # when going on, too
        run(Search(failing(), **given))


def test_a_search_whose_trials_all_failed_is_an_error(failing, run, told, tmp_path):
    search = Search(failing(0, 1), directory=tmp_path, max_trials=2)
    with pytest.raises(SearchError, match=r"(?s)2 of 2 trials.*trial 0 .*trial 1 "):
        run(search)
    with pytest.raises(SearchError, match=r"No trial has been completed\. 2 of 2 trials"):
        search.best_student()
    with pytest.raises(ValueError, match="No trial of the search has been completed, of 2"):
        search.results().completed()


def test_a_search_that_has_not_run_says_so(failing, tmp_path):
    search = Search(failing(), directory=tmp_path, max_trials=2)
    for ask in (search.best_student, search.best_distiller):
        with pytest.raises(SearchError, match=r"No trial has been run: call search\.run"):
            ask()


def test_too_many_failures_in_a_row_end_the_search(failing, run, told, tmp_path):
    search = Search(
        failing(1, 2), directory=tmp_path, max_trials=5, max_consecutive_failed_trials=2
    )
    with pytest.raises(SearchError, match=r"ended early. 2 of 3 trials") as raised:
        run(search)
    assert len(raised.value.failures) == len(told) == 2
    search.best_student()


def test_a_failed_trial_can_be_tried_again(failing, run, told, tmp_path):
    search = Search(failing(0), directory=tmp_path, max_trials=1, max_retries_per_trial=1)
    results = run(search)
    assert [row["status"] for row in results.rows] == ["COMPLETED"]
    assert told[0].startswith("Failed (it is tried again): trial 0 ")
    assert search.failures() == []


@pytest.mark.filterwarnings("ignore:All-NaN axis")
def test_an_objective_that_is_not_a_number_is_a_failure(build, run, told, tmp_path):
    def broken(hp):
        distiller = build(hp)
        distiller.optimizer.learning_rate = float("nan")
        return distiller

    search = Search(broken, objective="val_loss", directory=tmp_path, max_trials=1)
    with pytest.raises(SearchError, match="the objective was not a number"):
        run(search)
    assert len(told) == 1


def test_another_error_of_the_search_is_not_taken_for_failed_trials(build, run, tmp_path):
    search = Search(build, directory=tmp_path, max_trials=1)

    def broken(*args, **kwargs):
        raise RuntimeError("disk full")

    search.tuner.search = broken
    with pytest.raises(RuntimeError, match="disk full") as raised:
        run(search)
    assert not isinstance(raised.value, SearchError)


def test_another_error_after_some_failures_is_not_taken_for_too_many(failing, run, told, tmp_path):
    search = Search(failing(0), directory=tmp_path, max_trials=3)
    end, number = search.tuner.on_trial_end, itertools.count()

    def broken(trial):
        end(trial)
        if next(number) == 0:
            raise RuntimeError("2 consecutive failures of the disk")

    search.tuner.on_trial_end = broken
    with pytest.raises(RuntimeError, match="of the disk") as raised:
        run(search)
    assert not isinstance(raised.value, SearchError)


def test_an_objective_that_no_epoch_logs_ends_the_search_with_what_there_is(build, run, tmp_path):
    search = Search(build, objective="val_other/accuracy", directory=tmp_path, max_trials=2)
    with pytest.raises(ValueError, match=r"one of \[.*'val_accuracy'.*'val_other/accuracy'"):
        run(search)


def test_validation_in_some_epochs_only_is_refused(build, run, tmp_path):
    search = Search(build, directory=tmp_path, max_trials=1)
    with pytest.raises(ValueError, match=r"validation_freq=1.*epoch 1"):
        run(search, epochs=2, validation_freq=2)


@pytest.mark.parametrize(
    ("validation", "needed"),
    [
        ({"validation_data": None}, True),
        ({"validation_data": None, "validation_split": 0.5}, False),
    ],
)
def test_an_objective_of_validation_needs_one(build, run, tmp_path, validation, needed):
    search = Search(build, directory=tmp_path, max_trials=1)
    if needed:
        with pytest.raises(ValueError, match="'val_accuracy' needs validation_data="):
            run(search, **validation)
    else:
        assert len(run(search, **validation).rows) == 1


def test_without_validation_an_objective_of_training_will_do(build, run, tmp_path):
    search = Search(build, objective="accuracy", directory=tmp_path, max_trials=1)
    assert len(run(search, validation_data=None).completed()) == 1


def test_what_build_must_not_return_later_ends_the_search(build, run, tmp_path):
    calls = iter(range(100))
    search = Search(
        lambda hp: build(hp) if next(calls) < 1 else keras.Sequential(),
        directory=tmp_path,
        max_trials=2,
    )
    with pytest.raises(TypeError, match="build must return a distiller"):
        run(search)
