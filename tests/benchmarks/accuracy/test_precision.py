"""The benchmark of precision: rows, errors against float32, and what steps and seeds share."""

import keras
import numpy as np
import pytest
import tensorflow as tf

pytestmark = pytest.mark.slow

FOLDED, TEACHER, BOTH = (
    "float32, fused and folded",
    "bfloat16 teacher",
    "bfloat16 teacher and student",
)
FLOAT16 = "float16 teacher and student"
TINY = ["--batch=4", "--rounds=1", "--training_steps=3", "--teacher_epochs=1", "--labels=64"]


@pytest.fixture
def precision():
    from benchmarks.accuracy import precision

    return precision


@pytest.fixture
def run(precision, tmp_path):
    """Runs a part at tiny size and returns its rows."""
    from benchmarks import common

    def run(part, *flags):
        output = tmp_path / "rows.jsonl"
        precision.FLAGS(["precision", *TINY, *flags, f"--output={output}"])
        part()
        return common.read_rows(output)

    return run


@pytest.fixture
def pair(precision):
    precision.FLAGS(["precision", *TINY])
    keras.utils.set_random_seed(0)
    return precision.Pair("convnet", "convnet")


def test_steps_and_their_errors(precision, run, capsys):
    rows = {row["contender"]: row for row in run(precision.run_steps, "--pair=convnet:convnet")}
    assert list(rows) == precision.timed()
    assert set(rows) >= {"float32", FOLDED, TEACHER, BOTH}
    reference = rows.pop("float32")
    assert not {"ratio_to", "ratio_median", "wanted", "loss_error"} & reference.keys()
    assert (reference["teacher_dtype"], reference["student_policy"]) == (None, "float32")
    for row in [reference, *rows.values()]:
        assert row["ms_p25"] <= row["ms_median"] <= row["ms_p75"]
        assert (row["part"], row["batch"], row["rounds"], row["seed"]) == ("steps", 4, 1, 0)
        assert row["bfloat16"] == precision.common.has_bfloat16()
        assert row["cores"] >= 1
    for row in rows.values():
        assert row["ratio_to"] == "float32"
        assert row["ratio_median"] > 0
        assert row["wanted"] is None
    assert rows[FOLDED]["loss_error"] < 1e-4
    assert rows[FOLDED]["gradient_error"] < 1e-4
    # bfloat16 has 8 bits.
    assert 1e-6 < rows[TEACHER]["loss_error"] < 2e-2
    assert 1e-5 < rows[TEACHER]["gradient_error"] < 5e-2
    assert rows[TEACHER]["gradient_error"] < rows[BOTH]["gradient_error"] < 0.3
    assert 0.95 < rows[BOTH]["gradient_cosine"] < rows[TEACHER]["gradient_cosine"] <= 1 + 1e-6
    assert rows[BOTH]["student_policy"] == "mixed_bfloat16"
    assert ("emulated" in capsys.readouterr().out) != precision.common.has_bfloat16()


def test_the_first_step_tells_loss_and_gradient(precision, pair):
    contender = precision.Contender(pair, precision.PRECISIONS["float32"])
    ((images, labels),) = pair.dataset.take(1)
    student = pair.student("float32")
    soft = tf.nn.softmax(pair.teacher(images, training=False) / 4.0)
    with tf.GradientTape() as tape:
        logits = student(images, training=True)
        log_probabilities = tf.nn.log_softmax(logits / 4.0)
        divergence = tf.reduce_sum(soft * (tf.math.log(soft) - log_probabilities), axis=-1)
        ce = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        expected = tf.reduce_mean(ce + 16.0 * divergence)
    gradients = tape.gradient(expected, [v.value for v in student.trainable_variables])
    expected_gradient = np.concatenate([np.ravel(gradient) for gradient in gradients])

    loss, gradient = contender.first_step()
    assert loss == pytest.approx(float(expected), rel=1e-5)
    error = np.linalg.norm(gradient - expected_gradient) / np.linalg.norm(expected_gradient)
    assert error < 1e-4


