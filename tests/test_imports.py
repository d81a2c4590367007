"""Tests of the direction of imports, read from the source: downward, never between siblings."""

import ast
import functools
import importlib.util
import sys
from pathlib import Path

import pytest

import modreduce_keras

PACKAGE = "modreduce_keras"
ROOT = Path(modreduce_keras.__file__).parent

# A part may import parts of lower levels, and itself. What is not listed is above them all.
LEVELS = [
    {"calls", "keras_internals"},
    {"_version", "arguments", "copying", "escapes", "fingerprints", "held"}
    | {"pareto", "recording", "registry", "typing", "whole_files"},
    {"distribute"},
    {"labels"},
    {"batches", "graphs", "knobs", "ops", "output_kind", "symbolic"},
    {"top_k"},
    {"schedules", "losses", "metrics", "adapters", "aggregators", "models"},
    {"taps"},
    {"knowledge", "data"},
    {"distillers"},
    {"callbacks", "evaluation", "export"},
    {"compression", "reporting", "tuning"},
]
TOP = len(LEVELS)
KERAS_ONLY = [
    *("arguments", "calls", "copying", "escapes", "fingerprints", "held", "keras_internals"),
    *("graphs", "pareto", "recording"),
    *("registry", "whole_files", "knobs", "ops", "output_kind", "batches", "schedules", "symbolic"),
    "top_k",
    *("losses", "adapters", "aggregators", "taps", "models", "metrics", "knowledge"),
    "compression",
]
WITH_TENSORFLOW = ("distribute", "data", "export", "callbacks")
"""Parts that import TensorFlow. The rest is to run on any backend of Keras."""
OPTIONAL = {Path("models/onnx_runtime.py"): {"onnxruntime"}}
"""What else a module imports, inside of functions."""
BACKEND = Path("distillers/backend/tensorflow.py")
OF_TENSORFLOW = {
    Path("keras_internals/tflite_converter.py"): {"export"},
    Path("keras_internals/gradient_tapes.py"): {"distribute"},
    Path("keras_internals/replicas.py"): {"distillers"},
    Path("keras_internals/traced_gradients.py"): {"distillers"},
}
"""Modules on what is private in TensorFlow, and the parts that may import them."""
ONLY_IN = {"tensorflow_datasets": "data", "keras_tuner": "tuning"}

MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def level(part: str) -> int:
    if part == "__init__":
        return TOP + 1
    return next((i for i, parts in enumerate(LEVELS) if part in parts), TOP)


@functools.cache
def imported(source: str, package: str, inside_functions: bool = True) -> list[str]:
    """Returns the full names of what a source imports, `a.b` for `from a import b`."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    names, nodes = [], [ast.parse(source)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(base, package)
            names += [f"{base}.{alias.name}" for alias in node.names]
        if inside_functions or not isinstance(node, functions):
            nodes += ast.iter_child_nodes(node)
    return names


def wrong_parts(part: str, source: str, package: str = PACKAGE) -> list[str]:
    """Returns the parts of the package that a part imports and must not."""
    names = [name.split(".") for name in imported(source, package)]
    parts = {name[1] if len(name) > 1 else "__init__" for name in names if name[0] == PACKAGE}
    return sorted(other for other in parts - {part} if level(other) >= level(part))


def foreign(source: str, package: str = PACKAGE, inside_functions: bool = True) -> set[str]:
    """Returns the libraries that a source imports, without our own and the standard one."""
    roots = {name.split(".")[0] for name in imported(source, package, inside_functions)}
    return roots - {PACKAGE} - set(sys.stdlib_module_names)


def package_of(path: Path) -> str:
    return ".".join([PACKAGE, *path.parts[:-1]])


def source_of(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def foreign_to(path: Path, inside_functions: bool = True) -> set[str]:
    return foreign(source_of(path), package_of(path), inside_functions)


def test_parts_import_downward_only():
    wrong = {
        path: wrong_parts(part_of(path), source_of(path), package_of(path))
        for path in MODULES
        if part_of(path) != "__init__"
    }
    assert {path: parts for path, parts in wrong.items() if parts} == {}


def test_what_runs_on_every_backend_imports_keras_and_numpy_only():
    paths = [path for path in MODULES if part_of(path) in KERAS_ONLY and path not in OF_TENSORFLOW]
    assert len(paths) > len(KERAS_ONLY)
    for path in paths:
        assert foreign_to(path) <= {"keras", "numpy"} | OPTIONAL.get(path, set()), path
        assert foreign_to(path, inside_functions=False) <= {"keras", "numpy"}, path


def test_tensorflow_is_imported_in_its_rooms_only():
    rooms = {BACKEND, *OF_TENSORFLOW}
    rest = [path for path in MODULES if part_of(path) not in WITH_TENSORFLOW and path not in rooms]
    assert [path for path in rest if "tensorflow" in foreign_to(path)] == []


def test_private_parts_of_tensorflow_are_imported_where_tensorflow_is():
    for module, parts in OF_TENSORFLOW.items():
        name = ".".join([PACKAGE, *module.with_suffix("").parts])
        readers = [
            path
            for path in MODULES
            if any(one.startswith(name) for one in imported(source_of(path), package_of(path)))
        ]
        assert {part_of(path) for path in readers} == parts


def test_heavy_libraries_are_imported_where_they_are_used_only():
    for path in MODULES:
        for library, part in ONLY_IN.items():
            assert library not in foreign_to(path) or part_of(path) == part, path
        assert "matplotlib" not in foreign_to(path, inside_functions=False), path


@pytest.mark.parametrize(
    ("part", "source", "wrong"),
    [
        ("losses", "from modreduce_keras.knowledge import Feature", ["knowledge"]),
        ("losses", "from modreduce_keras import adapters, ops", ["adapters"]),
        ("losses", "def f():\n    import modreduce_keras.taps", ["taps"]),
        ("losses", "from ..models import resnet", ["models"]),
        ("losses", "from .base import Loss", []),
        ("losses", "import modreduce_keras as mr", ["__init__"]),
        ("registry", "from modreduce_keras import knobs", ["knobs"]),
        ("knowledge", "from modreduce_keras import distillers, taps, losses", ["distillers"]),
        ("callbacks", "from modreduce_keras import evaluation, distillers", ["evaluation"]),
        ("distillers", "from modreduce_keras.distribute import num_replicas", []),
    ],
)
def test_an_import_in_the_wrong_direction_is_found(part, source, wrong):
    assert wrong_parts(part, source, f"{PACKAGE}.{part}") == wrong


def test_a_foreign_library_is_found_and_one_inside_a_function_told_apart():
    source = (
        "import numpy as np, os\nfrom keras.src import ops\ndef f():\n    import matplotlib.pyplot"
    )
    assert foreign(source) == {"numpy", "keras", "matplotlib"}
    assert foreign(source, inside_functions=False) == {"numpy", "keras"}


def test_every_part_named_here_exists():
    parts = {part_of(path) for path in MODULES}
    assert set().union(*LEVELS) <= parts
    assert set(KERAS_ONLY) <= parts
