"""Tests of every tuner, and of trials under a strategy and in mixed precision."""

import keras
import keras_tuner
import pytest

import modreduce_keras as mr
from modreduce_keras.tuning import Search

pytestmark = pytest.mark.slow

TUNERS = {
    "random": {"max_trials": 2},
    "bayesian": {"max_trials": 3, "num_initial_points": 2},
    "hyperband": {"max_epochs": 2, "factor": 2},
    "grid": {"max_trials": 2},
    keras_tuner.RandomSearch: {"max_trials": 1},
}


@pytest.mark.parametrize("tuner", TUNERS, ids=str)
def test_each_tuner_searches_and_its_best_student_scores_what_was_reported(
    tuner, build, run, data, tmp_path
):
    search = Search(build, tuner=tuner, directory=tmp_path, seed=1, **TUNERS[tuner])
    results = run(search)
    expected = TUNERS[tuner].get("max_trials", 5)
    assert [row["status"] for row in results.rows] == ["COMPLETED"] * expected
    best = results.rows[0]
    assert best["score"] == max(row["score"] for row in results.rows)
    values = search.best_hyperparameters()
    assert (best["temperature"], best["weight/kd"]) == (values["temperature"], values["weight/kd"])
    student = search.best_student()
    right = student.predict(data[0][:32], verbose=0).argmax(axis=1) == data[1][:32]
    assert right.mean() == pytest.approx(best["score"], abs=1e-7)


def test_of_several_students_without_a_named_one_the_best_by_validation_is_returned(
    build_peers, run, data, tmp_path
):
    search = Search(build_peers, objective="val_loss", directory=tmp_path, max_trials=1)
    run(search)
    distiller = search.best_distiller()
    accuracy = {
        name: (one.predict(data[0][:32], verbose=0).argmax(axis=1) == data[1][:32]).mean()
        for name, one in distiller.students.items()
    }
    assert accuracy[search.best_student().name] == max(accuracy.values())


def test_trials_run_under_a_strategy(network, run, data, tmp_path, two_replicas):
    with two_replicas.scope():
        teacher = network("teacher")
    replicas = []

    def make(hp):
        response = mr.Response(mr.losses.KD(temperature=mr.tuning.Space(hp).temperature()))
        distiller = mr.Distiller(student=network("student"), teacher=teacher, knowledge=[response])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
        replicas.append(distiller.distribute_strategy.num_replicas_in_sync)
        return distiller

    search = Search(make, directory=tmp_path, max_trials=1, strategy=two_replicas)
    best = run(search).rows[0]
    assert set(replicas) == {2}
    right = search.best_student().predict(data[0][:32], verbose=0).argmax(axis=1) == data[1][:32]
    assert right.mean() == pytest.approx(best["score"], abs=1e-7)


def test_mixed_precision_lasts_for_all_trials(build, run, tmp_path, mixed_bfloat16):
    policies = []

    def watched(hp):
        distiller = build(hp)
        policies.append(distiller.student.layers[-1].compute_dtype)
        return distiller

    run(Search(watched, directory=tmp_path, max_trials=2))
    assert set(policies) == {"bfloat16"}
