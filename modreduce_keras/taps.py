"""Taps: one forward pass of any Keras model -> its output and the features named inside it.

A tap is a layer's name, its path through nested models (`"backbone/stage2"`), or the name of an
output of a functional model that returns a dict; where no layer has the name, `"embedding"`,
`"logits"` or `"stage2"` by the structure of the model. The feature is the output of the layer, or
with `"/attention_scores"` the attention map computed inside it. It is recorded while the model
runs, by temporarily wrapping the layer's `call`. The model is not rebuilt and runs once. This is
exact for functional, Sequential, nested and subclassed models, in graphs and under gradients.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
from keras import ops

from modreduce_keras.calls import did_you_mean
from modreduce_keras.keras_internals import calls_of, flatten_layers, mask_of, operation_of
from modreduce_keras.models import attention
from modreduce_keras.models.function_model import is_only_outputs, no_layers_inside
from modreduce_keras.models.graph import named_outputs, own_inputs
from modreduce_keras.models.signs import is_nonnegative
from modreduce_keras.models.stages import INPUT_OF, Places, is_structural
from modreduce_keras.models.structure import paths_of
from modreduce_keras.recording import Record, Recording, recording
from modreduce_keras.symbolic import spec_of

LOGITS = ""
"""The model's output among the masks, as no layer has an empty name."""


class ModelOutput(NamedTuple):
    """The result of one forward pass.

    Attributes:
        logits: The model's output.
        features: The feature of each tap.
        masks: The Keras masks of the features, by tap, and of the output under `LOGITS`; features
            without a mask are missing.
    """

    logits: Any
    features: dict[str, Any]
    masks: Mapping[str, Any] = MappingProxyType({})


