"""Branched models: peers that share their lower layers, which run once for all peers."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.arguments import require_integer
from modreduce_keras.copying import copy_all_but_weights, copy_state
from modreduce_keras.keras_internals import mask_of, operation_of
from modreduce_keras.models.clones import draws_kept, rebuilt
from modreduce_keras.models.graph import functional, new_inputs
from modreduce_keras.models.same_outputs import require_same_outputs
from modreduce_keras.registry import PACKAGE, rebuild
from modreduce_keras.typing import Tensor

_GRADIENTS = ("sum", "mean")
_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]*")


def branch(
    model: keras.Model,
    *,
    at: str,
    branches: int = 3,
    names: Sequence[str] | None = None,
    trunk_gradient: str = "sum",
    name: str | None = None,
) -> "Branches":
    """Branches a model at a layer: one trunk, and several heads that take its output.

    z_i = head_i(fork(trunk(x)))

    The given model is not changed and shares nothing with the result. The trunk is a copy with the
    whole state of the model. Each head is a copy with its own random weights, because heads that
    start equal stay equal; data that layers were adapted to (`Normalization`, vocabularies) and
    assets are copied. Explicit seeds of initializers are increased by the number of the branch.

    Each of `students` is one of the branches as a plain, flat Keras model with the layer names of
    the model. It shares its variables with the trunk and its head, is saved without the other
    branches, and loads without this library.

    Args:
        model: Functional or built Sequential model, from inputs to logits.
        at: Layer of the model whose output the heads take. All paths must lead through it, and it
            must not lie inside a nested model.
        branches: Number of heads, at least 2. Defaults to 3.
        names: Names of the branches, all different. Defaults to `"branch_0"`, `"branch_1"`, ...
        trunk_gradient: How the gradients of the heads are combined for the trunk: their `"sum"`
            (the default, as in ONE, OKDDip and PCL) or their `"mean"` (as in CL-ILR). Outputs do
            not depend on it. If one of `students` is trained alone, the trunk gets its full
            gradient.
        name: Name of the branched model. Defaults to the model's and `"_branches"`.

    Returns:
        `Branches`, whose outputs are the logits by name.

    Raises:
        ValueError: If the model is not functional, `at` is unknown, runs several times, leaves
            nothing random to the heads, has a mask, a path around it or a layer on both sides, a
            layer cannot be copied, or if another argument is out of range.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> model = keras.Sequential(
        ...     [
        ...         keras.Input((3,)),
        ...         keras.layers.Dense(4, activation="relu", name="hidden"),
        ...         keras.layers.Dense(2, name="logits"),
        ...     ]
        ... )
        >>> branched = mr.models.branch(model, at="hidden", branches=3)
        >>> model.count_params(), branched.count_params()  # 16 + 10, 16 + 3 · 10
        (26, 46)
        >>> [student.count_params() for student in branched.students.values()]
        [26, 26, 26]
        >>> sorted(branched(np.ones((5, 3))))
        ['branch_0', 'branch_1', 'branch_2']

    Reference:
        Lan, Zhu and Gong, Knowledge Distillation by On-the-Fly Native Ensemble, 2018; Song and
        Chai, Collaborative Learning for Deep Neural Networks, 2018; Chen, Mei, Wang, Feng and Chen,
        Online Knowledge Distillation with Diverse Peers, 2020; Wu and Gong, Peer Collaborative
        Learning for Online Knowledge Distillation, 2021.
    """
    name = name or f"{getattr(model, 'name', 'model')}_branches"
    return Branches(
        model, at=at, branches=branches, names=names, trunk_gradient=trunk_gradient, name=name
    )


@keras.saving.register_keras_serializable(package=PACKAGE)
class Branches(keras.Model):
    """A branched model; see `branch`, which builds it, for its arguments.

    It is a Keras model: `call` runs the trunk once and each head once, and returns the outputs by
    name. To run the parts yourself, call `trunk`, then `fork`, and each of `heads` on the result of
    `fork`. All of them share the same variables.

    Attributes:
        trunk: Functional model from the inputs to the output of the layer `at`.
        heads: By name, functional models from there to the logits.
        students: By name, flat functional models from the inputs to the logits.
        at: The layer.
        names: The names of the branches.
        trunk_gradient: `"sum"` or `"mean"`.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        at: str,
        branches: int = 3,
        names: Sequence[str] | None = None,
        trunk_gradient: str = "sum",
        **kwargs: Any,
    ) -> None:
        names = _checked_names(branches, names)
        if trunk_gradient not in _GRADIENTS:
            raise ValueError(
                f"trunk_gradient must be one of {list(_GRADIENTS)}. Received: {trunk_gradient=}"
            )
        graph = _checked_graph(model, at)
        # The trunk says which dtype its inputs have; nothing is to be cast before.
        super().__init__(autocast=False, **kwargs)
        self.at = at
        self.names = tuple(names)
        self.trunk_gradient = trunk_gradient
        self.trunk, self.heads, students = _parts(graph, at, names)
        _require_copied(graph)
        _give_state(graph, self.trunk, self.heads.values())
        _require_different(self.heads, at)
        self._students = MappingProxyType(students)
        self._scale = _ScaledGradient(1.0 / len(names) if trunk_gradient == "mean" else 1.0)
        self.built = True

    @property
    def students(self) -> Mapping[str, keras.Model]:
        """The branches as flat models, by name; the gradients of their trunks are not scaled."""
        return self._students

    def fork(self, features: Any) -> Any:
        """Returns what every head takes: the trunk's output, with the gradient that it is to get.

        The values are those of the trunk's output, unchanged.
        """
        if self.trunk_gradient == "sum":
            return features
        return keras.tree.map_structure(self._scale, features)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the outputs of all branches, by name."""
        features = self.fork(self.trunk(inputs, training=training))
        return {name: head(features, training=training) for name, head in self.heads.items()}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized.

        The model is the first branch, so what was frozen since in other heads only is not kept.
        """
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.students[self.names[0]]),
            "at": self.at,
            "branches": len(self.names),
            "names": list(self.names),
            "trunk_gradient": self.trunk_gradient,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Returns the branched model that `get_config` describes, with fresh weights."""
        return rebuild(cls, config, custom_objects)


class _ScaledGradient(keras.layers.Layer):
    """Returns its input; the gradient that flows back is multiplied by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__(name="scaled_gradient", autocast=False)
        self.factor = factor

    def call(self, values: Any) -> Any:
        @ops.custom_gradient
        def scaled(values: Any) -> tuple[Any, Any]:
            def gradient(*arguments: Any, upstream: Tensor | None = None) -> Any:
                upstream = arguments[0] if upstream is None else upstream
                return upstream * self.factor

            return values, gradient

        return scaled(values)