def test_skipped_steps_are_not_the_first(precision, pair, monkeypatch):
    contender = precision.Contender(pair, precision.PRECISIONS[FLOAT16])
    contender.distiller._loss_scales.scale.assign([2.0**24])
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="Each of 2 steps was"):
        patch.setattr(precision, "ATTEMPTS", 2)
        contender.first_step()
    reference = precision.Contender(pair, precision.PRECISIONS["float32"]).first_step()
    found = precision.errors(contender.first_step(), reference)
    assert contender.distiller.skipped_steps["student"] > 2
    assert found["loss_error"] < 2e-2
    assert found["gradient_error"] < 0.1


def test_errors(precision):
    true, given = np.array([3.0, 4.0]), np.array([3.0, 0.0])
    found = precision.errors((1.9, given), (2.0, true))
    assert found == pytest.approx(
        {"loss_error": 0.05, "gradient_error": 0.8, "gradient_cosine": 0.6}
    )


def test_accuracies_of_each_seed(precision, run, monkeypatch, capsys):
    trained = ["float32", FLOAT16]
    monkeypatch.setattr(precision, "TRAINED", trained)
    monkeypatch.setattr(precision, "WIDTHS", (4, 8))
    monkeypatch.setattr(precision, "TEACHER_WIDTHS", (4, 8))
    monkeypatch.setattr(precision, "TRAINING_IMAGES", 256)
    rows = run(precision.run_accuracy, "--seeds=2", "--first_seed=5")
    assert [(row["seed"], row["contender"]) for row in rows] == [
        (seed, name) for seed in (5, 6) for name in trained
    ]
    for row in rows:
        assert (row["part"], row["training_steps"], row["labels"]) == ("accuracy", 3, 64)
        # A count of 2,000 images.
        assert row["test"] * 2000 == pytest.approx(round(row["test"] * 2000), abs=1e-3)
        assert row["skipped"] == 0
        assert row["loss_scale"] == (2.0**15 if row["contender"] == FLOAT16 else None)
    # The same weights and batches for one seed, and others for another.
    first, low, second, second_low = (row["loss"] for row in rows)
    assert first != low == pytest.approx(first, rel=2e-3)
    assert second != second_low == pytest.approx(second, rel=2e-3)
    assert abs(second - first) > 5e-3 * first
    printed = capsys.readouterr().out
    assert f"{FLOAT16:30} seed 6" in printed
    assert printed.count("deviations from float32") == 1


def test_every_image_is_seen_once_in_an_epoch(precision):
    precision.FLAGS(["precision", "--training_steps=5", "--labels=64"])
    places = precision.order(1)
    assert len(places) == 5 * 32
    assert sorted(places[:64]) == sorted(places[64:128]) == list(range(64))
    assert list(places[:64]) != list(places[64:128])
    assert list(precision.order(2)) != list(places)


def test_summary(precision):
    lines = precision.summary({"float32": [0.80, 0.82], "low": [0.83, 0.83]})
    assert lines[0].split(maxsplit=1)[1] == "81.00 % ± 1.41"
    # Two points, of a deviation of 1.414.
    assert lines[1].split(maxsplit=1)[1] == "83.00 % ± 0.00  +1.41 deviations from float32"
    lines = precision.summary({"float32": [0.80], "low": [0.83]})
    assert lines[1].split(maxsplit=1)[1] == "83.00 %"


@pytest.mark.parametrize(
    ("flag", "has"), [("avx512_bf16", True), ("amx_bf16", True), ("avx512_vnni", False)]
)
def test_processors_that_have_bfloat16(precision, tmp_path, monkeypatch, flag, has):
    if precision.common.has_gpu():
        pytest.skip("There is a GPU, which counts instead of the processor")
    (tmp_path / "cpuinfo").write_text(f"model name : one\nflags : fpu {flag} avx2\n", "utf-8")
    monkeypatch.setattr(precision.common, "CPUINFO", tmp_path / "cpuinfo")
    assert precision.common.has_bfloat16() is has


@pytest.mark.parametrize(
    ("part", "runs"), [("steps", ["s"]), ("accuracy", ["a"]), ("both", ["s", "a"])]
)
def test_parts(precision, monkeypatch, part, runs):
    done, logger = [], tf.get_logger()
    monkeypatch.setattr(precision, "run_steps", lambda: done.append("s"))
    monkeypatch.setattr(precision, "run_accuracy", lambda: done.append("a"))
    monkeypatch.setattr(logger, "setLevel", lambda level: None)
    precision.FLAGS(["precision", f"--part={part}"])
    precision.main(None)
    assert done == runs
