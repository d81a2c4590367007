"""Logits: a model without its final softmax or sigmoid."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras

from modreduce_keras.copying import copy_state
from modreduce_keras.keras_internals import calls_of, history_of
from modreduce_keras.models import head_kinds
from modreduce_keras.models.clones import Cloner, rebuilt
from modreduce_keras.models.fake_quantization import is_quantization_aware
from modreduce_keras.models.graph import input_specs, named_outputs
from modreduce_keras.models.kernel_wrapper import KernelWrapper, plain_layer
from modreduce_keras.models.same_outputs import require_same_outputs

_linear = keras.activations.linear


def as_logits(model: keras.Model) -> keras.Model:
    """Copies a model without the softmax or sigmoid at its end.

    Distillation compares logits, and most models of `keras.applications` end in probabilities. The
    copy is checked on a few random inputs: with the softmax or sigmoid applied, its outputs equal
    the model's (to 1e-6; in half precision to its rounding).

    The weights are copied, because the activation of a shared layer cannot be removed without
    changing the given model. So copy a student before you train it. To deploy probabilities, add
    the softmax to the trained copy: `keras.Sequential([logits, keras.layers.Softmax()])`.

    Args:
        model: A model with one output: functional, Sequential, of keras-hub, or of a class with
            `get_config` that already returns logits. The ending may be the activation of the last
            layer, a layer `Activation` or `Softmax`, or `keras.ops.softmax` or `sigmoid`, also in a
            nested model.

    Returns:
        A model with the same weights that returns logits; a plain copy if the model already does.
        For a keras-hub task, a functional model that takes the outputs of its preprocessor.

    Raises:
        ValueError: If the model does not have exactly one output, its probabilities come from
            something that cannot be removed (the message names the layer), or it cannot be copied.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> layers = [keras.Input((3,)), keras.layers.Dense(2, activation="softmax")]
        >>> teacher = keras.Sequential(layers)
        >>> logits = mr.models.as_logits(teacher)(np.ones((1, 3)))
        >>> bool(np.allclose(keras.ops.softmax(logits), teacher(np.ones((1, 3)))))
        True
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"as_logits takes a built Keras model. Received: {model!r}")
    several = getattr(model, "outputs", None) or [None]
    if len(several) != 1:
        raise ValueError(
            "as_logits takes a model with one output; make one of several first: "
            f"keras.Model(model.input, output). Received: {model.name!r} with {len(several)}"
        )
    outputs = head_kinds.graph_outputs(model)
    ending = ending_of(outputs[0]) if outputs else None
    found = head_kinds.of_model(model)
    if found in (None, head_kinds.LOGITS) and not (ending and ending.is_known):
        ending = None
    elif ending is None:
        raise _refusal(model, found)
    cloner = Cloner()
    if ending is not None:
        cloner.replace(ending.holder, ending.without(), within=(model, *ending.models))
    copy = cloner.clone(model)
    copy_state(model, copy)
    try:
        ended = ending and ending.function
        require_same_outputs(model, copy, tolerance=1e-6 if ending else 1e-4, after=ended)
        is_done = ending is None or head_kinds.of_model(copy) in (None, head_kinds.LOGITS)
    except ValueError as error:
        if ending is None:
            raise
        raise _refusal(model, found, ending) from error
    if not is_done:
        raise _refusal(model, found, ending)
    return copy


class Ending(NamedTuple):
    """What ends a model, if it is something that can be taken away.

    Attributes:
        operation: A layer with an activation, a layer `Softmax`, or an operation.
        holder: The same, or the wrapper that it is in, such as `TimeDistributed`.
        models: The nested models that the holder is in, from the outer one down.
    """

    operation: Any
    holder: Any
    models: tuple[keras.Model, ...]

    @property
    def is_activation(self) -> bool:
        """Whether it is the activation of a layer."""
        return getattr(self.operation, "activation", None) is not None

    @property
    def is_known(self) -> bool:
        """Whether it is a softmax or a sigmoid of Keras."""
        known = head_kinds.by_graph(self.operation)
        return known in (head_kinds.SOFTMAX, head_kinds.SIGMOID)

    @property
    def function(self) -> Callable[[Any], Any]:
        """What it does to logits."""
        return self.operation.activation if self.is_activation else self.operation

    def without(self) -> keras.Operation:
        """Returns what takes the holder's place, with fresh weights."""
        if not self.is_activation:
            dtype = calls_of(self.operation)[0].outputs[0].dtype
            return keras.layers.Identity(name=self.operation.name, dtype=dtype)

        def linear(config: dict[str, Any]) -> dict[str, Any]:
            if self.holder is self.operation:
                return {**config, "activation": "linear"}
            inner = config["layer"]
            inner = {**inner, "config": {**inner["config"], "activation": "linear"}}
            return {**config, "layer": inner}

        return rebuilt(self.holder, linear)

    def expression(self, name: str) -> str:
        """Returns the expression of the layer, in a model of this name."""
        path = [one.name for one in (*self.models, self.holder)]
        layers = "".join(f".get_layer({one!r})" for one in path)
        return f"{name}{layers}{'' if self.holder is self.operation else '.layer'}"


