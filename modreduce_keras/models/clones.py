"""Clones: models built again from the configs of their layers, with the whole state."""

import inspect
import random
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import keras

from modreduce_keras.copying import copy_state, lora_weights
from modreduce_keras.keras_internals import (
    classes_in_configs,
    constructor_arguments,
    flatten_layers,
)
from modreduce_keras.models.graph import defined_by_user, functional, new_inputs
from modreduce_keras.models.same_outputs import require_same_outputs

_OF_EVERY_LAYER = ("dtype", "name", "trainable")
"""Arguments that layers hand on to the constructor of `Layer`."""


def copy_model(model: keras.Model, *, name: str | None = None) -> keras.Model:
    """Copies a model; the copy computes the same and shares nothing with it.

    All state is copied, see `copy_state`; `keras.models.clone_model` with `set_weights` copies only
    the weights. Layers are rebuilt from their configs. The copy is not compiled.

    Args:
        model: A functional or a built Sequential model, or one of a class with `get_config`.
        name: Name of the copy. Defaults to the model's.

    Raises:
        TypeError: If the model is not a Keras model.
        ValueError: If a layer cannot be rebuilt, its state cannot be copied, or the outputs of the
            copy differ; the message names the layer.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> normalization = keras.layers.Normalization()
        >>> normalization.adapt(np.arange(12.0).reshape(4, 3))
        >>> model = keras.Sequential([keras.Input((3,)), normalization, keras.layers.Dense(2)])
        >>> copy = mr.models.copy_model(model)
        >>> bool(np.array_equal(copy(np.ones((2, 3))), model(np.ones((2, 3)))))
        True
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model. Received: {model!r}")
    copy = Cloner().clone(model)
    copy_state(model, copy)
    require_same_outputs(model, copy)
    if name is not None:
        copy.name = name
    return copy


class Cloner:
    """Builds models again from the configs of their layers, with fresh weights.

    A layer that models share is built once.
    """

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._originals: list[Any] = []  # So that no id is given to another object.
        self._others: list[Any] = []
        self._apart: list[Any] = []

    def replace(
        self, layer: keras.Operation, other: keras.Operation, within: Iterable[keras.Model]
    ) -> None:
        """Puts another operation, of one input, in the place of one.

        Args:
            layer: What is replaced.
            other: What takes its place.
            within: The model that it is in, and those that this is nested in.
        """
        self.keep(layer, other)
        self._others.append(other)
        self._apart.extend(within)

    def keep(self, layer: keras.Operation, clone: keras.Operation) -> None:
        """Takes an operation for the clone of another one, wherever that is called."""
        self._made[id(layer)] = clone
        self._originals.append(layer)

    def _call(self, layer: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        is_other = any(layer is one for one in self._others)
        return layer(args[0]) if is_other else layer(*args, **kwargs)

    def clone(self, model: keras.Model, inputs: Any = None) -> keras.Model:
        """Returns the clone of a model, on symbolic inputs of its own where none are given.

        A model of a class with a config of its own is rebuilt from that; of others the graph is.
        """
        own = self._of_own_class(model) if inputs is None else None
        if own is not None:
            return own
        if isinstance(model, keras.Sequential) and model.inputs and inputs is None:
            layers = [self.layer(layer) for layer in model.layers]
            return keras.Sequential([new_inputs(functional(model)), *layers], name=model.name)
        if not getattr(model, "inputs", None):
            return _built_as(model, rebuilt(model))
        flat = functional(model)
        return keras.models.clone_model(
            flat,
            input_tensors=new_inputs(flat) if inputs is None else inputs,
            clone_function=self.layer,
            call_function=self._call,
        )

    def _of_own_class(self, model: keras.Model) -> keras.Model | None:
        """Returns the clone of a functional model of a class that rebuilds it, if it is one."""
        inside = flatten_layers(model, include_self=False)
        if (
            not getattr(model, "inputs", None)
            or not defined_by_user(model, "get_config")
            or any(model is one for one in self._apart)
            or any(id(layer) in self._made for layer in inside)
        ):
            return None
        try:
            copy = _built_as(model, rebuilt(model))
        except ValueError:
            return None  # its graph may do
        made = flatten_layers(copy, include_self=False)
        if [_form(layer) for layer in made] != [_form(layer) for layer in inside]:
            return None  # The config has left something out.
        for layer, clone in zip(inside, made, strict=True):  # that models around it may use too
            self.keep(layer, clone)
        return copy

    def layer(self, layer: keras.Operation) -> keras.Operation:
        """Returns the clone of a layer, a nested model or another operation."""
        if id(layer) not in self._made:
            is_model = isinstance(layer, keras.Model)
            self.keep(layer, self.clone(layer) if is_model else rebuilt(layer))
        return self._made[id(layer)]


def rebuilt(
    layer: keras.Operation, change: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> keras.Operation:
    """Builds a layer again from its config, under the same name.

    Where the config is not what its constructor takes, as of some layers of keras-hub, it is built
    from what it was constructed with, or, where Keras does not know that, from the part of the
    config that the constructor takes, from what every layer has, if it takes nothing else, or with
    classes in its config, which Keras cannot write.

    Args:
        layer: The layer.
        change: Returns another config for the layer's.

    Raises:
        ValueError: If that fails; the message names the layer.
    """
    change = change or (lambda config: config)
    faults = []
    ways: list[tuple[Callable[..., Any], Callable[..., Any]]]
    ways = [(one, nullcontext) for one in (_config, _constructed_with, _taken, _plain)]
    for config_of, context in [*ways, (_config, classes_in_configs)]:
        try:
            with context():
                config = config_of(layer)
                # It may be changed in place.
                copy = type(layer).from_config(change(dict(config)))
        except Exception as error:
            faults.append(error)
            continue
        if "name" not in config:  # so Keras writes the configs of classes without `get_config`
            copy.name = layer.name
        return copy
    raise ValueError(
        f"The layer {layer.name!r} ({type(layer).__name__}) cannot be rebuilt from its config: "
        f"{reason_of(faults[0])}. Its get_config() must return what its constructor takes"
    ) from faults[0]


def _config(layer: keras.Operation) -> dict[str, Any]:
    return layer.get_config()


def _constructed_with(layer: keras.Operation) -> dict[str, Any]:
    given = constructor_arguments(layer) if isinstance(layer, keras.layers.Layer) else None
    if given is None:
        raise ValueError("Keras has not kept the arguments")
    return given


def _taken(layer: keras.Operation) -> dict[str, Any]:
    """Returns the part of a layer's config that its constructor, or that of any layer, takes."""
    named = {*inspect.signature(type(layer)).parameters, *_OF_EVERY_LAYER}
    return {name: value for name, value in layer.get_config().items() if name in named}


