"""Stacks: chains of like blocks in the graph of a model, such as the layers of a transformer.

A block is what stands between two tensors that everything passes through, but for side inputs
that every block reads, such as a mask. It may be one layer, or many that are merged by residuals.
What Keras computes of masks of its own, which are bool, runs beside the blocks and is in none.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import keras

from modreduce_keras.keras_internals import Call, calls_in_order, flatten_layers
from modreduce_keras.models.graph import functional

_OWN = ("name", "seed", "trainable")
"""What of the config of a layer may differ in like blocks."""
_SHARE = 0.1
"""Part of the weights of a stack from which on another one beside it counts."""


class Block(NamedTuple):
    """One of a chain of like blocks.

    Attributes:
        entry: The symbolic tensor that it is given by the block before.
        exit: The one that it gives.
        operations: What runs in it.
    """

    entry: Any
    exit: Any
    operations: list[keras.Operation]


class Stack(NamedTuple):
    """A chain of like blocks.

    Attributes:
        blocks: In their order.
        weights: How many numbers they hold.
        within: The model that they are in, and those that this is nested in, innermost first.
    """

    blocks: list[Block]
    weights: int
    within: list[keras.Model]


class _Segment(NamedTuple):
    block: Block
    likeness: tuple
    weights: int


def stack_of(model: keras.Model) -> Stack:
    """Returns the chain of like blocks of a functional or a built Sequential model.

    Raises:
        ValueError: If there is none, or there are several; the message says what is there.
    """
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"{model.name!r} is not a functional or Sequential model, so its layers cannot be "
            "rebuilt"
        )
    found = sorted(_stacks(model, []), key=lambda one: one.weights, reverse=True)
    if not found:
        raise ValueError(
            f"{model.name!r} is not a chain of equal blocks: no two consecutive blocks have the "
            "same layers, sizes and side inputs, separate weights, and an output of the same shape "
            "as their input"
        )
    main, *others = found
    inside = {
        id(one)
        for block in main.blocks
        for operation in block.operations
        for one in (operation, *_layers_in(operation))
    }
    for other in others:
        apart = not any(id(one) in inside for block in other.blocks for one in block.operations)
        if apart and other.weights >= _SHARE * main.weights:
            both = " and ".join(f"{len(one.blocks)} from {_first(one)}" for one in (main, other))
            raise ValueError(f"{model.name!r} has several chains of like blocks: {both} on")
    return main


def _layers_in(operation: keras.Operation) -> list[keras.layers.Layer]:
    return flatten_layers(operation) if isinstance(operation, keras.layers.Layer) else []


def _first(stack: Stack) -> str:
    return repr(stack.blocks[0].operations[0].name)


def _stacks(model: keras.Model, outer: list[keras.Model]) -> Iterator[Stack]:
    within = [model, *outer]
    flat = functional(model) if isinstance(model, keras.Sequential) else model
    calls = calls_in_order(flat)
    for several in _segments(flat, calls):
        yield from _runs(several, within)
    for call in calls:
        if isinstance(call.operation, keras.Model) and getattr(call.operation, "inputs", None):
            yield from _stacks(call.operation, within)


def _segments(model: keras.Model, calls: list[Call]) -> Iterator[list[_Segment]]:
    """Yields, for each choice of side inputs, what stands between tensors that all pass through."""
    alive = _alive(model, calls)
    runs = Counter(id(call.operation) for call in calls)
    choices = {frozenset(one - {tensor}) for one in alive for tensor in one}
    tensors = {id(t): t for t in model.inputs}
    tensors |= {id(t): t for call in calls for t in call.outputs}
    for side in choices:
        cuts: dict[int, int] = {}  # from the tensor to the last place where it is the only one
        for place, one in enumerate(alive):
            if len(one - side) == 1:
                cuts[next(iter(one - side))] = place
        ends = list(cuts.items())
        yield [
            _segment(calls[begin:end], tensors[entry], tensors[after], runs)
            for (entry, begin), (after, end) in pairwise(ends)
            if begin < end
        ]


def _alive(model: keras.Model, calls: list[Call]) -> list[set[int]]:
    """Returns the tensors that are still to be read, before each call and after the last."""
    alive = [{id(tensor) for tensor in model.outputs}]
    for call in reversed(calls):
        made = {id(tensor) for tensor in call.outputs}
        read = {id(tensor) for tensor in call.inputs if not _is_bool(tensor)}
        alive.append((alive[-1] - made) | (set() if _is_mask(call) else read))
    return alive[::-1]


def _is_bool(tensor: Any) -> bool:
    return keras.backend.standardize_dtype(tensor.dtype) == "bool"


def _is_mask(call: Call) -> bool:
    """Returns whether a call makes masks, which are no part of what the blocks pass on."""
    return bool(call.outputs) and all(map(_is_bool, call.outputs))


def _segment(calls: list[Call], entry: Any, end: Any, runs: Mapping[int, int]) -> _Segment:
    names: dict[int, Any] = {id(entry): "entry"}
    likeness: list[Any] = [entry.shape == end.shape and entry.dtype == end.dtype]
    operations = []
    for call in calls:
        one = call.operation
        if _is_mask(call):
            if any(id(tensor) in names for tensor in call.inputs):
                likeness.append(call.key)  # it cannot stay without the block
            continue
        read = tuple(
            "mask" if _is_bool(tensor) else names.get(id(tensor), id(tensor))
            for tensor in call.inputs
        )
        shapes = tuple(tuple(weight.shape) for weight in getattr(one, "weights", ()))
        shared = call.key if runs[id(one)] > 1 else None  # what is shared is like nothing else
        likeness.append((type(one), _config(one), shapes, read, shared))
        names |= {id(tensor): len(names) + i for i, tensor in enumerate(call.outputs)}
        operations.append(one)
    weights = [weight for one in operations for weight in getattr(one, "weights", ())]
    size = sum(math.prod(weight.shape) for weight in weights)
    return _Segment(Block(entry, end, operations), tuple(likeness), size)


def _config(operation: keras.Operation) -> str:
    """Returns the config of what runs, without what may differ in like blocks."""
    try:
        return repr(_plain(operation.get_config()))
    except Exception:  # a class without one
        return ""


def _plain(config: Any, numbers: Mapping[str, int] = MappingProxyType({})) -> Any:
    """Returns a config without names; `numbers` are those of the layers of the model it is in."""
    if isinstance(config, Mapping):
        if "input_layers" in config and "layers" in config:
            numbers = {one["name"]: number for number, one in enumerate(config["layers"])}
        kept = {k: v for k, v in config.items() if k not in _OWN and "initializer" not in str(k)}
        return {key: _plain(value, numbers) for key, value in kept.items()}
    if not isinstance(config, (list, tuple)):
        return config
    if len(config) == 3 and isinstance(config[0], str) and config[0] in numbers:
        return [numbers[config[0]], *config[1:]]  # a result: the name of its layer, two indices
    return [_plain(one, numbers) for one in config]


def _runs(several: list[_Segment], within: list[keras.Model]) -> Iterator[Stack]:
    """Yields the longest chain of like blocks in a row of segments, and those beside it."""
    best = max(_chains(several), default=None)
    if best is None or best[0] == 0:
        return
    weights, negative, start, number = best
    period = -negative
    parts = [several[start + i * period : start + (i + 1) * period] for i in range(number)]
    if any(part[0].block.entry.shape != part[-1].block.exit.shape for part in parts):
        return
    blocks = [
        Block(
            part[0].block.entry,
            part[-1].block.exit,
            [one for segment in part for one in segment.block.operations],
        )
        for part in parts
    ]
    yield Stack(blocks, weights, within)
    yield from _runs(several[:start], within)
    yield from _runs(several[start + number * period :], within)


def _chains(several: list[_Segment]) -> Iterator[tuple[int, int, int, int]]:
    """Yields (weights, -period, start, number of blocks) of all chains; the best is the largest.

    Of equal ones it is that of the smallest blocks, and of these the last: where a normalization
    follows each block and the embedding too, a block ends with it.
    """
    total = [0]
    for segment in several:
        total.append(total[-1] + segment.weights)
    for period in range(1, len(several) // 2 + 1):
        alike = 0
        for start in range(len(several) - period - 1, -1, -1):
            one, other = several[start], several[start + period]
            alike = alike + 1 if one.likeness == other.likeness else 0
            number = 1 + alike // period
            if number > 1:
                yield total[start + number * period] - total[start], -period, start, number