def ending_of(tensor: keras.KerasTensor, models: tuple[keras.Model, ...] = ()) -> Ending | None:
    """Returns what a symbolic output of a model ends in, besides layers that pass it on."""
    operation, call, index = history_of(tensor)
    if isinstance(operation, keras.Model):
        outputs = head_kinds.graph_outputs(operation)
        return ending_of(outputs[index], (*models, operation)) if outputs else None
    holds = type(operation) in head_kinds.OF_ONE_LAYER or isinstance(operation, KernelWrapper)
    inner = plain_layer(operation.layer) if holds else operation
    if head_kinds.is_ending(inner) or getattr(inner, "activation", _linear) not in (None, _linear):
        return Ending(inner, operation, models)
    inputs = calls_of(operation)[call].inputs
    passes_on = type(operation) in (*head_kinds.PASSES_ON, keras.layers.Activation)
    return ending_of(inputs[0], models) if passes_on and len(inputs) == 1 else None


def _refusal(model: keras.Model, found: str | None, ending: Ending | None = None) -> ValueError:
    outputs = head_kinds.graph_outputs(model)
    if is_quantization_aware(model):
        return ValueError(
            "as_logits must come before the rounding, which is done last: mr.quantize_aware("
            f"mr.models.as_logits(student), ...). Received: {model.name!r}, which is "
            "quantization-aware and gives probabilities"
        )
    last = ending.operation if ending else _last(outputs[0]) if outputs else model
    where = f"{last.name!r} ({type(last).__name__})"
    remedy = "Have it return what comes before them."
    if outputs and found in head_kinds.INVERSE:
        remedy = (
            "Build the model without them, or take the logits that they come from: p = "
            f"model.outputs[0]; keras.Model(model.inputs, {head_kinds.INVERSE[found]})."
        )
    return ValueError(
        f"as_logits cannot remove what turns the outputs of {model.name!r} into probabilities: it "
        f"is not a softmax or sigmoid of Keras at the end. They come from {where}. {remedy}"
    )


def _last(tensor: keras.KerasTensor) -> Any:
    operation, _, index = history_of(tensor)
    outputs = head_kinds.graph_outputs(operation)
    return _last(outputs[index]) if outputs else operation


# What mends a model that gives probabilities


def copied_by(model: keras.Model, role: str, tap: str | None = None) -> str:
    """Returns the call that makes a copy which gives logits; `""` where there is none.

    Args:
        model: A model that ends in probabilities.
        role: What the call names it.
        tap: What is read of it. Defaults to `None`, its output.
    """
    outputs = head_kinds.graph_outputs(model)
    fits = tap is None and len(outputs) == 1 and ending_of(outputs[0]) is not None
    return f"mr.models.as_logits({role})" if fits else ""


def remedy(model: keras.Model, name: str, found: str, tap: str | None = None) -> str:
    """Returns the end of a sentence that names the call which gives a model's logits.

    Args:
        model: A model that ends in probabilities.
        name: What the call names it.
        found: What its output is: `"softmax"` or `"sigmoid"`.
        tap: What is read of it. Defaults to `None`, its output.
    """
    name = name if name.isidentifier() else "model"
    outputs, named = head_kinds.graph_outputs(model), named_outputs(model)
    tensor = named.get(tap) if tap is not None else outputs and len(outputs) == 1 and outputs[0]
    ending = ending_of(tensor) if isinstance(tensor, keras.KerasTensor) else None
    if ending is not None and ending.is_activation:
        path = ending.expression(name)
        return f"the weights stay with {path}.activation = keras.activations.linear"
    if tap is not None and tap not in named:
        return f"read a tap before {tap!r}, where there are logits"
    specs = input_specs(model)
    if isinstance(model, keras.Sequential) and outputs:
        inputs, given = f"{name}.inputs[0]", f"{name}.outputs[0]"
    elif outputs:
        inputs, given = f"{name}.input", f"{name}.output"
        given += "" if tap is None else f"[{tap!r}]"
    else:
        inputs, given = _new_inputs(specs), f"{name}(inputs)"
    logits = head_kinds.INVERSE[found]
    every = "z" if tap is None else f"{{**{name}.output, {tap!r}: z}}"
    return (
        f"the logits are inputs = {inputs}; p = {given}; z = {logits}; "
        f"{name} = keras.Model(inputs, {every})"
    )


def _new_inputs(specs: Any) -> str:
    """Returns the expression of new symbolic inputs."""
    if isinstance(specs, Mapping):
        return "{" + ", ".join(f"{key!r}: {_new_inputs(one)}" for key, one in specs.items()) + "}"
    if isinstance(specs, (list, tuple)):
        return "[" + ", ".join(map(_new_inputs, specs)) + "]"
    return f"keras.Input({tuple(specs.shape[1:])})"
