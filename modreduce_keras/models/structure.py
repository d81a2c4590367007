"""Structure: what runs in a model in which order, found by one symbolic pass.

It holds for functional, Sequential, nested and subclassed models, whatever their layers are called.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras

from modreduce_keras.keras_internals import flatten_layers, operations_in
from modreduce_keras.models.graph import input_specs
from modreduce_keras.models.kernel_wrapper import KernelWrapper, plain_layer
from modreduce_keras.recording import Record, recording
from modreduce_keras.symbolic import spec_of

INPUT = -1
"""What stands for the model's inputs among the sources of a node."""
_OPEN_SIZES = {2: 16, 3: 64, 4: 224, 5: 32}
"""What stands for sizes that a model leaves open, by the rank of the input."""


class Node(NamedTuple):
    """One operation of a pass: a layer, which may have layers in it, or another operation.

    Attributes:
        operation: What runs.
        path: Names from the model to it; `None` where it is not a layer.
        call: Which of the calls of a layer it is; `None` where there is one.
        sources: Indices of the nodes whose results it is given, `INPUT` for the model's inputs.
        shape: Of its result, with the batch; `None` where there are several.
    """

    operation: keras.Operation
    path: str | None
    call: int | None
    sources: list[int]
    shape: tuple[int | None, ...] | None

    @property
    def kind(self) -> str:
        """Name of the class of what runs; a rounded or masked kernel makes no other layer."""
        return type(plain_layer(self.operation)).__name__

    @property
    def tap(self) -> str | None:
        """What a `TapReader` reads its result by."""
        return self.path if self.call is None or self.path is None else f"{self.path}:{self.call}"

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """Height and width of maps, or the number of tokens; `None` of a vector."""
        if self.shape is None or len(self.shape) < 3:
            return None
        first = getattr(self.operation, "data_format", None) == "channels_first"
        sizes = self.shape[2:] if first else self.shape[1:-1]
        return None if None in sizes else tuple(map(int, sizes))  # type: ignore[arg-type]


class Structure(NamedTuple):
    """What runs in a model.

    Attributes:
        nodes: In the order in which they run.
        last_readers: For each the index of the last one that reads it; infinite for outputs.
        output: Index of the node of the model's only output, or `None`.
        sizes: Height and width of the images that it is given, or the number of tokens.
    """

    nodes: list[Node]
    last_readers: list[float]
    output: int | None
    sizes: tuple[int, ...] | None

    def alive(self) -> list[int]:
        """Returns how many results are still to be read, after each node."""
        ends = self.last_readers
        return [
            sum(ends[earlier] > index for earlier in range(index + 1)) for index in range(len(ends))
        ]

    def reader_of(self, index: int) -> int | None:
        """Returns the first node that is a layer and reads the result of another."""
        later = range(index + 1, len(self.nodes))
        reading = (i for i in later if index in self.nodes[i].sources and self.nodes[i].path)
        return next(reading, None)


def structure_of(model: keras.Model) -> Structure:
    """Returns what runs in a model.

    Raises:
        ValueError: If the model is not built, or does not run symbolically.
    """
    specs = input_specs(model)
    if specs is None:
        raise ValueError(
            "it does not say what it takes"
            if model.built
            else "it is not built: call it once on a batch"
        )
    operations: list[Any] = list(flatten_layers(model))
    for one in [each for each in operations if isinstance(each, keras.Model)]:
        if getattr(one, "inputs", None):
            operations += operations_in(one)
    with recording(operations) as recorded:
        spec_of(model, keras.tree.map_structure(_closed, specs), training=False)
    root = next((one for one in recorded.records if one.operation is model), None)
    if root is None:
        raise ValueError("it does not run as a layer")
    below: dict[int, list[Record]] = {}
    for record in recorded.records:
        below.setdefault(id(record.parent), []).append(record)
    leaves = list(_leaves(root, below))
    made = _Nodes(root, Counter(id(leaf.operation) for leaf in leaves), _paths(model))
    for leaf in leaves:
        made.add(leaf)
    return made.structure()


def _closed(spec: Any) -> Any:
    size = _OPEN_SIZES.get(len(spec.shape), 16)
    shape = (spec.shape[0], *(size if one is None else one for one in spec.shape[1:]))
    return keras.KerasTensor(shape, spec.dtype)


