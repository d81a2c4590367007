"""The benchmark of photographs on a phone: its parts, and its rows at tiny size."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr


@pytest.fixture
def program():
    from benchmarks.accuracy import solar_cells

    return solar_cells


def cells(size):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (50, size, size, 3), "uint8")
    return images, np.repeat([0, 1], [30, 20])


def test_parts_are_disjoint_and_alike(program):
    images, classes = cells(4)
    parts = program.split(images, classes)
    assert {name: np.bincount(y).tolist() for name, (_, y) in parts.items()} == {
        "test": [6, 4],
        "validation": [3, 2],
        "train": [21, 14],
    }
    rows = {image.tobytes() for x, _ in parts.values() for image in x}
    assert len(rows) == 50


def test_both_methods_see_the_same_images(program):
    program.FLAGS(["program", "--batch=7"])
    part = program.split(*cells(4))["train"]
    with mr.data.in_epoch(1):
        one, other = ([x.numpy() for x, _ in program.batches(part, 3)] for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_a_student_has_few_images_by_its_seed(program):
    program.FLAGS(["program", "--labels=9"])
    part = program.split(*cells(4))["train"]
    images, classes = program.few(part, 1)
    again, other = program.few(part, 1)[0], program.few(part, 2)[0]
    known = {image.tobytes(): one for image, one in zip(*part, strict=True)}
    assert [known[image.tobytes()] for image in images] == classes.tolist()
    assert len(np.unique(images, axis=0)) == 9
    np.testing.assert_array_equal(images, again)
    assert not np.array_equal(images, other)


@pytest.mark.slow
def test_every_method_has_a_row_and_is_run_once(program, monkeypatch, tmp_path, capsys):
    from benchmarks import common

    def network(name, seed):
        keras.utils.set_random_seed(seed)
        return mr.models.convnet(num_classes=2, widths=(4, 8), input_shape=(32, 32, 3), name=name)

    monkeypatch.setattr(program, "photographs", cells)
    monkeypatch.setattr(program, "network", network)
    output = tmp_path / "rows.jsonl"
    settings = [
        "--size=32",
        "--labels=33",
        "--seeds=1",
        "--teacher_epochs=1",
        "--epochs=1",
        "--batch=7",
    ]
    program.FLAGS(["program", *settings, f"--folder={tmp_path}", f"--output={output}"])
    for _ in range(2):
        program.main(None)
    rows = common.read_rows(output)
    assert [row["method"] for row in rows] == ["labels", "kd"]
    assert rows[0]["teacher"] == rows[1]["teacher"]
    assert rows[0]["bytes"] == (tmp_path / "labels_0.tflite").stat().st_size
    assert all(0 <= row["int8_agreement"] <= 1 for row in rows)
    said = capsys.readouterr().out
    assert f"| 33 labels and the teacher (KD) | {rows[0]['parameters']:,} | " in said