class TapReader:
    """Runs a model once and returns its output with the tapped features.

    Args:
        model: A built Keras model.
        taps: Names of layers, or paths such as `"backbone/stage2"`. Where a layer runs several
            times in a pass, `"name:0"` means its first call. `"embedding"`, `"logits"`, `"stage1"`,
            `"stage2"`, ... work in any model, unless a layer has that name; see `mr.models.taps`.

            `"encoder_2/attention_scores"` is the attention map of `encoder_2`: the probabilities
            before dropout, (batch, heads, queries, keys). The layer is a `MultiHeadAttention` or
            `GroupQueryAttention`, a subclass of one, a similar layer of keras-hub, or a block that
            contains one. If the layer would use a fused kernel, it computes the softmax explicitly
            in this pass. `"encoder_2/attention_logits"` are the inputs of that softmax, 0 where the
            layer's mask hides a key from a query. The mask of both has the shape (batch, queries,
            keys). `"query"`, `"key"` and `"value"` after the path of a `MultiHeadAttention` are its
            projections, (batch, tokens, heads, width).
        role: What error messages call the model.

    Raises:
        ValueError: If a tap is unknown or stands for several layers; the message lists them.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential(
        ...     [keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)]
        ... )
        >>> output = TapReader(model, ["hidden"])(np.ones((5, 3)))
        >>> tuple(output.logits.shape), tuple(output.features["hidden"].shape)
        ((5, 2), (5, 4))
    """

    def __init__(
        self, model: keras.Model, taps: Iterable[str] = (), *, role: str = "model"
    ) -> None:
        if not isinstance(model, keras.Model):
            raise TypeError(f"The {role} must be a keras.Model. Received: {model!r}")
        self.model = model
        self.role = role
        taps, outputs = list(taps), named_outputs(model)
        self.outputs = [tap for tap in taps if isinstance(tap, str) and tap in outputs]
        self._places: dict[int, Places] = {}
        self._inputs: dict[str, int] = {}
        self._maps: dict[str, tuple[str, keras.layers.Layer]] = {}
        self.taps = {tap: self._parse(tap) for tap in taps if tap not in self.outputs}

    def __call__(self, inputs: Any, training: bool = False) -> ModelOutput:
        """Runs the model's forward pass once."""
        run = partial(self.model, own_inputs(self.model, inputs), training=training)
        return run_together({"model": self}, lambda: {"model": run()})["model"]

    def specs(self, inputs: Any) -> ModelOutput:
        """Returns the symbolic output and features for symbolic inputs, without computing."""
        return spec_of(self, inputs)

    def output_taps(self) -> list[str]:
        """Returns the taps whose feature is the model's output, of a functional or Sequential one.

        They are those of the last layer, be it in a model that is last itself, which runs once.
        """
        layer, last = self.model, []
        while getattr(layer, "outputs", None):
            output = layer.outputs[0] if isinstance(layer, keras.Sequential) else layer.output
            if not isinstance(output, keras.KerasTensor):
                break
            layer = operation_of(output)
            last.append(layer)
        return [
            tap
            for tap, (tapped, _) in self.taps.items()
            if tapped in last and len(calls_of(tapped)) == 1 and not self.is_input(tap)
        ]

    def is_input(self, tap: str) -> bool:
        """Returns whether a tap is what its layer is given, not what it returns."""
        return tap in self._inputs or self._maps.get(tap, ("",))[0] == attention.LOGITS

    def is_nonnegative(self, tap: str, model: keras.Model) -> bool:
        """Returns whether a tap's feature is known to have no negative numbers.

        Args:
            tap: One of the taps.
            model: The model that it is of: one of several, if the reader's holds them.
        """
        if tap not in self.taps or tap in self._maps:
            return False
        try:
            nodes = self._places_in(model).structure.nodes
        except ValueError:  # nothing is known
            return False
        return is_nonnegative(nodes, *self.taps[tap], self._inputs.get(tap))

    def showing(self) -> list[keras.layers.Layer]:
        """Returns the attention layers whose maps are read."""
        return [layer for _, layer in self._maps.values()]

    def _parse(self, tap: str) -> tuple[keras.layers.Layer, int | None]:
        if not isinstance(tap, str):
            raise ValueError(f"A tap is the name of a layer, a string. Received: {tap!r}")
        name, colon, call = tap.rpartition(":")
        if not (colon and call.isdigit()):
            name, call = tap, ""
        paths = dict(paths_of(self.model))
        found = {p: layer for p, layer in paths.items() if p == name or p.endswith("/" + name)}
        exact = found.get(name)
        if exact is not None:
            found = {name: exact}
        if len({id(layer) for layer in found.values()}) == 1:
            return next(iter(found.values())), int(call) if call else None
        if found:
            raise ValueError(
                f"Tap {tap!r} of the {self.role} {self.model.name!r} stands for several layers. "
                f"Give the path of one: {list(found)}"
            )
        if is_only_outputs(self.model):
            raise ValueError(no_layers_inside(f"the tap {tap!r} of the {self.role}"))
        prefix, _, place = name.rpartition("/")
        if place in attention.MAPS:
            return self._map(tap, prefix, place), int(call) if call else None
        owner = paths.get(prefix) if prefix else self.model
        hint = did_you_mean(name, [*_places_of(owner), *paths])
        if tap.startswith(INPUT_OF):
            hint = " That is no layer's output: tap it as the place that mr.models.taps calls it."
        reason = ""
        if is_structural(place) and not call and isinstance(owner, keras.Model):
            try:
                return self._place(tap, owner, place)
            except ValueError as error:
                reason, hint = f" By structure it has none: {error}.", ""
        maps = [f"{one.path}/{attention.SCORES}" for one in attention.attentions(self.model)]
        raise ValueError(
            f"Unknown tap {tap!r} of the {self.role} {self.model.name!r}.{hint}{reason} "
            f"The taps there are: {[*paths, *maps]}"
        )

    def _map(self, tap: str, prefix: str, name: str) -> keras.layers.Layer:
        """Returns the softmax layer that gives an attention map."""
        try:
            found = attention.find(self.model, prefix)
        except ValueError as error:
            raise ValueError(
                f"Unknown tap {tap!r} of the {self.role} {self.model.name!r}: {error}"
            ) from error
        self._maps[tap] = name, found.layer
        return found.softmax

    def _place(self, tap: str, model: keras.Model, name: str) -> tuple[keras.layers.Layer, Any]:
        """Returns the layer, and its call, at a place of the structure of a model."""
        target = self._places_in(model).find(name)
        if target.source is not None:
            self._inputs[tap] = target.source
        return target.layer, target.call

    def _places_in(self, model: keras.Model) -> Places:
        if id(model) not in self._places:
            self._places[id(model)] = Places(model)
        return self._places[id(model)]

    def read(self, logits: Any, recorded: Recording) -> ModelOutput:
        """Returns the output of a pass with the tapped features among what was recorded."""
        records = {tap: self._pick(tap, recorded) for tap in self.taps}
        maps = {tap: attention.shown(self._maps[tap][0], records[tap]) for tap in self._maps}
        features = {
            tap: maps[tap][0] if tap in maps else self._value(tap, record)
            for tap, record in records.items()
        }
        features |= {name: logits[name] for name in self.outputs}
        masks = {name: _mask_of(value) for name, value in {**features, LOGITS: logits}.items()}
        masks |= {tap: pairs for tap, (_, pairs) in maps.items()}
        masks = {name: mask for name, mask in masks.items() if mask is not None}
        return ModelOutput(logits, features, masks)

    def _pick(self, tap: str, recorded: Recording) -> Record:
        layer, call = self.taps[tap]
        records = recorded.calls_of(layer)
        if call is None and len(records) == 1:
            return records[0]
        if call is not None and call < len(records):
            return records[call]
        name = tap.rpartition(":")[0] or tap
        name = name if tap in self._maps else layer.name
        raise ValueError(
            f"Tap {tap!r} of the {self.role} {self.model.name!r} ran {len(records)} times in one "
            "forward pass. "
            + (
                f"Choose one call of {[f'{name}:{i}' for i in range(len(records))]}."
                if records
                else "Tap a layer that takes part in the forward pass."
            )
        )

    def _value(self, tap: str, record: Record) -> Any:
        if not self.is_input(tap):
            return record.output
        return [one for one in record.inputs if hasattr(one, "shape")][self._inputs[tap]]


