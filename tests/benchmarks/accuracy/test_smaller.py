"""The benchmark of smaller students: its rows at tiny size, and its tables."""

import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.data import cifar
from tests.support.about import ABOUT

TINY = ["--labels=64", "--teacher_epochs=1", "--epochs=1", "--more_epochs=1", "--seeds=1"]
SETTINGS = {
    "labels": 1000,
    "teacher_epochs": 8,
    "epochs": 30,
    "more_epochs": 20,
    "rounding_epochs": 10,
    "teacher": 0.9,
    "command": "python -m benchmarks.accuracy.smaller.run",
    **ABOUT,
}


@pytest.mark.slow
def test_a_part_has_rows_and_is_not_run_again(tmp_path, capsys):
    from benchmarks import common
    from benchmarks.accuracy.smaller import run

    output = tmp_path / "smaller.jsonl"
    run.FLAGS(["program", *TINY, "--parts=low_rank", f"--output={output}"])
    run.main(None)
    made, scratch = rows = common.read_rows(output)
    assert [(row["contender"], row["level"]) for row in rows] == [("made", 8), ("scratch", 8)]
    assert made["multiply_adds"] == scratch["multiply_adds"] < 849_680
    assert made["parameters"] == scratch["parameters"] < 37_550
    run.main(None)
    assert common.read_rows(output) == rows
    assert capsys.readouterr().out.count("teacher:") == 2


CIFAR100 = ["--data=cifar100", "--network=convnet", "--labels=100", "--augmentations=2"]
TINY_CIFAR100 = [*CIFAR100, "--epochs=1", "--more_epochs=1", "--rounding_epochs=1", "--seeds=1"]


@pytest.fixture
def few_of_cifar100(monkeypatch, random):
    """Makes CIFAR-100 small and random: of each class four images to train on, and four to test."""
    from benchmarks.accuracy.smaller import images

    pixels = random.integers(0, 256, size=(400, 32, 32, 3), dtype="uint8")
    labels = np.tile(np.arange(100), 4)
    monkeypatch.setattr(cifar, "_load", lambda part, data_dir, download: (pixels, labels))
    monkeypatch.setattr(images, "HELD_OUT", 400)
    return pixels, labels


@pytest.mark.slow
def test_parts_of_cifar100_learn_from_a_teacher_of_a_file(tmp_path, few_of_cifar100):
    from benchmarks import common
    from benchmarks.accuracy.smaller import run

    output, file = tmp_path / "smaller.jsonl", tmp_path / "teacher.keras"
    mr.models.get("convnet", num_classes=100, input_shape=(32, 32, 3)).save(file)
    flags = [*TINY_CIFAR100, f"--teacher={file}", f"--output={output}"]
    run.FLAGS(["program", *flags, "--parts=low_rank", "--parts=pipeline"])
    run.main(None)
    made, scratch, *files = common.read_rows(output)
    assert [(row["contender"], row["level"]) for row in (made, scratch)] == [
        ("made", 16),
        ("scratch", 16),
    ]
    assert made["multiply_adds"] == scratch["multiply_adds"] < 2_593_280
    assert {row["data"] for row in (made, scratch, *files)} == {"cifar100"}
    assert made["labels"] == 100
    # Files of a part whose machine may be busy are not timed.
    assert [row["milliseconds"] for row in files] == [None] * 5
    assert files[0]["bytes"] > files[1]["bytes"]


