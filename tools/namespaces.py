"""Writes the `__init__.py` files that list components, from the registry; nothing in them is typed.

    python tools/namespaces.py            rewrites the files
    python tools/namespaces.py --check    fails if one of them is not up to date

Editors, type checkers and `dir()` see what is written out only. A new component is still one new
file: its `@register(...)` is what the lists are made from. Public names that are not registered
are listed in `NAMESPACES` below. The docstring of each file is its own, and is kept.
"""

import ast
import importlib
import re
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = "modreduce_keras"


@dataclass(frozen=True)
class Namespace:
    """A package that lists every component of a kind.

    Args:
        name: Its name, below `modreduce_keras`.
        kind: The kind of component.
        base: What its components are: the name of the base class, in `base.py`; `"keras.Model"`
            for functions that build a model.
        gets: Whether it has a function `get`, which makes a component from its identifier.
        more: Further public names, and the module below `modreduce_keras` that defines each.
    """

    name: str
    kind: str
    base: str
    gets: bool = True
    more: Mapping[str, str] = field(default_factory=dict)


NAMESPACES = [
    Namespace("schedules", "schedule", "Schedule"),
    Namespace("losses", "loss", "Loss"),
    Namespace("adapters", "adapter", "Adapter"),
    Namespace("aggregators", "aggregator", "Aggregator"),
    Namespace(
        "models",
        "model",
        "keras.Model",
        more={
            "resnet": "models.resnet",
            "vgg": "models.vgg",
            "wide_resnet": "models.wide_resnet",
            "Branches": "models.branch",
            "branch": "models.branch",
            "as_logits": "models.logits",
            "copy_model": "models.clones",
            "copy_state": "copying",
            "exits": "models.exits",
            "fold": "models.folding",
            "from_onnx": "models.onnx_models",
            "from_saved_model": "models.saved_models",
            "gat": "models.graph_networks",
            "gcn": "models.graph_networks",
            "image_generator": "models.image_generator",
            "quantize_aware": "models.quantization",
            "import_keras_weights": "models.teachers",
            "import_torch_weights": "models.torch_weights",
            "load_teacher": "models.teachers",
            "preprocessing": "models.preprocessing",
            "low_rank": "models.low_rank",
            "pair": "models.pairs",
            "shallower": "models.shallower",
            "share_layers": "models.shared_layers",
            "taps": "models.tap_table",
            "reuse_classifier": "models.reuse",
            "with_classifier": "models.new_head",
        },
    ),
    Namespace(
        "knowledge",
        "knowledge",
        "Knowledge",
        gets=False,
    ),
    Namespace(
        "distillers",
        "distiller",
        "BaseDistiller",
        gets=False,
        more={
            "Batch": "distillers.step.batch",
            "DAFL": "distillers.generation.methods",
            "EarlyExit": "distillers.early_exit",
            "Generation": "distillers.generation.methods",
            "GradientPolicy": "distillers.gradients.base",
            "NonFiniteError": "distillers.gradients.guard",
            "Outputs": "distillers.step.forward",
            "TeacherAssistantChain": "distillers.assistants",
            "Term": "distillers.step.terms",
            "ZSKT": "distillers.generation.methods",
        },
    ),
]
"""The packages, each after those that it imports."""

NOTE = "# Written by `make generate` from the registry."

GET = 'get = _registry.Getter("{kind}", {base})'

TOP = """\
{docstring}

{note}

from typing import TYPE_CHECKING

{imports}

if TYPE_CHECKING:
    from modreduce_keras import tuning
    from modreduce_keras.reporting import report

__all__ = [
{names}
]


{directory}

if not TYPE_CHECKING:

    def __getattr__(name):
        # Both are imported by those who use them only: KerasTuner and drawings take a while.
        from importlib import import_module

        if name == "tuning":
            return import_module("modreduce_keras.tuning")
        if name == "report":
            return import_module("modreduce_keras.reporting").report
        raise AttributeError(f"module {{__name__!r}} has no attribute {{name!r}}")
"""
SUBMODULES = [
    *("adapters", "aggregators", "callbacks", "compression", "data", "distribute", "evaluation"),
    "export",
    *("losses", "metrics", "models", "schedules"),
]
"""Modules that are public names of the package itself."""
NAMES = {
    "Knob": "knobs",
    "cluster": "compression",
    "prune": "compression",
    "prune_channels": "compression",
    "strip": "compression",
    "TapReader": "taps",
    "quantize_aware": "models",
    "register": "registry",
    "__version__": "_version",
}
"""Further public names of the package itself, and the module that defines each."""
SHOWN = ("knowledge", "distillers")
"""Packages whose components are public names of the package itself."""
HIDDEN = {"Batch", "DAFL", "Generation", "GradientPolicy", "Outputs", "Term", "ZSKT"}
"""Their names that are not."""

DIR = """\
def __dir__() -> list[str]:
    return __all__
"""