def _checked_names(branches: Any, names: Any) -> Any:
    require_integer("branches", branches, 2)
    if names is None:
        return [f"branch_{index}" for index in range(branches)]
    several = isinstance(names, Sequence) and not isinstance(names, str)
    words = several and all(isinstance(name, str) for name in names)
    if not words or len(set(names)) != branches or len(names) != branches:
        raise ValueError(
            f"names must be {branches} different strings, one for each of the branches. "
            f"Received: {names=} with {branches=}"
        )
    if not all(_NAME.fullmatch(name) for name in names):
        raise ValueError(
            "names must be of letters, digits, '_', '-' and '.', and begin with a letter or a "
            f"digit, as TensorFlow's scopes. Received: {names=}"
        )
    return list(names)


def _checked_graph(model: keras.Model, at: Any) -> Any:
    """Returns the model's graph as a plain functional model."""
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ValueError(
            "branch takes a model apart, so it must be a functional or a built Sequential model. "
            f"Received: model={model!r}"
        )
    inputs = {_input_layer(tensor) for tensor in model.inputs}
    names = [layer.name for layer in model.layers if layer not in inputs]
    if at not in names:
        raise ValueError(
            f"at must name a layer of the model {model.name!r} after its inputs, not one inside a "
            f"nested model: one of {names}. Received: {at=}"
        )
    return functional(model)


