"""Stages: where each ends in a model, what its classifier reads, and its logits, by structure."""

import math
import re
from collections.abc import Collection
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import keras

from modreduce_keras.copying import KERAS_LAYERS
from modreduce_keras.models import head_kinds
from modreduce_keras.models.kernel_wrapper import plain_layer
from modreduce_keras.models.kernels import LOW_RANK
from modreduce_keras.models.structure import (
    INPUT,
    Node,
    Structure,
    is_composite,
    paths_of,
    structure_of,
)

EMBEDDING, LOGITS = "embedding", "logits"
INPUT_OF = "input of "
"""How tables call what a layer is given, where that is the output of no layer."""
_STRUCTURAL = re.compile(rf"{EMBEDDING}|{LOGITS}|stage[1-9]\d*")
_MERGES = ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Subtract")
_KEEPS = (
    *("Activation", "Dropout", "Identity", "Normalization", "ReLU", "ELU", "LeakyReLU", "PReLU"),
    *("Affine", "Gelu", "Silu", "Relu", "Sigmoid", "Tanh", "LayerScale", "DropPath", "Gain"),
)
"""Endings of the names of what changes values, and not what they are of."""
_NO_DRAWS = ("Dropout", "Dropout1D", "Dropout2D", "Dropout3D", "Noise", "Identity", "Masking")
_CLASSIFIERS = (keras.layers.Dense, keras.layers.EinsumDense)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_CHANGE = 2 / 3
"""Sizes change by this factor, or more, from one stage to the next; padding changes them less."""


class Target(NamedTuple):
    """What a structural name stands for.

    Attributes:
        node: Index of the node that gives it.
        layer: The layer to look at.
        call: Which of its calls; `None` where it runs once.
        source: Index among the layer's inputs, if it is one of them: that of an operation that is
            no layer; else `None`.
        path: Names from the model to the layer.
    """

    node: int
    layer: keras.layers.Layer
    call: int | None
    source: int | None
    path: str

    @property
    def shown(self) -> str:
        """How tables call it."""
        path = self.path if self.call is None else f"{self.path}:{self.call}"
        return path if self.source is None else f"{INPUT_OF}{path}"


def is_structural(name: str) -> bool:
    """Returns whether a name is one that stands for a place in the structure of a model."""
    return _STRUCTURAL.fullmatch(name) is not None


