"""find_student: what is refused and measured, who is ranked, the Pareto front, its messages."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.tuning import candidates
from modreduce_keras.tuning import find as find_module
from modreduce_keras.tuning.candidates import Candidate
from modreduce_keras.tuning.found import FoundStudents

SHAPE = (8, 8, 1)


def net(widths):
    return mr.models.get("convnet", num_classes=3, widths=widths, input_shape=SHAPE)


def family(hp):
    """Width and depth; the second width is asked for only where there is a second stage."""
    widths = [hp.Choice("width", [2, 4, 64])]
    if hp.Boolean("deep"):
        with hp.conditional_scope("deep", [True]):
            widths.append(hp.Choice("second", [3, 5]))
    return net(widths)


def adds(widths):
    """Multiply-adds by hand: 3×3 convolutions of stride 2, and the classifier."""
    total, size, before = 0, 8, 1
    for width in widths:
        size //= 2
        total += size * size * 9 * before * width
        before = width
    return total + before * 3


def widths_of(row):
    return [row["width"], *([row["second"]] if row["deep"] else [])]


@pytest.fixture
def data(random):
    return random.normal(size=(12, *SHAPE)).astype("float32"), np.arange(12) % 3


def find(data, folder, **arguments):
    keras.utils.set_random_seed(1)
    given = {"budget": {"multiply_adds": 1000}, "epochs": 2, "optimizer": "sgd", **arguments}
    return mr.tuning.find_student(
        net((6,)), family, data=data, validation_data=data, directory=folder, **given
    )


def test_all_different_students_of_a_family_are_found():
    found = candidates.drawn(family, 30, seed=0)
    expected = {(w, False, None) for w in (2, 4, 64)}
    expected |= {(w, True, s) for w in (2, 4, 64) for s in (3, 5)}
    assert {(v["width"], v["deep"], v.get("second")) for v in found} == expected
    assert found[0] == {"width": 2, "deep": False}
    assert candidates.drawn(family, 4, seed=3) == candidates.drawn(family, 4, seed=3)
    assert len(candidates.drawn(family, 4, seed=3)) == 4
    assert candidates.drawn(lambda hp: net((2,)), 5, seed=0) == [{}]


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_what_is_over_the_budget_is_refused_before_it_trains(data, tmp_path):
    found = find(data, tmp_path, epochs=1)
    assert len(found.rows) == 9
    for row in found.rows:
        assert row["multiply_adds"] == adds(widths_of(row))
        assert (row["score"] is None) == (row["multiply_adds"] > 1000) == bool(row["refused"])
        # The cheapest measure decides first.
        assert (row["kib"] is None) == bool(row["refused"])
    best = found.completed()[0]
    logits = found.student.predict(data[0], verbose=0)
    assert best["multiply_adds"] == mr.evaluation.multiply_adds(found.student)
    teacher_free = found.student.count_params()
    assert teacher_free == net(widths_of(best)).count_params()
    assert logits.shape == (12, 3)
    path = mr.export.to_tflite(net(widths_of(best)), tmp_path / "again.tflite")
    assert best["kib"] == path.stat().st_size / 1024
    assert 0.0 < best["milliseconds"] < 100.0
    assert best["score"] == min(row["score"] for row in found.completed())
    picture = found.plot(tmp_path / "front.png", "multiply_adds")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_hyperband_goes_on_with_the_best_and_ranks_by_the_distance_to_the_teacher(data, tmp_path):
    keras.utils.set_random_seed(1)
    found = mr.tuning.find_student(
        net((6,)),
        lambda hp: net((hp.Choice("width", [2, 4, 8]),)),
        budget={"multiply_adds": 1e6},
        data=data,
        validation_data=data,
        directory=tmp_path,
        epochs=4,
        factor=2,
        knowledge="kd",
        optimizer="sgd",
    )
    epochs = [row["epochs"] for row in found.completed()]
    assert max(epochs) > 1
    teacher_loss = found.completed()[0]["score"]
    assert found.objective == "val_loss"
    assert teacher_loss > 0.0


def test_hyperband_begins_with_as_many_as_keras_tuner_says():
    import keras_tuner

    for epochs, factor in [(1, 3), (2, 3), (9, 3), (10, 3), (16, 2), (4, 2), (30, 4)]:
        oracle = keras_tuner.oracles.HyperbandOracle(
            objective=keras_tuner.Objective("val_loss", "min"), max_epochs=epochs, factor=factor
        )
        rounds = oracle._get_num_brackets()
        expected = oracle._get_size(rounds - 1, 0)
        assert candidates.first_round(epochs, factor) == expected, (epochs, factor)


def test_the_pareto_front_leaves_out_what_another_beats():
    def row(score, kib, milliseconds):
        costs = {"kib": kib, "milliseconds": milliseconds, "multiply_adds": None}
        return score, Candidate({"width": score}, costs, "")

    made = [row(0.9, 100.0, 3.0), row(0.8, 50.0, 4.0), row(0.7, 60.0, 1.0), row(0.6, 70.0, 2.0)]
    refused = Candidate({"width": 1}, dict.fromkeys(candidates.COSTS), "kib 300, over 200")
    scores = {index: (score, 1) for index, (score, _) in enumerate(made)}
    found = FoundStudents(
        [*(one for _, one in made), refused],
        scores,
        net((2,)),
        objective="val_accuracy",
        direction="max",
        budget={"kib": 200.0},
    )
    assert [row["score"] for row in found.pareto()] == [0.9, 0.8, 0.7]
    assert [row["score"] for row in found.pareto("kib")] == [0.9, 0.8]
    assert [row["score"] for row in found.pareto("milliseconds")] == [0.9, 0.7]
    lines = found.to_markdown().splitlines()
    assert lines[0].startswith("| width | kib | milliseconds | multiply_adds | val_accuracy |")
    assert len(lines) == 7
    assert lines[-1].endswith("| kib 300, over 200 |")


def test_what_is_wrong_is_said(data, tmp_path):
    with pytest.raises(ValueError, match=r"budget must be a dict .*'kib'"):
        find(data, tmp_path, budget={"size": 3})
    with pytest.raises(ValueError, match=r"budget\['kib'\] must be a finite number above"):
        find(data, tmp_path, budget={"kib": 0})
    with pytest.raises(ValueError, match="No student of the family is within the budget"):
        find(data, tmp_path, budget={"multiply_adds": 10})
    with pytest.raises(ValueError, match="factor must be an integer of at least 2"):
        find(data, tmp_path, factor=1)
    arguments = {"budget": {"kib": 1.0}, "data": data, "validation_data": data}
    with pytest.raises(TypeError, match="family must be a function of hp that returns a built"):
        mr.tuning.find_student(net((2,)), lambda hp: None, directory=tmp_path, **arguments)


def test_models_and_functions_that_are_swapped_are_told(data, tmp_path):
    for pair in ((family, net((2,))), (net((2,)), net((4,)))):
        with pytest.raises(
            TypeError, match=r"find_student\(teacher, family, .* Received: teacher="
        ):
            mr.tuning.find_student(
                *pair, budget={"kib": 9}, data=data, validation_data=data, directory=tmp_path
            )


def test_an_objective_of_the_training_data_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"objective='val_accuracy'. Received: objective='acc"):
        find(data, tmp_path, objective="accuracy")


def test_without_labels_there_are_no_metrics_by_default(data):
    x, _ = data
    dataset = tf.data.Dataset.from_tensor_slices
    labelled = (data, dataset(data).batch(4))
    for unlabelled in (x, (x,), (x, None), dataset(x).batch(4)):
        assert find_module._metrics("default", labelled[0], unlabelled) is None
        assert find_module._metrics(["mae"], unlabelled, unlabelled) == ["mae"]
    assert find_module._metrics("default", *labelled) == ["accuracy"]
    assert find_module._metrics(None, *labelled) is None


@pytest.mark.slow
def test_a_student_is_found_without_labels(data, tmp_path):
    keras.utils.set_random_seed(1)
    found = mr.tuning.find_student(
        net((6,)),
        lambda hp: net((hp.Choice("width", [2, 4]),)),
        budget={"multiply_adds": 1000},
        data=data[0],
        validation_data=data[0],
        directory=tmp_path,
        epochs=1,
    )
    assert sorted(row["width"] for row in found.completed()) == [2, 4]