class _Nodes:
    """The nodes of a structure, while its calls are added in their order.

    Args:
        root: The call of the whole model.
        totals: How often each operation is called, by its `id`.
        paths: Path of each layer, by its `id`.
    """

    def __init__(self, root: Record, totals: Mapping[int, int], paths: Mapping[int, str]):
        self._root, self._totals, self._paths = root, totals, paths
        self._called: Counter[int] = Counter()
        self._nodes: list[Node] = []
        self._ends: list[float] = []
        # Which node has made a tensor, or that it is an input, by its `id`.
        self._source = {id(one): INPUT for one in _tensors(root.inputs)}

    def add(self, leaf: Record) -> None:
        """Adds a call, and what its inputs come from where no call has made them."""
        outputs = _tensors(leaf.output)
        if outputs and all(map(_is_bool, outputs)):
            return  # a mask, which Keras passes on beside the results
        tensors = _tensors(leaf.inputs)
        tensors = [one for one in tensors if id(one) in self._source or not _is_bool(one)]
        for one in tensors:
            if id(one) not in self._source:
                # What code of its own, or a cast, has made of an earlier result.
                before = _latest(self._nodes, [one])
                between = Node(keras.Operation(), None, None, [before], tuple(one.shape))
                self._append(between, [one])
        key = id(leaf.operation)
        call = self._called[key] if self._totals[key] > 1 else None
        self._called[key] += 1
        shape = tuple(outputs[0].shape) if len(outputs) == 1 else None
        sources = [self._source[id(one)] for one in tensors]
        self._append(Node(leaf.operation, self._paths.get(key), call, sources, shape), outputs)

    def _append(self, node: Node, outputs: list[Any]) -> None:
        index = len(self._nodes)
        for source in node.sources:
            if source != INPUT:
                self._ends[source] = index
        self._nodes.append(node)
        self._ends.append(-1)
        self._source |= {id(one): index for one in outputs}

    def structure(self) -> Structure:
        """Returns the structure of the calls that were added."""
        outputs = _tensors(self._root.output)
        made = [self._source.get(id(one), INPUT) for one in outputs]
        for index in made:
            if index != INPUT:
                self._ends[index] = math.inf
        output = made[0] if len(outputs) == 1 and made[0] != INPUT else None
        if output is None and len(outputs) == 1 and self._nodes:
            output = _latest(self._nodes, outputs)
            self._ends[output] = math.inf
        sizes = [tuple(one.shape)[1:] for one in _tensors(self._root.inputs)]
        images = [shape[:-1] for shape in sizes if len(shape) > 1]
        seen = next(iter(images), next((shape for shape in sizes if len(shape) == 1), None))
        return Structure(self._nodes, self._ends, output, seen)


def _tensors(several: Any) -> list[Any]:
    return [one for one in keras.tree.flatten(several) if hasattr(one, "shape")]


def _is_bool(tensor: Any) -> bool:
    return keras.backend.standardize_dtype(tensor.dtype) == "bool"


def _latest(nodes: list[Node], tensors: list[Any]) -> int:
    """Returns the last node whose result has the shape of one of some tensors, or the last one."""
    shapes = {tuple(one.shape) for one in tensors}
    fitting = (i for i in range(len(nodes) - 1, -1, -1) if nodes[i].shape in shapes)
    return next(fitting, len(nodes) - 1)


def _leaves(record: Record, below: dict[int, list[Record]]) -> Iterator[Record]:
    """Yields the calls that count as one: nested models are taken apart, and rows of blocks."""
    for inner in below.get(id(record), []):
        own = below.get(id(inner), [])
        if own and (isinstance(inner.operation, keras.Model) or _holds_blocks(own)):
            yield from _leaves(inner, below)
        else:
            yield inner


def _holds_blocks(records: list[Record]) -> bool:
    kinds = [type(one.operation) for one in records if is_composite(one.operation)]
    return any(kinds.count(kind) > 1 for kind in kinds)


def is_composite(operation: keras.Operation) -> bool:
    """Returns whether an operation is a layer with layers in it that have weights."""
    if not isinstance(operation, keras.layers.Layer) or isinstance(operation, KernelWrapper):
        return False
    return any(one.weights for one in flatten_layers(operation, include_self=False))


def _paths(model: keras.Model) -> dict[int, str]:
    found: dict[int, str] = {}
    for path, layer in paths_of(model):
        found.setdefault(id(layer), path)
    return found


def paths_of(layer: keras.layers.Layer, prefix: str = "") -> Iterator[Any]:
    """Yields (path, layer) for every layer below one, outer layers first."""
    for child in flatten_layers(layer, include_self=False, recursive=False):
        path = prefix + child.name
        yield path, child
        yield from paths_of(child, path + "/")