class Places:
    """The places of a model that have structural names.

    Args:
        model: A built model.

    Raises:
        ValueError: If its structure cannot be found; the message says why.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        try:
            self.structure: Structure = structure_of(model)
        except Exception as error:  # a user's model may raise anything
            raise ValueError(
                f"the structure of {model.name!r} cannot be found, as {error}"
            ) from None

    @cached_property
    def found(self) -> dict[str, Target]:
        """The places by name: the stages in their order, the embedding, the logits."""
        places = {f"stage{i}": one for i, one in enumerate(self._stages(), 1)}
        for name, one in ((EMBEDDING, self._embedding()), (LOGITS, self._logits())):
            if one is not None:
                places[name] = one
        return places

    def find(self, name: str) -> Target:
        """Returns what a structural name stands for.

        Raises:
            ValueError: If the model has no such place; the message says what there is.
        """
        if name in self.found:
            return self.found[name]
        why = {
            EMBEDDING: "its output is not that of one Dense layer that reads a layer",
            LOGITS: "its last layer gives probabilities, or it has several outputs; "
            "mr.models.as_logits takes a softmax off",
        }
        reason = why.get(name, f"it has {len(self._stages())} stages")
        raise ValueError(f"{reason} (mr.models.taps shows its layers)")

    def stages(self) -> list[tuple[str, Target]]:
        """Returns the names of the stages and where they end."""
        return [(name, one) for name, one in self.found.items() if name.startswith("stage")]

    def node(self, target: Target) -> Node:
        """Returns the node that gives what a target is."""
        return self.structure.nodes[target.node]

    def tap(self, name: str) -> str:
        """Returns the path of the layer at a place; the name itself where that is not a layer.

        Raises:
            ValueError: If there is no such place, or it is not a layer and a layer elsewhere has
                its name, which is what a tap of that name reads.
        """
        target = self.find(name)
        if target.source is None:
            return target.shown
        here, nodes = self.node(target), self.structure.nodes
        alike = {
            nodes[index].path
            for index in here.sources
            if index != INPUT and nodes[index].shape == here.shape
        }
        other = [path for path, _ in paths_of(self.model) if path.rpartition("/")[2] == name]
        if set(other) - alike:
            raise ValueError(
                f"it is the result of no layer, and the layer {other[0]!r} has its name"
            )
        return name

    def depth(self, index: int) -> float:
        """Returns how much of what has weights in a model has run up to a node, from 0 to 1."""
        learning = [i for i in range(len(self.structure.nodes)) if self._learns(i)]
        return sum(i <= index for i in learning) / max(len(learning), 1)

    def stride(self, index: int) -> int | None:
        """Returns how many positions of the input one position stands for, along an axis."""
        seen, sizes = self.structure.sizes, self.structure.nodes[index].sizes
        if seen is None or sizes is None or len(seen) != len(sizes) or None in seen:
            return None
        return max(round(one / other) for one, other in zip(seen, sizes, strict=True))

    # The classifier

    def _head(self) -> int | None:
        """Returns the last Dense layer, or what stands for one, that the output comes from."""
        index = self.structure.output
        while index is not None and index != INPUT:
            node = self.structure.nodes[index]
            layer = plain_layer(node.operation)
            if isinstance(layer, _CLASSIFIERS) or _is_pointwise(self.structure, index):
                return index
            # Reshaping between a convolution and its softmax; nothing that computes.
            passes = _passes_on(node) or node.kind in ("Reshape", "Flatten", "Cast")
            index = node.sources[0] if passes and len(node.sources) == 1 else None
        return None

    def _embedding(self) -> Target | None:
        head = self._head()
        if head is None:
            return None
        reader = self._first_of_two(head)
        index = self.structure.nodes[reader].sources[0]
        while index != INPUT and self.structure.nodes[index].kind.endswith(_NO_DRAWS):
            reader, index = index, self.structure.nodes[index].sources[0]
        return None if index == INPUT else self._target(index, reader)

    def _first_of_two(self, head: int) -> int:
        """Returns the first of the two layers that a classifier of low rank is, or the only one."""
        index = self.structure.nodes[head].sources[0]
        if index == INPUT:
            return head
        one, other = (plain_layer(self.structure.nodes[i].operation) for i in (index, head))
        return index if type(one) is type(other) and one.name == other.name + LOW_RANK else head

    def _logits(self) -> Target | None:
        index = self.structure.output
        if index is None:
            return None
        operation: Any = self.structure.nodes[index].operation
        is_activation = type(operation) is keras.layers.Activation
        if head_kinds.is_ending(operation) or (is_activation and _gives_probabilities(operation)):
            source = self.structure.nodes[index].sources[0]
            return None if source == INPUT else self._target(source, index)
        if _gives_probabilities(operation):
            return None
        return self._target(index)

    # The stages

    def _stages(self) -> list[Target]:
        runs = self._runs()
        if len(runs) == 1:
            runs = self._blocks(runs[0])
        targets = [
            self._end(run, self._shrinks(run, after)) for run, after in pairwise([*runs, []])
        ]
        return [one for one in targets if one is not None]

    def _shrinks(self, run: list[int], after: list[int]) -> bool:
        """Returns whether the next stage, or the next block, is of a smaller or the same size."""
        if not after:
            return False
        one, other = (self.structure.nodes[each[-1]].sizes or () for each in (run, after))
        return math.prod(other) <= math.prod(one)

    def _runs(self) -> list[list[int]]:
        """Returns the nodes of the main path, parted where the resolution changes."""
        runs: list[list[int]] = []
        for index in self._main_path():
            same = runs and not self._changes(runs[-1][-1], index)
            if same:
                runs[-1].append(index)
            else:
                runs.append([index])
        # What only scales the inputs is not a stage.
        starts = [0, *(run[-1] + 1 for run in runs)]
        return [
            run
            for start, run in zip(starts, runs, strict=False)
            if any(self._learns(index) for index in range(start, run[-1] + 1))
        ]

    def _learns(self, index: int) -> bool:
        node = self.structure.nodes[index]
        is_layer = isinstance(node.operation, keras.layers.Layer)
        # An `Affine` is what folding leaves of a normalization.
        only_scales = "Normalization" in node.kind or node.kind == "Affine"
        return is_layer and bool(node.operation.weights) and not only_scales

    def _main_path(self) -> list[int]:
        nodes, alive = self.structure.nodes, self.structure.alive()
        ranks = (3, len(self.structure.sizes or ()) + 2)  # of tokens, of maps like the inputs
        maps = [
            index
            for index, node in enumerate(nodes)
            if node.sizes is not None
            and "Padding" not in node.kind  # a margin, which is much of a small map
            and len(node.shape or ()) in ranks
            and self.structure.last_readers[index] > index
        ]
        least = min((alive[index] for index in maps), default=0)
        by_sizes: dict[Any, int] = {}
        for index in maps:
            sizes = nodes[index].sizes
            by_sizes[sizes] = min(by_sizes.get(sizes, alive[index]), alive[index])
        path: list[int] = []
        end = self._first_of_head()
        for index in maps:
            if index >= end:
                break
            node = nodes[index]
            sizes = node.sizes or ()
            lowest = least if set(sizes) == {1} else by_sizes[sizes]  # gates are of size 1
            if alive[index] > lowest:
                continue
            if path and node.kind.startswith("Global"):
                break
            if "Pooling" in node.kind and set(sizes) == {1} and self._head_follows(index):
                break
            path.append(index)
        return path

    def _first_of_head(self) -> int:
        """Returns the layer that makes logits of maps or tokens, after which there is no stage."""
        index = self.structure.output
        while index is not None and index != INPUT:
            if self._learns(index):
                return index
            sources = self.structure.nodes[index].sources
            index = sources[0] if len(sources) == 1 else None
        return len(self.structure.nodes)

    def _head_follows(self, index: int) -> bool:
        """Returns whether nothing that learns on maps comes after a node, but a classifier."""
        later = range(index + 1, len(self.structure.nodes))
        return not any(
            self._learns(i) and len(self.structure.nodes[i].sizes or ()) > 1 and i != self._head()
            for i in later
        )

    def _changes(self, before: int, after: int) -> bool:
        one, other = (self.structure.nodes[index].sizes or () for index in (before, after))
        if len(one) == len(other):
            pairs = list(zip(one, other, strict=True))
            return any(min(pair) <= _CHANGE * max(pair) for pair in pairs)
        # Patches become tokens, and one of the class may join them.
        return not 0 <= abs(math.prod(other) - math.prod(one)) <= 2

    def _blocks(self, run: list[int]) -> list[list[int]]:
        """Parts the only run of a model at its blocks: layers of one class, or attentions."""
        nodes = self.structure.nodes
        kinds = [nodes[index].kind for index in run if _is_block(nodes[index])]
        repeated = max(kinds, key=kinds.count, default=None)
        if repeated is not None and kinds.count(repeated) > 1:
            starts = [index for index in run if nodes[index].kind == repeated]
        else:
            every = range(len(nodes))
            starts = [index for index in every if "Attention" in nodes[index].kind]
        if len(starts) < 2:
            return [run]
        bounds = [*starts[1:], len(nodes)]
        return [
            [index for index in run if start <= index < bound] or [start]
            for start, bound in zip(starts, bounds, strict=True)
        ]

    def _end(self, run: list[int], shrinks: bool) -> Target | None:
        """Returns the last node of a stage; the next one begins after the last block's end."""
        nodes = self.structure.nodes
        run = [index for index in run if "Padding" not in nodes[index].kind]
        ends = [i for i in run if _is_merge(nodes[i]) or _is_block(nodes[i])]
        # What a preprocessing adds to the inputs is no block.
        if ends and shrinks and any(self._learns(i) for i in range(ends[-1] + 1)):
            last = run.index(ends[-1])
            rest = run[last + 1 :]
            kept = next((k for k, i in enumerate(rest) if not _keeps(nodes[i])), len(rest))
            run = run[: last + 1 + kept]
        while run and nodes[run[-1]].kind.endswith(_NO_DRAWS[:-2]):
            run = run[:-1]
        for index in reversed(run):
            target = self._target(index)
            if target is not None:
                return target
        return None

    def _target(self, index: int, reader: int | None = None) -> Target | None:
        """Returns how what a node gives is read: of its layer, or of the layer that reads it."""
        node = self.structure.nodes[index]
        if node.path is not None and isinstance(node.operation, keras.layers.Layer):
            return Target(index, node.operation, node.call, None, node.path)
        reader = self.structure.reader_of(index) if reader is None else reader
        if reader is None or self.structure.nodes[reader].path is None:
            return None
        other = self.structure.nodes[reader]
        own: Any = other.operation
        return Target(index, own, other.call, other.sources.index(index), str(other.path))


