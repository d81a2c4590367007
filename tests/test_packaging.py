"""What is published: the extras, what a wheel holds, and one version everywhere."""

import importlib
import re
from pathlib import Path

import pytest
import setuptools

import modreduce_keras as mr

ROOT = Path(__file__).parents[1]


@pytest.fixture
def given(monkeypatch):
    """What setup.py gives to setuptools."""
    arguments = {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: arguments.update(given))
    path = ROOT / "setup.py"
    exec(compile(path.read_text("utf-8"), path, "exec"), {"__file__": str(path)})
    return arguments


def name_of(requirement):
    return re.match(r"[A-Za-z0-9_-]+", requirement)[0].lower()


def test_keras_tuner_comes_with_tuning_alone(given):
    assert "keras-tuner" not in set(map(name_of, given["install_requires"]))
    holders = {
        extra
        for extra, requirements in given["extras_require"].items()
        if "keras-tuner" in set(map(name_of, requirements))
    }
    assert holders == {"all", "test", "tune"}


def test_all_holds_what_users_may_want(given):
    extras = {name: set(wanted) for name, wanted in given["extras_require"].items()}
    assert extras["all"] == set().union(
        *(extras[name] for name in ("demo", "export", "onnx", "tune"))
    )
    assert extras["all"] < extras["test"]
    assert not extras["docs"] & extras["test"]


def test_the_version_is_the_same_everywhere(given):
    assert given["version"] == mr.__version__
    assert f"\nversion: {mr.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(r"^## \[(.+?)\]", changelog, re.MULTILINE)[1] == mr.__version__


def test_the_command_is_installed_with_its_launcher(given):
    (script,) = given["entry_points"]["console_scripts"]
    name, _, target = script.partition("=")
    module, _, function = target.partition(":")
    assert name == "modreduce"
    assert module in given["py_modules"]
    assert callable(getattr(importlib.import_module(module), function))


def test_a_wheel_holds_what_is_not_python(given):
    files = [path for path in (ROOT / "modreduce_keras").rglob("*") if path.is_file()]
    own = {path for path in files if path.suffix not in {".py", ".pyc"}}
    found = {
        path
        for package, patterns in given["package_data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    assert found == own