def _plain(layer: keras.Operation) -> dict[str, Any]:
    """Returns the config of a layer whose constructor takes only what that of any layer does.

    Given a dtype policy, Keras fails to write it.
    """
    taken = inspect.signature(type(layer)).parameters.values()
    if any(one.kind != one.VAR_KEYWORD for one in taken) or not isinstance(
        layer, keras.layers.Layer
    ):
        raise ValueError("its constructor takes arguments of its own")
    dtype = keras.dtype_policies.serialize(layer.dtype_policy)
    return {"name": layer.name, "trainable": layer.trainable, "dtype": dtype}


def reason_of(error: Exception) -> str:
    """Returns what went wrong, in one line, without the colours and advice that Keras adds."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    *_, inner = text.partition("Exception encountered:")
    what, *others = (inner or text).strip().split("\n\n")
    # Keras says where, then what it tried, and then what that raised.
    while others and (what.endswith(":") or re.search(r"encountered when calling \S+$", what)):
        what = f"{what} {others.pop(0)}"
    return " ".join(what.split())


def _form(layer: keras.layers.Layer) -> tuple[type, list[Any]]:
    return type(layer), [tuple(weight.shape) for weight in layer.weights]


def unfrozen(model: keras.Model) -> keras.Model:
    """Returns a model in which every layer trains, but for kernels that LoRA adapts.

    Layers that are built again from configs are frozen as those that these are of.
    """
    for layer in flatten_layers(model):
        layer.trainable = True  # which passes over layers inside of one where it is so
    for layer in flatten_layers(model):
        for kernel in lora_weights(layer)[:1]:
            kernel.trainable = False
    return model


@contextmanager
def draws_kept() -> Iterator[None]:
    """Keeps the first weights of layers that are built in it from changing those of later ones."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def _built_as(model: keras.Model, copy: keras.Model) -> keras.Model:
    config = model.get_build_config()
    if not copy.built and config:
        copy.build_from_config(config)
    return copy
