"""The public names: the lists are up to date, and `dir()` shows them and nothing else."""

import importlib.util
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import modreduce_keras as mr
from modreduce_keras.registry import components

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "namespaces.py"


def load():
    spec = importlib.util.spec_from_file_location("tools_namespaces", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


namespaces = load()

OF_THE_PACKAGE = {
    *("DataFreeDistiller", "TeacherAssistantChain"),
    *("Distiller", "EarlyExit", "MeanTeacher", "ModReduce", "PeerDistiller", "SelfDistiller"),
    *("BaseDistiller", "NonFiniteError", "TemporalEnsembling", "TapReader", "Knob"),
    *("Feature", "Knowledge", "Relation", "Response", "__version__"),
    *("adapters", "aggregators", "callbacks", "data", "distribute", "evaluation", "export"),
    *("losses", "metrics", "models", "schedules", "tuning"),
    *(
        "cluster",
        "compression",
        "prune",
        "prune_channels",
        "quantize_aware",
        "register",
        "report",
        "strip",
    ),
}


def registered(kind):
    return {
        component.__name__
        for component in components(kind).values()
        if component.__module__.startswith("modreduce_keras.")
    }


@pytest.mark.parametrize("path", [*namespaces.files()], ids=lambda path: path.parent.name)
def test_list_is_up_to_date(path):
    assert path.read_text("utf-8") == namespaces.files()[path], "run make generate"


@pytest.mark.parametrize(
    ("name", "kind", "base"),
    [
        ("losses", "loss", "Loss"),
        ("adapters", "adapter", "Adapter"),
        ("aggregators", "aggregator", "Aggregator"),
        ("schedules", "schedule", "Schedule"),
    ],
)
def test_a_namespace_shows_its_components_their_base_and_get(name, kind, base):
    assert dir(getattr(mr, name)) == sorted({*registered(kind), base, "get"})


def test_models_are_networks_and_what_is_done_to_them():
    shown = set(dir(mr.models))
    assert registered("model") < shown
    assert shown - registered("model") == {
        *("resnet", "vgg", "wide_resnet", "get"),
        *("Branches", "branch", "copy_model", "copy_state", "exits", "fold", "quantize_aware"),
        *("from_onnx", "from_saved_model", "gat", "gcn"),
        *("import_keras_weights", "import_torch_weights", "load_teacher", "reuse_classifier"),
        *(
            "as_logits",
            "low_rank",
            "pair",
            "preprocessing",
            "share_layers",
            "shallower",
            "taps",
            "with_classifier",
        ),
        "image_generator",
    }


def test_the_package_shows_its_public_names_only():
    assert dir(mr) == sorted(OF_THE_PACKAGE)
    assert registered("distiller") | registered("knowledge") < set(dir(mr))


@pytest.mark.parametrize(
    "name",
    [
        *("adapters", "aggregators", "callbacks", "data", "distillers", "distribute"),
        *("evaluation", "export", "knowledge", "losses", "metrics", "models", "reporting"),
        *("schedules", "tuning"),
    ],
)
def test_dir_shows_what_is_public_and_there(name):
    module = importlib.import_module(f"modreduce_keras.{name}")
    assert dir(module) == sorted(module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, shown) for shown in dir(module))


def test_helpers_can_be_imported_still():
    from modreduce_keras import ops
    from modreduce_keras.losses.base import Loss

    assert callable(ops.float32)
    assert Loss is mr.losses.Loss


HAVE_FURTHER_ARGUMENTS = {"feature", "relation", "response"}
"""What belongs to the loss is refused by name."""


@pytest.mark.parametrize(
    "kind",
    ["loss", "adapter", "aggregator", "schedule", "metric", "model", "knowledge", "distiller"],
)
def test_constructors_repeat_the_arguments_that_may_be_given(kind):
    for identifier, component in components(kind).items():
        if not component.__module__.startswith("modreduce_keras."):
            continue
        kinds = {one.kind for one in inspect.signature(component).parameters.values()}
        further = kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
        assert not further or identifier in HAVE_FURTHER_ARGUMENTS, identifier


def test_names_are_in_the_order_of_the_linter():
    assert namespaces.import_of("a", sorted(["b2", "b10", "Z", "B_C"], key=namespaces.order)) == [
        "from a import B_C, Z, b2, b10"
    ]
    wide = [f"a_name_that_is_long_{number}" for number in range(5)]
    assert namespaces.import_of("a", wide)[0] == "from a import ("


@pytest.mark.slow
def test_a_file_that_was_moved_and_one_that_is_new_are_listed_where_they_are(tmp_path):
    def run(*arguments):
        command = [sys.executable, "tools/namespaces.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    shutil.copytree(ROOT / "modreduce_keras", tmp_path / "modreduce_keras")
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    folder = tmp_path / "modreduce_keras" / "schedules"
    (folder / "cosine.py").rename(folder / "half_a_wave.py")
    (folder / "doubled.py").write_text(
        '"""A schedule that is new."""\n'
        "from modreduce_keras.registry import register\n"
        "from modreduce_keras.schedules.linear import Linear\n"
        "@register('schedule', 'doubled')\n"
        "class Doubled(Linear):\n"
        "    pass\n"
    )
    checked = run("--check")
    assert checked.returncode == 1
    assert "schedules/__init__.py is not up to date: run make generate" in checked.stderr
    assert run().returncode == 0
    made = (folder / "__init__.py").read_text("utf-8")
    assert "from modreduce_keras.schedules.half_a_wave import Cosine\n" in made
    assert '    "Doubled",\n' in made
    assert run("--check").returncode == 0
    assert "usage: " in run("--else").stderr
