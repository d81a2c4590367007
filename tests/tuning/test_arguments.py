"""Tests of what hypermodels, searches and objectives refuse, and of the missing extra."""

import sys

import keras
import keras_tuner
import pytest

from modreduce_keras.tuning import DistillerHyperModel, Search, extra
from modreduce_keras.tuning.objective import resolve
from tests.support import programs


@pytest.fixture
def hp():
    return keras_tuner.HyperParameters()


def test_functions_must_be_functions(build):
    with pytest.raises(TypeError, match=r"build must be a function of hp.*Received: build=3"):
        DistillerHyperModel(3)
    with pytest.raises(TypeError, match=r"fit must be a function.*Received: fit=3"):
        DistillerHyperModel(build, fit=3)


def test_what_is_no_compiled_distiller_is_refused(network, build, hp):
    with pytest.raises(TypeError, match=r"must return a distiller, such as mr.Distiller"):
        DistillerHyperModel(lambda hp: network("student")).build(hp)

    def uncompiled(hp):
        distiller = build(hp)
        distiller.compiled = False
        return distiller

    with pytest.raises(ValueError, match=r"compiled distiller.*not compiled"):
        DistillerHyperModel(uncompiled).build(hp)


def test_a_student_of_an_earlier_trial_is_refused(build, hp):
    made = build(hp)
    model = DistillerHyperModel(lambda hp: made)
    assert model.build(hp) is made
    with pytest.raises(ValueError, match=r"new students for each trial.*Received: \['student'\]"):
        model.build(hp)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tuner": "annealing"}, ValueError, "tuner must be one of .*'bayesian'.*'annealing'"),
        ({"tuner": int}, TypeError, "subclass of keras_tuner.Tuner"),
        ({"objective": 3}, TypeError, "objective must be one name.*objective=3"),
        ({"objective": ["a", "b"]}, TypeError, "objective must be one name"),
        ({"objective": "val_top5"}, ValueError, "direction='max' or direction='min'.*val_top5"),
        ({"direction": "up"}, ValueError, r"direction must be one of \['max', 'min'\]"),
        ({"directory": ""}, ValueError, "directory must be the path of a folder"),
        ({"directory": 3}, ValueError, "directory must be the path of a folder"),
        ({"name": "a/b"}, ValueError, "name must be the name of a folder.*'a/b'"),
        (
            {"failed_trials": "hide"},
            ValueError,
            r"failed_trials must be one of \['warn', 'raise'\]",
        ),
        ({"overwrite": 1}, ValueError, "overwrite must be True or False"),
        ({"strategy": "pods"}, ValueError, "name must be one of .*'mirrored'.*'pods'"),
        ({"loss": "mse"}, ValueError, "loss is not an option of Search: compile the distiller"),
        ({"distribution_strategy": 1}, ValueError, "say strategy="),
        ({"trials": 3}, ValueError, "trials"),
    ],
)
def test_a_search_refuses(build, tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        Search(build, **{"directory": tmp_path, **arguments})


def test_a_file_is_no_folder(build, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"must be the path of a folder"):
        Search(build, directory=tmp_path / "file")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("val_accuracy", None), "max"),
        (("val_response/accuracy", None), "max"),
        (("val_small/sparse_top_k_categorical_accuracy", None), "max"),
        (("val_loss", None), "min"),
        (("val_a/ce", None), "min"),
        (("mean_absolute_error", None), "min"),
        (("val_top5", "max"), "max"),
        ((keras_tuner.Objective("val_top5", "min"), None), "min"),
    ],
)
def test_the_direction_is_told_from_the_name_or_given(given, expected):
    objective = resolve(*given)
    assert objective.direction == expected
    assert objective.name == getattr(given[0], "name", given[0])


def test_what_is_missing_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"needs sklearn.*pip install modreduce-keras\[tune\]"):
        extra.require(*extra.BAYESIAN)


def test_a_bayesian_search_says_what_it_needs(monkeypatch, build, tmp_path):
    monkeypatch.setitem(sys.modules, "scipy", None)
    Search(build, directory=tmp_path / "random", max_trials=1)
    with pytest.raises(ImportError, match=r"needs scipy.*modreduce-keras\[tune\]"):
        Search(build, tuner="bayesian", directory=tmp_path)


@pytest.mark.slow
def test_the_library_does_without_until_tuning_is_used(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "import modreduce_keras as mr\n"
        "assert 'keras_tuner' not in sys.modules\n"
        "sys.modules['keras_tuner'] = None\n"
        "assert 'modreduce_keras.tuning' not in sys.modules\n"
        "try:\n    mr.tuning\n"
        "except ImportError as error:\n    print(error)\n"
        "try:\n    mr.tuned\n"
        "except AttributeError as error:\n    print(error)\n"
    )
    done = programs.run(program)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("mr.tuning needs keras_tuner")
    assert first.endswith("pip install modreduce-keras[tune]")
    assert second == "module 'modreduce_keras' has no attribute 'tuned'"


def test_a_trial_of_another_keras_model_is_no_distiller(tmp_path):
    with pytest.raises(TypeError, match=r"build must return a distiller"):
        Search(lambda hp: keras.Sequential(), directory=tmp_path)