def layers_at(model: keras.Model, taps: Collection[str]) -> list[str]:
    """Returns the names of the layers that structural names among some taps stand for."""
    names = {tap.rpartition("/")[2] for tap in taps}
    places = [name for name in names if is_structural(name)]
    if not places or all(any(path == n for path, _ in paths_of(model)) for n in places):
        return []
    found = Places(model).found
    return [found[name].layer.name for name in places if name in found]


def _passes_on(node: Node) -> bool:
    operation: Any = node.operation
    if head_kinds.is_ending(operation) or type(operation) is keras.layers.Activation:
        return True
    return node.kind.endswith(_NO_DRAWS)


def _gives_probabilities(operation: Any) -> bool:
    return head_kinds.by_graph(operation) in (head_kinds.SOFTMAX, head_kinds.SIGMOID)


def _is_pointwise(structure: Structure, index: int) -> bool:
    """Returns whether a node is a convolution of one position, as good as a Dense layer."""
    node = structure.nodes[index]
    source = node.sources[0] if node.sources else INPUT
    sizes = None if source == INPUT else structure.nodes[source].sizes
    is_convolution = isinstance(plain_layer(node.operation), _CONVOLUTIONS)
    return is_convolution and sizes is not None and set(sizes) == {1}


def _is_block(node: Node) -> bool:
    return is_composite(node.operation) and "Attention" not in node.kind


def _is_merge(node: Node) -> bool:
    if len(set(node.sources)) < 2:
        return False
    layer: Any = node.operation
    # That of one's own may scale one of two, as in InceptionResNetV2.
    is_own = isinstance(layer, keras.layers.Layer) and type(layer) not in KERAS_LAYERS
    return node.kind in _MERGES or (is_own and not layer.weights)


def _keeps(node: Node) -> bool:
    return node.kind.endswith(_KEEPS)