def render(namespace: Namespace, components: Mapping[str, Any], docstring: str) -> str:
    """Returns the text of a package's `__init__.py`.

    Args:
        namespace: The package.
        components: Its components by name, in the order in which it lists them.
        docstring: What the file says about the package.
    """
    package = f"{PACKAGE}.{namespace.name}"
    origins = {name: component.__module__ for name, component in components.items()}
    origins |= {name: f"{PACKAGE}.{module}" for name, module in namespace.more.items()}
    public = [*origins]
    base = namespace.base
    if "." in base:
        base = f"_{base}"
    else:
        origins[base] = f"{package}.base"
        public.insert(0, base)
    lines = [f'"""{docstring}\n"""' if "\n" in docstring else f'"""{docstring}"""', "", NOTE, ""]
    if namespace.gets:
        public.append("get")
        if base.startswith("_"):
            lines += ["import keras as _keras", ""]
        lines += [f"from {PACKAGE} import registry as _registry"]
    for module in sorted(set(origins.values()), key=order):
        names = [name for name, origin in origins.items() if origin == module]
        lines += import_of(module, sorted(names, key=order))
    lines += ["", "__all__ = [", *(f'    "{name}",' for name in public), "]"]
    if namespace.gets:
        lines += ["", GET.format(kind=namespace.kind, base=base)]
    lines += ["", ""]
    return "\n".join([*lines, DIR])


def render_top(public: Mapping[str, str], docstring: str) -> str:
    """Returns the text of the `__init__.py` of the package itself.

    Args:
        public: The names of the components that it shows, and the package below that has each.
        docstring: What the file says about the package.
    """
    origins = {name: f"{PACKAGE}.{module}" for name, module in {**public, **NAMES}.items()}
    imports = import_of(PACKAGE, SUBMODULES)
    for module in sorted(set(origins.values()), key=order):
        names = [name for name, origin in origins.items() if origin == module]
        imports += import_of(module, sorted(names, key=order))
    return TOP.format(
        docstring=f'"""{docstring}"""',
        note=NOTE,
        imports="\n".join(imports),
        names="\n".join(
            f'    "{name}",' for name in sorted([*origins, *SUBMODULES, "report", "tuning"])
        ),
        directory=DIR,
    )


def import_of(module: str, names: list[str]) -> list[str]:
    """Returns the lines that import names from a module."""
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= 100:
        return [line]
    return [f"from {module} import (", *(f"    {name}," for name in names), ")"]


def order(name: str) -> tuple[int, list[str | int], str]:
    """Returns what names are sorted by, as ruff does: constants, classes, the rest; 8 before 14."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    parts = re.split(r"(\d+)", name.casefold())
    parts[1::2] = map(int, parts[1::2])
    return kind, parts, name


def files() -> dict[Path, str]:
    """Returns the files and what they should hold."""
    registry = importlib.import_module(f"{PACKAGE}.registry")
    made, shown = {}, {}
    for namespace in NAMESPACES:
        folder = ROOT / PACKAGE / namespace.name
        package = f"{PACKAGE}.{namespace.name}"
        components = registry.collect(package, [str(folder)], namespace.kind)
        path = folder / "__init__.py"
        made[path] = render(namespace, components, _docstring(path))
        if namespace.name in SHOWN:
            names = {namespace.base, *components, *namespace.more} - HIDDEN
            shown |= dict.fromkeys(names, namespace.name)
    path = ROOT / PACKAGE / "__init__.py"
    made[path] = render_top(shown, _docstring(path))
    return made


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


def import_without_lists() -> None:
    """Imports the package as if its lists were up to date, so that they can be made anew.

    A file that was moved, and is listed where it was, would otherwise stop the import.
    """
    _empty_package(PACKAGE)
    registry = importlib.import_module(f"{PACKAGE}.registry")
    for namespace in NAMESPACES:
        name = f"{PACKAGE}.{namespace.name}"
        package = _empty_package(name)
        if "." not in namespace.base:
            base = importlib.import_module(f"{name}.base")
            setattr(package, namespace.base, getattr(base, namespace.base))
        vars(package).update(registry.collect(name, package.__path__, namespace.kind))
        for public, module in namespace.more.items():
            defined = importlib.import_module(f"{PACKAGE}.{module}")
            setattr(package, public, getattr(defined, public))


def _empty_package(name: str) -> types.ModuleType:
    package = types.ModuleType(name)
    package.__path__ = [str(ROOT.joinpath(*name.split(".")))]
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)
    return package


def main(arguments: list[str]) -> None:
    """Writes or checks the files."""
    if arguments not in ([], ["--check"]):
        sys.exit(f"usage: python tools/namespaces.py [--check]. Received: {arguments}")
    import_without_lists()
    for path, text in files().items():
        if path.read_text("utf-8") == text:
            continue
        if arguments:
            sys.exit(f"{path.relative_to(ROOT)} is not up to date: run make generate")
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