def _parts(graph: Any, at: Any, names: Any) -> tuple[Any, Any, Any]:
    """Returns the trunk, the heads and the students that are made of them.

    The students are ends of one symbolic graph, in which the trunk comes once.
    """
    inputs = new_inputs(graph)
    first, calls = _copy(graph, 0, inputs)
    features = [output for name, output in calls if name == at]
    if len(features) > 1:
        raise ValueError(
            "at must name a layer that runs once. Received: "
            f"{at=}, which runs {len(features)} times"
        )
    trunk = keras.Model(inputs, features[0], name="trunk")
    below = {operation.name for operation in trunk.operations}
    head = _head(first, trunk, at, names[0])
    above = {operation.name for operation in head.operations if operation.name != at}
    if not above.isdisjoint(below):
        raise ValueError(
            "at must part the layers into those of the trunk and those of the heads. Received: "
            f"{at=}, with the layers {sorted(above & below)} on both sides"
        )
    heads, students = {}, {}
    shared = [(name, output if name in below else None) for name, output in calls]
    for index, name in enumerate(names):
        student = _copy(graph, index, inputs, shared)[0] if index else first
        heads[name] = _head(student, trunk, at, name) if index else head
        students[name] = keras.Model(inputs, student.output, name=name)
    return trunk, heads, students


def _copy(graph: Any, index: Any, inputs: Any, shared: Any = ()) -> tuple[Any, Any]:
    """Returns a copy of a graph, and what each call in it gave: (operation's name, output).

    Args:
        graph: Functional model.
        index: Number of the branch.
        inputs: Symbolic inputs of the copy.
        shared: By call, (operation's name, output that stands for it or `None` to copy it).
    """
    calls: list[Any] = []
    kept = {name for name, output in shared if output is not None}
    mark = object()

    def clone(operation: Any) -> Any:
        if operation.name in kept:
            return operation
        return rebuilt(operation, lambda config: _separate(config, index, mark))

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        output = shared[len(calls)][1] if operation.name in kept else operation(*args, **kwargs)
        calls.append((operation.name, output))
        return output

    model = keras.models.clone_model(
        graph, input_tensors=inputs, clone_function=clone, call_function=call
    )
    return model, calls


def _require_copied(graph: Any) -> None:
    """Raises if a branch with the whole state of the model would give other outputs."""
    with draws_kept():
        student, _ = _copy(graph, 0, new_inputs(graph))
    copy_state(graph, student)
    require_same_outputs(graph, student)


def _give_state(graph: Any, trunk: Any, heads: Any) -> None:
    """Gives the trunk the model's state, and to the heads what of it is no weight."""
    for layer in trunk.layers:
        copy_state(graph.get_layer(layer.name), layer)
    for head in heads:
        for layer in head.layers:
            if not isinstance(layer, keras.layers.InputLayer):
                copy_all_but_weights(graph.get_layer(layer.name), layer)


def _head(student: keras.Model, trunk: Any, at: Any, name: str) -> Any:
    """Returns what a student does after the trunk."""
    features = {id(tensor) for tensor in trunk.outputs}
    if all(id(tensor) in features for tensor in student.outputs):
        raise ValueError(f"at must leave some layers to the heads. Received: {at=}, the last one")
    if any(mask_of(tensor) is not None for tensor in trunk.outputs):
        raise ValueError(
            "at must name a layer whose output has no mask, since masks do not pass from model to "
            f"model: one after the last layer that uses it. Received: {at=}"
        )
    try:
        return keras.Model(trunk.output, student.output, name=name)
    except ValueError as error:
        raise ValueError(
            "at must name a layer that all of the model's paths lead through. Received: "
            f"{at=}, around which some lead"
        ) from error


def _require_different(heads: Any, at: Any) -> None:
    first, second = list(heads.values())[:2]
    pairs = zip(first.get_weights(), second.get_weights(), strict=True)
    if all(np.array_equal(one, other) for one, other in pairs):
        raise ValueError(
            "at must leave layers with random weights to the heads: heads that start equal stay "
            f"equal. Received: {at=}, after which come {[layer.name for layer in first.layers[1:]]}"
        )


def _separate(config: dict[str, Any], index: Any, mark: Any) -> Any:
    """Returns a layer's config for one branch, so that nothing of it is that of another branch.

    Every explicit seed is raised by the number of the branch. Keras marks objects that it meets
    several times while it loads a file, and makes one of them; the marks become those of the copy.
    """
    if isinstance(config, list):
        return [_separate(value, index, mark) for value in config]
    if not isinstance(config, Mapping):
        return config
    config = {key: _separate(value, index, mark) for key, value in config.items()}
    if type(config.get("seed")) is int:
        config["seed"] += index
    if "shared_object_id" in config:
        config["shared_object_id"] = (config["shared_object_id"], mark)
    return config


def _input_layer(tensor: Any) -> Any:
    return operation_of(tensor)
