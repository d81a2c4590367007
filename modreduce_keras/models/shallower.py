"""Shallower models: students that start from some of the layers of their teacher."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from modreduce_keras.arguments import require_integer
from modreduce_keras.copying import copy_state
from modreduce_keras.keras_internals import flatten_layers, operation_of
from modreduce_keras.models.clones import Cloner, unfrozen
from modreduce_keras.models.deep_layers import DEPTH, DeepLayer, deep_layer_of, shortened
from modreduce_keras.models.graph import Graph, defined_by_user, functional, new_inputs
from modreduce_keras.models.same_outputs import require_same_outputs
from modreduce_keras.models.stacks import Block, Stack, stack_of

_BACKBONE, _PREPROCESSOR = "backbone", "preprocessor"
"""What configs of keras-hub call the model inside and what is before it."""


def shallower(
    teacher: keras.Model,
    *,
    layers: Sequence[int] | None = None,
    every: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds a student from some of the blocks of a teacher, with the teacher's weights.

    The teacher is a stack of equal blocks: transformer layers, residual blocks of one size, or
    dense layers. A block may be one layer or several, in a functional or Sequential model or in a
    model nested in it, such as the backbone of a classifier. The blocks may also be a list in one
    layer whose config has their number as `num_layers`, such as the encoder of keras-hub's vision
    transformer. Layers before and after the blocks are kept. All state is copied and nothing is
    shared. All layers are trainable, also those that are frozen in the teacher.

    Models of keras-hub keep their class: backbones with another `num_layers`, and tasks. Others
    become plain functional or Sequential models, whose layers have the teacher's names.

    Args:
        teacher: A functional or a built Sequential model.
        layers: Numbers of the blocks to keep, counted from 0, in ascending order.
        every: Keeps every n-th block: `every=2` is `layers=[0, 2, 4, ...]`, as in DistilBERT. Less
            than the number of blocks.
        name: Name of the result. Defaults to the teacher's.

    Returns:
        The student, not compiled.

    Raises:
        ValueError: If neither or both of `layers` and `every` are given, they name blocks that do
            not exist, or the teacher is not a single chain of equal blocks; the message says what
            it is.

    Example:
        >>> import keras, modreduce_keras as mr
        >>> blocks = [keras.layers.Dense(8, activation="relu", name=f"block_{i}") for i in range(4)]
        >>> ends = keras.layers.Dense(8, name="first"), keras.layers.Dense(3, name="logits")
        >>> teacher = keras.Sequential([keras.Input((5,)), ends[0], *blocks, ends[1]])
        >>> student = mr.models.shallower(teacher, every=2)
        >>> [layer.name for layer in student.layers]
        ['first', 'block_0', 'block_2', 'logits']

    Reference:
        Sanh et al., DistilBERT, a distilled version of BERT, 2019.
    """
    if not isinstance(teacher, keras.Model):
        raise TypeError(f"teacher must be a keras.Model. Received: {teacher!r}")
    if (layers is None) == (every is None):
        raise ValueError(
            "shallower takes either layers=[0, 2, 4], the blocks to keep, or every=2. Received: "
            f"{layers=}, {every=}"
        )
    stack = _stack_in(teacher)
    kept = _kept(layers, every, len(stack.blocks))
    student = unfrozen(_shortened(teacher, stack, kept))
    if name is not None:
        student.name = name
    return student


def _stack_in(teacher: keras.Model) -> Stack | DeepLayer:
    """Returns the blocks of a teacher: in its graph, or else in one of its layers."""
    try:
        return stack_of(teacher)
    except ValueError as error:
        deep = deep_layer_of(teacher)
        if deep is not None:
            return deep
        raise ValueError(
            f"shallower takes one stack of like blocks, and {error}. mr.models.taps shows the "
            f"layers. Received: teacher={teacher.name!r}"
        ) from error


def _kept(layers: Sequence[int] | None, every: int | None, number: int) -> list[int]:
    """Returns the numbers of the blocks to keep, or raises if they are invalid."""
    if layers is None:
        every = require_integer("every", every)
        if every >= number:
            raise ValueError(
                f"every must be less than the {number} blocks of the teacher (layers=[0] keeps the "
                f"first one alone). Received: {every=}"
            )
        return list(range(0, number, every))
    given = list(layers) if isinstance(layers, (Sequence, np.ndarray)) else []
    kept = [
        int(one)
        for one in given
        if isinstance(one, (int, np.integer)) and not isinstance(one, bool) and 0 <= one < number
    ]
    if not kept or len(kept) < len(given) or kept != sorted(set(kept)):
        raise ValueError(
            f"layers must be numbers of the {number} blocks of the teacher, from 0 to "
            f"{number - 1}, each once and in their order. Received: {layers=}"
        )
    return kept


def _shortened(teacher: keras.Model, stack: Stack | DeepLayer, kept: list[int]) -> keras.Model:
    inner, *outer = stack.within
    if isinstance(stack, DeepLayer):
        new = _around(inner, stack.layer, shortened(stack, kept))
    else:
        new = _without(inner, stack, kept)
    new = _shortened_class(inner, new, len(stack.blocks), len(kept))
    for model in outer:
        new = _around(model, inner, new)
        inner = model
    return new


