"""Symbolic weights: lets the `call` of a layer be traced with its own weights as layers."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from modreduce_keras.copying import KERAS_LAYERS, parts
from modreduce_keras.keras_internals import calls_as, delete_unnoticed, set_unnoticed
from modreduce_keras.models.clones import rebuilt
from modreduce_keras.models.held_weights import HeldWeight


class Held:
    """The layers that stand for weights.

    Attributes:
        variables: The weights, by the `id` of the layers.
    """

    def __init__(self) -> None:
        self.variables: dict[int, keras.Variable] = {}
        self._tensors: dict[int, Any] = {}
        self._layers: list[HeldWeight] = []  # So that no id is given to another object.

    def hold(self, variable: keras.Variable, within: keras.layers.Layer, anchor: Any) -> Any:
        """Returns a symbolic tensor that stands for a weight.

        Args:
            variable: The weight.
            within: The layer that it is of.
            anchor: Any tensor of the functional model that is to be.
        """
        if id(variable) in self._tensors:
            return self._tensors[id(variable)]
        layer = HeldWeight(
            variable.shape,
            regularizer=variable.regularizer,
            constraint=variable.constraint,
            name=f"{within.name}_{variable.name}",
            dtype=within.dtype_policy,
            trainable=variable.trainable,
        )
        tensor = layer(anchor)
        layer.set_weights([ops.convert_to_numpy(variable)])
        self._layers.append(layer)
        self.variables[id(layer)] = variable
        self._tensors[id(variable)] = tensor
        return tensor


@contextlib.contextmanager
def symbolic_weights(
    layer: keras.layers.Layer, anchor: Any, *, opens_all: bool = False
) -> Iterator[Held]:
    """Lets the own weights of a layer be symbolic tensors meanwhile.

    So are those of layers in it that are given constants alone, as an embedding of positions is.
    Layers in it that cannot be copied, since no config tells how to build them, show what they are
    made of.

    Args:
        layer: The layer.
        anchor: Any tensor of the functional model that is to be.
        opens_all: Whether layers in it that can be copied show what they are made of, too.
    """
    held = Held()
    inside = [one for one in parts(layer)[1:] if _own(one)]
    with contextlib.ExitStack() as stack:
        for one in inside:
            call = functools.partial(_called, one, one.call, held, anchor)
            set_unnoticed(one, "call", call)
            stack.callback(delete_unnoticed, one, "call")
        opened = _is_own_layer if opens_all else _is_opened
        for one in filter(opened, parts(layer)[1:]):
            stack.enter_context(calls_as(one, functools.partial(_opened, one, held, anchor)))
        stack.enter_context(_replaced(layer, held, anchor))
        yield held


def _own(layer: keras.layers.Layer) -> dict[str, keras.Variable]:
    """Returns the weights among the attributes of a layer, by name."""
    found = {name: one for name, one in vars(layer).items() if isinstance(one, keras.Variable)}
    return {name: one for name, one in found.items() if "float" in one.dtype}


@contextlib.contextmanager
def _replaced(layer: keras.layers.Layer, held: Held, anchor: Any) -> Iterator[None]:
    own = _own(layer)
    try:
        for name, variable in own.items():
            set_unnoticed(layer, name, held.hold(variable, layer, anchor))
        yield
    finally:
        for name, variable in own.items():
            set_unnoticed(layer, name, variable)


def _called(
    layer: keras.layers.Layer, call: Any, held: Held, anchor: Any, *args: Any, **kwargs: Any
) -> Any:
    given = keras.tree.flatten((args, kwargs))
    are_constants = all(map(_is_constant, given))
    with _replaced(layer, held, anchor) if are_constants else contextlib.nullcontext():
        return call(*args, **kwargs)


def _is_own_layer(layer: keras.layers.Layer) -> bool:
    return type(layer) not in KERAS_LAYERS and not isinstance(layer, keras.Model)


def _is_opened(layer: keras.layers.Layer) -> bool:
    if not _is_own_layer(layer):
        return False
    try:
        rebuilt(layer)
        config = layer.get_config()
    except Exception:  # a `get_config` may raise anything
        return True
    # A config that holds a layer is not what the constructor has been given.
    return any(isinstance(one, keras.layers.Layer) for one in config.values())


def _opened(layer: keras.layers.Layer, held: Held, anchor: Any, *args: Any, **kwargs: Any) -> Any:
    with _replaced(layer, held, anchor):
        return layer.call(*args, **kwargs)


def _is_constant(given: Any) -> bool:
    if isinstance(given, keras.KerasTensor):
        return False
    if not keras.ops.is_tensor(given):
        return True
    try:
        ops.convert_to_numpy(given)
    except Exception:  # a tensor of a graph, in which Keras finds shapes
        return False
    return True
