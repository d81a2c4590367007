"""The command's flags, help and one-line answers; TensorFlow is not imported for them."""

import subprocess
import sys
from pathlib import Path

import pytest

from modreduce_keras._version import __version__
from modreduce_keras.command import pages, program
from modreduce_keras.command.commands import COMMANDS, DISTILL, METHODS
from modreduce_keras.command.mistakes import MistakeError

ROOT = Path(__file__).parents[2]
NEEDED = ["--teacher=t.keras", "--student=s.keras", "--data=d", "--out=o"]


def told(capsys, *arguments):
    """Runs the command; returns its exit code, what it printed, and the line it complained with."""
    code = program.main(arguments)
    printed = capsys.readouterr()
    return code, printed.out, printed.err.strip()


def launched(*arguments):
    script = (
        "import sys, modreduce_launcher\n"
        "try:\n    modreduce_launcher.main()\n"
        "finally:\n    print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        ([], 0, "usage: modreduce COMMAND"),
        (["distill", "--help"], 0, "--teacher=FILE.keras"),
        (["methods", "kd"], 0, "Hinton, Vinyals and Dean 2015"),
        (["distil"], 2, ""),
    ],
)
def test_help_lists_and_mistakes_need_no_tensorflow(arguments, code, shown):
    done = launched(*arguments)
    assert done.returncode == code
    assert shown in done.stdout
    assert done.stdout.splitlines()[-1] == "False False"
    assert "Traceback" not in done.stderr


def test_the_package_runs_before_there_is_work(tmp_path):
    script = (
        "import sys, modreduce_launcher\n"
        "from modreduce_keras.command import program\n"
        "package = sys.modules['modreduce_keras']\n"
    )
    before = "import modreduce_launcher\nmodreduce_launcher._not_run()\n"
    check = (
        "from modreduce_keras import _version\n"
        "assert not hasattr(package, 'Distiller')\n"
        "package.__spec__.loader = type('L', (), {'exec_module': lambda self, m: "
        "setattr(m, 'Distiller', 1)})()\n"
        "modreduce_launcher._run(package)\n"
        "assert package.Distiller == 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", before + script + check], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_overview_names_every_command(capsys):
    for words in ([], ["--help"], ["help"], ["-h"]):
        code, shown, _ = told(capsys, *words)
        assert code == 0
        assert all(f"  {name} " in shown for name in COMMANDS)
        assert "--" not in shown.replace("--flag=value", "").replace("COMMAND --help", "")


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_help_of_a_command_shows_its_flags_and_no_others(command, capsys):
    code, shown, _ = told(capsys, command.name, "--help")
    assert code == 0
    assert told(capsys, "help", command.name)[1] == shown
    heads = [line.split()[0] for line in shown.splitlines() if line.startswith("  --")]
    names = [head.removeprefix("--").removeprefix("[no]").split("=")[0] for head in heads]
    assert names == [flag.name for flag in command.flags]
    assert all(len(line) <= 100 for line in shown.split("Examples:")[0].splitlines())


def test_examples_of_the_help_can_be_read():
    for command in COMMANDS.values():
        for example in command.examples:
            words = example.split()
            assert words[:2] == ["modreduce", command.name]
            if not any(word.startswith("--flagfile") for word in words):
                program.parsed(command, words[2:])


def test_version(capsys):
    assert told(capsys, "--version")[:2] == (0, f"modreduce_keras {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["distil"], "Received: 'distil'. Did you mean 'distill'?"),
        (["--epochs=3"], "the first word must be one of distill, export, report, methods."),
        (["distill", *NEEDED, "--epoch=3"], "there is no flag --epoch. Did you mean --epochs?"),
        (["distill", *NEEDED, "--epochs=0"], "--epochs=0"),
        (["distill", *NEEDED, "--epochs=many"], "--epochs=many"),
        (["distill", *NEEDED, "--optimizer=adan"], "<adam|adamw|sgd>"),
        (["distill", *NEEDED, "--validation_split=1"], "--validation_split"),
        (["distill", *NEEDED[1:]], "--teacher=FILE.keras must be given."),
        (["distill", *NEEDED, "more"], "every argument is a flag, --name=value. Received: 'more'."),
        (["export", "--flagfile=nowhere.txt"], "Unable to open flagfile"),
        (["methods", "hintt"], "there is no method 'hintt'. Did you mean 'hint'?"),
        (["methods", "kd", "dist"], "one name at most"),
        (["methods", "kd", "--kind=feature"], "'kd' is no feature"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, line, capsys):
    code, shown, complaint = told(capsys, *arguments)
    assert (code, shown) == (2, "")
    assert line in complaint
    assert len(complaint.splitlines()) == 1


def test_flags_may_come_from_a_file(tmp_path):
    file = tmp_path / "run.txt"
    file.write_text("\n".join([*NEEDED, "# a comment", "--epochs=7", "--knowledge=kd,dist=2"]))
    given, words = program.parsed(DISTILL, [f"--flagfile={file}", "--epochs", "9", "--noreport"])
    assert words == []
    assert given["teacher"] == "t.keras"
    assert given["epochs"] == 9
    assert given["knowledge"] == ["kd", "dist=2"]
    assert given["report"] is False
    assert given["formats"] == ["float32", "dynamic", "int8"]


def test_words_may_stand_before_and_behind_flags():
    assert program.parsed(METHODS, ["kd", "--json"])[1] == ["kd"]
    assert program.parsed(METHODS, ["--json", "kd"])[1] == ["kd"]
    with pytest.raises(MistakeError, match="every argument is a flag"):
        program.parsed(DISTILL, ["x", *NEEDED])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("a\n  b"), 2, "modreduce export: a b"),
        (FileNotFoundError(2, "No such file", "x"), 2, "modreduce export: [Errno 2] No such file"),
        (KeyboardInterrupt(), 130, "modreduce export: interrupted."),
        (program.FailedError("too few"), 1, "modreduce export: too few"),
    ],
)
def test_errors_of_the_work_are_told_in_one_line(error, code, line, capsys, monkeypatch, tmp_path):
    from modreduce_keras.command import export

    monkeypatch.chdir(tmp_path)
    Path("s.keras").touch()

    def run(given):
        raise error

    monkeypatch.setattr(export, "run", run)
    arguments = ["export", *NEEDED[1:]]
    found = told(capsys, *arguments)
    assert found[0] == code
    assert found[2].startswith(line)
    if isinstance(error, ValueError):
        with pytest.raises(ValueError, match="a"):
            program.main([*arguments, "--traceback"])


def test_pages_are_as_wide_as_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    lines = pages.page(DISTILL).split("Examples:")[0].splitlines()
    assert max(map(len, lines)) <= 70


def test_a_missing_model_is_told_before_keras_is_imported(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("teacher.keras").touch()

    def imported():
        raise AssertionError("the work has begun")

    arguments = ["--student=resnet20", "--data=photos", "--out=runs/a"]
    code = program.main(["distill", "--teacher=techer.keras", *arguments], before_work=imported)
    assert code == program.MISTAKE
    assert "no file 'techer.keras'. Did you mean 'teacher.keras'?" in capsys.readouterr().err
    arguments[0] = "--student=student.h5"
    assert program.main(["distill", "--teacher=teacher.keras", *arguments], before_work=imported)
    assert "--student must be a saved model" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error():
    command = [sys.executable, "-m", "modreduce_launcher", "distill", "--help"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        complaint = process.stderr.read()
    assert (process.returncode, complaint) == (0, b"")
