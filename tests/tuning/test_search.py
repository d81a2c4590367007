"""Tests of searches: every tuner, the best student's weights, resuming, and the objective."""

import keras
import keras_tuner
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.tuning import Search


@pytest.mark.slow
def test_the_best_student_has_the_weights_of_the_best_epoch_of_the_best_trial(build, run, tmp_path):
    kept = {}

    class Keep(keras.callbacks.Callback):
        def __deepcopy__(self, memo):
            return Keep()

        def on_epoch_end(self, epoch, logs=None):
            kept[logs["val_loss"]] = self.model.student.get_weights()
            if epoch == 1:  # the next epochs are worse than the second
                self.model.optimizer.learning_rate = 100.0

    values = keras_tuner.HyperParameters()
    values.Fixed("weight/kd", 0.01)  # labels teach, so that the second epoch is better
    search = Search(
        build, objective="val_loss", directory=tmp_path, max_trials=2, hyperparameters=values
    )
    results = run(search, epochs=4, callbacks=[Keep()])
    best = results.rows[0]
    assert best["epoch"] == 2
    assert best["score"] == min(kept)
    weights = search.best_student().get_weights()
    for ours, expected in zip(weights, kept[best["score"]], strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert len(kept) == 8


@pytest.mark.slow
def test_the_teacher_is_one_object_and_keeps_its_weights(build, run, teacher, tmp_path):
    before = teacher.get_weights()
    seen = []

    def watched(hp):
        distiller = build(hp)
        seen.append(distiller.teacher)
        return distiller

    search = Search(watched, directory=tmp_path, max_trials=2)
    run(search)
    assert search.best_distiller().teacher is teacher
    assert len(seen) >= 4
    assert all(one is teacher for one in seen)
    for now, expected in zip(teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, expected)


@pytest.mark.slow
def test_a_search_of_the_same_folder_goes_on_and_repeats_no_finished_trial(build, run, tmp_path):
    trained = []

    def fit(hp, distiller, *args, **kwargs):
        trained.append(dict(hp.values))
        return distiller.fit(*args, **kwargs)

    def search(trials, **options):
        model = mr.tuning.DistillerHyperModel(build, fit=fit)
        return Search(model, directory=tmp_path, max_trials=trials, seed=1, **options)

    first = run(search(2))
    assert len(trained) == 2
    again = search(2)
    assert again.results().rows == first.rows
    assert run(again).rows == first.rows
    assert len(trained) == 2
    more = run(search(3))
    assert len(trained) == 3
    old = [row for row in more.rows if row["trial"] in "01"]
    assert old == first.rows
    run(search(1, overwrite=True))
    assert len(trained) == 4
    assert len(search(1).results().rows) == 1


def test_an_interrupted_trial_is_run_again_with_its_values(build, run, tmp_path):
    trained = []

    def fit(hp, distiller, *args, **kwargs):
        trained.append(dict(hp.values))
        if len(trained) == 2:
            raise KeyboardInterrupt
        return distiller.fit(*args, **kwargs)

    model = mr.tuning.DistillerHyperModel(build, fit=fit)
    with pytest.raises(KeyboardInterrupt):
        run(Search(model, directory=tmp_path, max_trials=2, seed=1))
    going_on = Search(model, directory=tmp_path, max_trials=2, seed=1)
    assert [row["status"] for row in going_on.results().rows] == ["COMPLETED", "RUNNING"]
    results = run(going_on)
    assert [row["status"] for row in results.rows] == ["COMPLETED"] * 2
    assert trained[2] == trained[1]
    assert len(trained) == 3


@pytest.mark.slow
def test_of_several_students_the_one_that_the_objective_names_is_returned(
    build_peers, run, data, tmp_path
):
    search = Search(
        build_peers, objective="val_large/accuracy", directory=tmp_path, max_trials=2, seed=1
    )
    best = run(search).rows[0]
    student = search.best_student()
    assert student.name == "large"
    right = student.predict(data[0][:32], verbose=0).argmax(axis=1) == data[1][:32]
    assert right.mean() == pytest.approx(best["score"], abs=1e-7)
