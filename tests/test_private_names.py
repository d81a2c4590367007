"""Private names of Keras that ruff misses: used on `self`, overridden, or given as a string."""

import ast
import importlib
from pathlib import Path

import keras
import numpy as np
import pytest

import modreduce_keras

ROOT = Path(modreduce_keras.__file__).parent
ROOM = "keras_internals"
MODULES = sorted(
    path.relative_to(ROOT)
    for path in ROOT.rglob("*.py")
    if path.parts[-2] != ROOM and path.stem not in ("__main__", "build_sample")
)


def private(names):
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


@pytest.fixture(scope="module")
def of_keras():
    """The private names of objects of Keras, by class."""
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse", metrics=["mae"])
    history = model.fit(np.ones((2, 1)), np.ones((2, 1)), verbose=0)
    objects = {
        keras.Model: [model, keras.Sequential([keras.layers.Dense(1)])],
        keras.layers.Layer: [model.layers[1]],
        keras.losses.Loss: [keras.losses.MeanSquaredError()],
        keras.metrics.Metric: [keras.metrics.MeanSquaredError()],
        keras.callbacks.Callback: [history],
        keras.optimizers.Optimizer: [model.optimizer],
        keras.KerasTensor: [inputs],
    }
    return {
        kind: set().union(*(private(dir(one)) for one in several))
        for kind, several in objects.items()
    }


def used_on_self(node):
    """Yields the private names that a class reads or writes on `self` and `super()`."""
    for one in ast.walk(node):
        if isinstance(one, ast.Attribute) and private([one.attr]):
            owner = one.value.func if isinstance(one.value, ast.Call) else one.value
            if isinstance(owner, ast.Name) and owner.id in ("self", "super", "cls"):
                yield one.attr


def named(tree):
    """Yields the private names that are given to `getattr` and its like, or keys of `vars`."""
    for one in ast.walk(tree):
        if isinstance(one, ast.Call) and isinstance(one.func, ast.Name):
            if one.func.id in ("getattr", "hasattr", "setattr", "delattr") and len(one.args) > 1:
                value = one.args[1].value if isinstance(one.args[1], ast.Constant) else ""
                yield from private([value])
        elif isinstance(one, ast.Subscript) and isinstance(one.slice, ast.Constant):
            yield from private([str(one.slice.value)])


def overridden(cls, of_keras):
    """Returns the private names of a class that are Keras', but for those that the room made."""
    theirs = set().union(*(names for kind, names in of_keras.items() if issubclass(cls, kind)))
    theirs -= {"_tf_decorator", "_api_export_path", "_api_export_symbol_id"}
    made = {
        name
        for name, value in vars(cls).items()
        if str(getattr(value, "__module__", "")).startswith(f"modreduce_keras.{ROOM}.")
    }
    return theirs, theirs & (set(vars(cls)) - made)


def wrong(source, module, of_keras):
    tree = ast.parse(source)
    found = {name for name in named(tree) if any(name in names for names in of_keras.values())}
    for node in ast.walk(tree):
        cls = getattr(module, node.name, None) if isinstance(node, ast.ClassDef) else None
        if isinstance(cls, type):
            theirs, own = overridden(cls, of_keras)
            found |= own | (theirs & set(used_on_self(node)))
    return found


def test_no_private_name_of_keras(of_keras):
    found = {}
    for path in MODULES:
        name = ".".join(["modreduce_keras", *path.with_suffix("").parts]).removesuffix(".__init__")
        module = importlib.import_module(name)
        found[path] = wrong((ROOT / path).read_text("utf-8"), module, of_keras)
    assert {path: names for path, names in found.items() if names} == {}


def test_nothing_internal_of_tensorflow():
    sources = {path: (ROOT / path).read_text("utf-8") for path in MODULES}
    assert [path for path, source in sources.items() if "tf.__internal__" in source] == []


EXAMPLE = """
import keras

class Own(keras.Model):
    def train_step(self, data):
        self._own_name = self._loss_tracker
        return super()._symbolic_build(data)

    def _flatten_layers(self):
        return getattr(self, "_keras_history"), vars(self)["_metrics"]
"""


def test_each_way_is_found(of_keras):
    namespace = type("module", (), {})
    scope = {}
    exec(EXAMPLE, scope)
    namespace.Own = scope["Own"]
    found = {"_loss_tracker", "_symbolic_build", "_flatten_layers", "_keras_history", "_metrics"}
    assert wrong(EXAMPLE, namespace, of_keras) == found
