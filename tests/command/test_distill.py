"""`modreduce distill`, `export` and `report`, on tiny data, with the steps run eagerly."""

import contextlib
import io
import json
import warnings

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.command import distill, export, program, report

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A table of two classes, and a teacher and a student of its three columns."""
    root = tmp_path_factory.mktemp("command")
    random = np.random.default_rng(0)
    x = random.normal(size=(80, 3)).round(3)
    y = (x.sum(axis=1) > 0).astype(int)
    rows = [
        ",".join(map(str, [*row, ["no", "yes"][label]])) for row, label in zip(x, y, strict=True)
    ]
    (root / "table.csv").write_text("a,b,c,kind\n" + "\n".join(rows))
    teacher = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    teacher.layers[0].set_weights([np.array([[-1.0, 1.0]] * 3), np.zeros(2)])
    teacher.save(root / "teacher.keras")
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(4, activation="relu", name="hidden"), keras.layers.Dense(2)]
    keras.Sequential([keras.Input((3,)), *layers], name="small").save(root / "student.keras")
    return root


def arguments(root, out, *more):
    return [
        "distill",
        f"--teacher={root}/teacher.keras",
        f"--student={root}/student.keras",
        f"--data={root}/table.csv",
        "--validation_split=0.25",
        f"--out={out}",
        *more,
    ]


@pytest.fixture(scope="module")
def run(root):
    """The folder of a finished run, and what the run has printed."""
    more = ("--epochs=3", "--learning_rate=0.05", "--formats=float32", "--batch_size=20")
    printed, always = io.StringIO(), property(lambda model: True, lambda model, value: None)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        warnings.catch_warnings(),
    ):
        patch.setattr(keras.Model, "run_eagerly", always)
        warnings.filterwarnings("ignore", category=UserWarning, module="keras")
        assert program.main(arguments(root, root / "run", *more)) == 0
    return root / "run", printed.getvalue()


@pytest.fixture
def done(run):
    return run[0]


def test_a_run_writes_all_that_it_promises(root, run):
    done, printed = run
    assert "Trains small (26 parameters) with the labels and kd from sequential" in printed
    assert "on 60 samples for 3 epochs; validates on 20 held-out samples" in printed
    summary = json.loads((done / distill.SUMMARY).read_text("utf-8"))
    student = keras.saving.load_model(done / distill.STUDENT)
    kind = [row.rsplit(",", 1) for row in (root / "table.csv").read_text().splitlines()[1:]]
    x = np.array([row.split(",") for row, _ in kind], "float32")
    y = np.array([label == "yes" for _, label in kind])
    assert summary["samples"] == {"train": 60, "validation": 20}
    assert summary["class_names"] == ["no", "yes"]
    assert summary["judged_on"] == "validation"
    # All samples are the training and validation part together.
    right = (keras.ops.convert_to_numpy(student(x)).argmax(axis=1) == y).mean()
    low, high = (summary["last_epoch"]["val_accuracy"] * 20 + n for n in (0, 60))
    assert low <= right * 80 <= high
    file = summary["files"]["student_float32.tflite"]
    assert file["passed"]
    assert file["agreement"] == 1.0
    assert file["student_accuracy"] == pytest.approx(summary["last_epoch"]["val_accuracy"])
    proof = json.loads((done / "student_float32.verification.json").read_text("utf-8"))
    assert proof == file
    assert file["size"] == (done / "student_float32.tflite").stat().st_size
    assert summary["figures"]["student"]["accuracy"] == pytest.approx(file["accuracy"])
    assert summary["figures"]["teacher"]["accuracy"] == 1.0
    assert summary["figures"]["student"]["parameters"] == 26
    assert "small" in (done / "report.html").read_text("utf-8")
    history = json.loads((done / distill.HISTORY).read_text("utf-8"))
    assert [len(values) for values in history.values()] == [3] * len(history)
    assert {"accuracy", "ce", "kd", "loss", "val_accuracy"} <= set(history)


def test_started_again_it_trains_nothing_more(root, done, capsys):
    before = (done / "student_float32.tflite").read_bytes()
    history = (done / distill.HISTORY).read_bytes()
    more = ("--epochs=3", "--learning_rate=0.05", "--batch_size=20", "--formats=float32")
    assert program.main(arguments(root, done, *more, "--noreport")) == 0
    assert "Continues from the newest checkpoint." in capsys.readouterr().out
    assert (done / "student_float32.tflite").read_bytes() == before
    assert (done / distill.HISTORY).read_bytes() == history


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--epochs=4"], "epochs was 3 and is 4"),
        (["--epochs=3", "--validation_split=0.5"], "validation_split was 0.25 and is 0.5"),
        (["--epochs=3", "--seed=1"], "seed was 0 and is 1"),
    ],
)
def test_other_settings_are_another_run(more, line, root, done, capsys):
    common = ("--learning_rate=0.05", "--batch_size=20", "--formats=none")
    assert program.main(arguments(root, done, *common, *more)) == 2
    assert line in capsys.readouterr().err


def test_other_data_are_another_run(root, done, tmp_path, capsys):
    table = root / "table.csv"
    before = table.read_text()
    table.write_text(before + "\n1,1,1,yes\n1,1,1,yes\n")
    more = ("--epochs=3", "--learning_rate=0.05", "--batch_size=20", "--formats=none")
    try:
        assert program.main(arguments(root, done, *more)) == 2
    finally:
        table.write_text(before)
    assert "train samples was 60 and is " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--student=convnt"], "Did you mean 'convnet'?"),
        (["--student=convnet"], "must be a saved model for tables"),
        (["--knowledge=hintt"], "Did you mean 'hint'?"),
        (["--knowledge=hint@nowhere"], "'nowhere'"),
        (["--formats=float23"], "Did you mean 'float32'?"),
        (["--teacher=nowhere.keras"], "there is no file 'nowhere.keras'"),
        (["--data=nowhere"], "--data must be a folder of images"),
        (["--label=nowhere"], "label must be one of the columns"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_is_written(more, line, root, tmp_path, capsys):
    out = tmp_path / "out"
    assert program.main(arguments(root, out, *more)) == 2
    complaint = capsys.readouterr().err
    assert line in complaint
    assert len(complaint.splitlines()) == 1
    assert not out.exists()


def test_a_folder_of_other_files_is_refused(root, tmp_path, capsys):
    (tmp_path / "student.keras").touch()
    assert program.main(arguments(root, tmp_path)) == 2
    assert "which holds other files" in capsys.readouterr().err
    assert program.main(arguments(root, tmp_path / "student.keras")) == 2
    assert "--out must be a folder" in capsys.readouterr().err


def test_export_fails_where_a_file_agrees_too_little(root, tmp_path, capsys, monkeypatch):
    from modreduce_keras.command import outputs

    verify = outputs.export.verify

    def different(path, student, data, **options):
        other = keras.models.clone_model(student)
        weights = [-1 * one for one in student.get_weights()]
        other.set_weights(weights)
        return verify(path, other, data, **options)

    monkeypatch.setattr(outputs.export, "verify", different)
    words = [f"--student={root}/student.keras", f"--data={root}/table.csv", f"--out={tmp_path}"]
    assert program.main(["export", *words, "--formats=float32"]) == 1
    printed = capsys.readouterr()
    assert "student_float32.tflite does not agree with the student" in printed.err
    proof = json.loads((tmp_path / "student_float32.verification.json").read_text("utf-8"))
    assert proof["passed"] is False
    assert proof["agreement"] < 0.97
    assert program.main(["export", *words, "--formats=none"]) == 2


def test_report_of_several_students(root, tmp_path, capsys):
    words = [f"--student=a={root}/student.keras,b={root}/student.keras", f"--out={tmp_path}"]
    words += [f"--data={root}/table.csv", f"--teacher={root}/teacher.keras", "--title=Both"]
    assert program.main(["report", *words]) == 0
    figures = json.loads((tmp_path / report.FIGURES).read_text("utf-8"))
    assert list(figures) == ["teacher", "a", "b"]
    assert figures["teacher"]["accuracy"] == 1.0
    assert figures["a"]["accuracy"] == figures["b"]["accuracy"]
    assert "Both" in (tmp_path / "report.html").read_text("utf-8")
    capsys.readouterr()
    assert (
        program.main(
            [
                "report",
                *words,
                f"--student={root}/student.keras,x={root}/teacher.keras",
                "--files=x.tflite",
            ]
        )
        == 2
    )
    assert "--files is for one student" in capsys.readouterr().err


def test_modules_of_the_work_have_what_the_program_calls():
    assert all(callable(one.run) for one in (distill, export, report))


@pytest.fixture(scope="module")
def compressed(root):
    """Files of the student with zeros, and of the student that rounds."""
    student = keras.saving.load_model(root / "student.keras")
    pruned = mr.prune(student, 0.5)
    pruned.save(root / "pruned.keras")
    samples = np.eye(3, dtype="float32")
    mr.quantize_aware(pruned, representative=samples).save(root / "rounded.keras")
    return root


def test_a_pruned_student_ends_as_a_plain_one(compressed, tmp_path, capsys):
    out = tmp_path / "out"
    more = (f"--student={compressed}/pruned.keras", "--epochs=1", "--formats=none", "--noreport")
    assert program.main(arguments(compressed, out, *more)) == 0
    assert "Trains small (26 parameters)" in capsys.readouterr().out
    student = keras.saving.load_model(out / distill.STUDENT)
    assert [type(one) for one in student.layers] == [keras.layers.Dense] * 2
    assert [float((one.kernel.numpy() == 0).mean()) for one in student.layers] == [0.5, 0.5]


@pytest.mark.parametrize("command", ["distill", "export"])
def test_a_student_that_rounds_has_no_float_files(command, compressed, tmp_path, capsys):
    given = arguments(compressed, tmp_path / "out", f"--student={compressed}/rounded.keras")
    given = [one for one in given if command == "distill" or "teacher" not in one]
    assert program.main([command, *given[1:], "--formats=float32,dynamic,int8"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "--formats must be int8" in line and line.endswith("Received: float32, dynamic.")
    assert not (tmp_path / "out").exists()


def test_a_student_that_rounds_is_exported_in_integers(compressed, tmp_path):
    given = ["export", f"--student={compressed}/rounded.keras", f"--data={compressed}/table.csv"]
    given += ["--formats=int8", f"--out={tmp_path}", "--least_agreement=0"]
    assert program.main(given) == 0
    assert (tmp_path / "student_int8.tflite").is_file()