def _places_of(model: Any) -> list[str]:
    """Returns the names of a model's places; of one whose structure cannot be found none."""
    try:
        return list(Places(model).found)
    except (AttributeError, ValueError):
        return []


def run_together(
    readers: Mapping[str, TapReader], run: Callable[[], Mapping[str, Any]]
) -> dict[str, ModelOutput]:
    """Runs several models, which may share layers, in one pass.

    Args:
        readers: Reader of each model, by name.
        run: Runs the models' layers and returns the output of each, by name.

    Returns:
        Each model's output and tapped features, by name.
    """
    tapped = [layer for reader in readers.values() for layer, _ in reader.taps.values()]
    showing = [layer for reader in readers.values() for layer in reader.showing()]
    with recording(tapped, showing) as recorded:
        outputs = run()
    return {name: reader.read(outputs[name], recorded) for name, reader in readers.items()}


def _mask_of(feature: Any) -> Any:
    """Returns the mask of a feature; of a list of alike tensors, where all of them are kept."""
    masks = [mask_of(tensor) for tensor in keras.tree.flatten(feature)]
    masks = [ops.cast(mask, "bool") for mask in masks if mask is not None]
    alike = len({tuple(mask.shape) for mask in masks}) == 1
    return functools.reduce(ops.logical_and, masks) if alike else None


@contextlib.contextmanager
def activations_told(models: Iterable[keras.Model], role: str) -> Iterator[None]:
    """Tells what made a model fail, where it is an activation that was set to its name.

    Args:
        models: The models that run.
        role: What error messages call them.

    Raises:
        ValueError: Instead of the error that Keras raises.
    """
    try:
        yield
    except Exception as error:
        for model in models:
            _tell_of_activations(model, role, error)
        raise


def _tell_of_activations(model: keras.Model, role: str, error: Exception) -> None:
    for layer in flatten_layers(model):
        activation = getattr(layer, "activation", None)
        if isinstance(activation, str):
            function = getattr(keras.activations, activation, None)
            call = activation if callable(function) else f"get({activation!r})"
            path = _expression(model, layer, role.partition(" ")[0])
            raise ValueError(
                f"The activation of the layer {layer.name!r} of the {role} {model.name!r} was set "
                "to a name, which Keras resolves only in the constructor of a layer. Set it to the "
                f"function: {path}.activation = keras.activations.{call}. "
                f"Received: activation={activation!r}"
            ) from error


def _expression(model: keras.Model, layer: keras.layers.Layer, name: str) -> str | None:
    """Returns the expression of a layer of a model of this name, or `None`."""
    for child in model.layers:
        own = f"{name}.get_layer({child.name!r})"
        if child is layer:
            return own
        if getattr(child, "layer", None) is layer:  # in a wrapper
            return f"{own}.layer"
        found = _expression(child, layer, own) if isinstance(child, keras.Model) else None
        if found is not None:
            return found
    return "layer" if name.isidentifier() else None