@pytest.mark.slow
def test_images_of_cifar100_come_with_the_outputs_for_their_crops(tmp_path, few_of_cifar100):
    from benchmarks.accuracy.smaller.images import CIFAR100Images, answers

    teacher = mr.models.get("convnet", num_classes=100, input_shape=(32, 32, 3), widths=(4, 8))
    given = {"batch": 50, "augmentations": 2, "data_dir": "given"}
    images = CIFAR100Images(100, teacher, 1, tmp_path, **given)
    student = mr.models.get("convnet", num_classes=100, input_shape=(32, 32, 3), widths=(4,))
    distiller = mr.Distiller(student=student, teacher=images.outputs, knowledge="kd")
    distiller.compile("sgd")
    distiller.fit(images.batches(taught=True), epochs=3, shuffle=False, verbose=0)
    plain = [images.batches(taught=False) for _ in range(2)]
    epochs = [np.concatenate([x for x, _ in data.as_numpy_iterator()]) for data in plain]
    np.testing.assert_array_equal(*epochs)
    pixels, labels = few_of_cifar100
    validation, classes = images.first("validation", 2500)
    assert len(classes) == 300
    assert len(images.some(30)) == 30
    # The students' images are the first of each class; those that validate are the others.
    np.testing.assert_array_equal(images.first("train", 100)[1], labels[:100])
    np.testing.assert_array_equal(classes, labels[100:])
    mean, std = np.array(cifar.CIFAR100_MEAN), np.array(cifar.CIFAR100_STD)
    expected = (pixels[100:] / 255 - mean) / std
    np.testing.assert_allclose(validation, expected, rtol=1e-4, atol=1e-5)
    assert answers(teacher, validation).shape == (300, 100)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--parts=search"], "--parts must be of"),
        (["--parts=low_rank", "--teacher=nowhere.keras"], "needs a trained teacher"),
    ],
)
def test_flags_that_cifar100_has_no_use_for(flags, message):
    from benchmarks.accuracy.smaller import run

    run.FLAGS(["program", "--data=cifar100", *flags])
    with pytest.raises(run.app.UsageError, match=message):
        run.main(None)


def of_sparsity(contender, level, seed, accuracy):
    row = {"part": "sparsity", "contender": contender, "level": level, "gzipped": 2048}
    return {**row, **SETTINGS, "seed": seed, "accuracy": accuracy}


def test_gains_are_those_of_the_same_seed():
    from benchmarks.accuracy.smaller.table import SMALLER

    accuracies = {"labels": (0.7, 0.8), "kd": (0.8, 0.84), "modreduce": (0.71, 0.83)}
    rows = [
        of_sparsity(way, level, seed, value - (level or 0.0))
        for way, values in accuracies.items()
        for level in (None, 0.0, 0.5)
        for seed, value in enumerate(values)
    ]
    files, made_of = SMALLER["smaller_sparsity"]
    assert files == ("smaller",)
    lines = made_of({"smaller": rows}).splitlines()
    # The deviations of 10 and 4, and of 1 and 3.
    gains = "+7.0 ± 4.2 | +2.0 ± 1.4 | 2.0 |"
    assert lines[2] == f"| 0 % | 75.0 ± 7.1 | 82.0 ± 2.8 | 77.0 ± 8.5 | {gains}"
    assert lines[3] == f"| 50 % | 25.0 ± 7.1 | 32.0 ± 2.8 | 27.0 ± 8.5 | {gains}"
    assert lines[5] == "Seeds: 2. The teacher: 90.0 %."
    assert made_of({"smaller": []}) == "*Not measured yet.*"


def of_file(contender, level, data):
    row = {"part": "pipeline", "contender": contender, "level": level, **SETTINGS, "seed": 1}
    given = {"augmentations": 4, "data": data, "milliseconds": 0.5 if data != "cifar100" else None}
    return {**row, **given, "accuracy": 0.5, "bytes": 2048, "gzipped": 1024}


def test_a_data_set_has_its_own_tables_without_times_of_a_busy_machine():
    from benchmarks.accuracy.smaller.table import FILES, SMALLER

    rows = [of_file(*key, data) for data in ("fashion_mnist", "cifar100") for key in FILES]
    del rows[0]["data"]  # as in rows from before there was a choice
    of_sample, of_cifar100 = (
        SMALLER[f"smaller_{name}pipeline"][1]({"smaller": rows}).splitlines()
        for name in ("", "cifar100_")
    )
    assert of_sample[2] == "| distilled | 50.0 | 2.0 | 1.0 | 0.500 |"
    assert of_cifar100[2] == "| distilled | 50.0 | 2.0 | 1.0 |"
    assert "`python -m benchmarks.accuracy.smaller.run` (labels 1000, teacher" in of_sample[-1]
    command = "`python -m benchmarks.accuracy.smaller.run --data=cifar100` (labels 1000, augment"
    assert command in of_cifar100[-1]
    assert "smaller_cifar100_search" not in SMALLER