def _without(model: keras.Model, stack: Stack, kept: list[int]) -> keras.Model:
    """Returns the clone of the model that a stack is in, without the blocks that are left out."""
    left_out = [block for i, block in enumerate(stack.blocks) if i not in kept]
    try:
        return _cut(model, left_out, Cloner())
    except ValueError:
        # Layers whose configs are wrong can come from the class of the model.
        cloner = Cloner()
        cloner.clone(model)
        return _cut(model, left_out, cloner)


def _cut(model: keras.Model, left_out: list[Block], cloner: Cloner) -> keras.Model:
    dropped = {id(one): one for block in left_out for one in block.operations}
    if isinstance(model, keras.Sequential):
        layers = [cloner.layer(one) for one in model.layers if id(one) not in dropped]
        new = keras.Sequential([new_inputs(functional(model)), *layers], name=model.name)
    else:
        new = _rewired(model, left_out, dropped, cloner)
    for layer in model.layers:
        if id(layer) not in dropped and not isinstance(layer, keras.layers.InputLayer):
            copy_state(layer, cloner.layer(layer))
    return new


class _Dropped:
    """Stands for an operation that is left out, while a graph is cloned."""

    def __init__(self, operation: keras.Operation) -> None:
        self.operation = operation


def _rewired(
    model: keras.Model, left_out: list[Block], dropped: dict[int, Any], cloner: Cloner
) -> keras.Model:
    """Returns a clone of a graph in which each block left out passes on what it is given."""
    model = functional(model)  # which is not compiled
    graph, inputs = Graph(model), new_inputs(model)
    made = {id(one): new for one, new in zip(model.inputs, keras.tree.flatten(inputs), strict=True)}
    passing = {id(operation_of(block.exit)): block.entry for block in left_out}
    originals: dict[int, keras.Operation] = {}

    def clone(operation: keras.Operation) -> Any:
        if id(operation) in dropped:
            return _Dropped(operation)
        new = cloner.layer(operation)
        originals[id(new)] = operation
        return new

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        is_dropped = isinstance(operation, _Dropped)
        original = operation.operation if is_dropped else originals[id(operation)]
        before = graph.output_of(original)
        if not is_dropped:
            outputs = operation(*args, **kwargs)
        elif id(original) in passing:
            outputs = made[id(passing[id(original)])]
        else:
            return before  # nothing reads it
        if before is not None:
            flat = zip(before, keras.tree.flatten(outputs), strict=True)
            made.update({id(one): new for one, new in flat})
        return outputs

    return keras.models.clone_model(
        model, input_tensors=inputs, clone_function=clone, call_function=call
    )


def _around(model: keras.Model, inner: keras.layers.Layer, new: keras.layers.Layer) -> keras.Model:
    """Returns the clone of a model with another layer, or model, in the place of one in it."""
    cloner = Cloner()
    cloner.replace(inner, new, within=[model])
    for layer, other in _shared(model, inner, new):
        cloner.keep(layer, other)
    clone = cloner.clone(model)
    others = [one for one in model.layers if one is not inner]
    others = [one for one in others if not isinstance(one, keras.layers.InputLayer)]
    for layer in others:
        copy_state(layer, cloner.layer(layer))
    if getattr(model, _BACKBONE, None) is not inner:
        return clone
    given = {_BACKBONE: new, _PREPROCESSOR: getattr(model, _PREPROCESSOR, None)}
    fresh = _of_class(model, given)
    return fresh if fresh is not None and _takes(clone, fresh) else clone


def _shared(
    model: keras.Model, inner: keras.layers.Layer, new: keras.layers.Layer
) -> list[tuple[Any, Any]]:
    """Returns layers that a model calls and that are in a nested one too, such as tied embeddings.

    Beside each is the layer of its name in what takes the place of the nested model.
    """
    inside = {id(layer) for layer in flatten_layers(inner, include_self=False)}
    others = {layer.name: layer for layer in flatten_layers(new, include_self=False)}
    pairs = [(one, others.get(one.name)) for one in model.layers if id(one) in inside]
    return [(one, other) for one, other in pairs if type(one) is type(other)]


def _shortened_class(model: keras.Model, new: keras.Model, blocks: int, kept: int) -> keras.Model:
    """Returns a shortened model in the class of its original, where its config has `num_layers`.

    It is the plain functional one where the class makes something else of that than the blocks
    that are kept.
    """
    config = model.get_config() if defined_by_user(model, "get_config") else {}
    if config.get(DEPTH) != blocks:
        return new
    fresh = _of_class(model, {DEPTH: kept})
    return fresh if fresh is not None and _takes(new, fresh) else new


def _of_class(model: keras.Model, changes: dict[str, Any]) -> keras.Model | None:
    """Returns a new model of a class from its config with changes, `None` if there is none."""
    if not defined_by_user(model, "get_config"):
        return None
    try:
        config = model.get_config()
        known = {name: one for name, one in changes.items() if name in config}
        return type(model).from_config({**config, **known})
    except Exception:
        return None  # its graph is what was asked for


def _takes(source: keras.Model, target: keras.Model) -> bool:
    """Gives a model the state of another one; returns whether it then gives the same outputs."""
    try:
        copy_state(source, target)
        require_same_outputs(source, target)
    except ValueError:
        return False
    return True
