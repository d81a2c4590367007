"""Heads: refuses probabilities where logits are needed, and says what gives them."""

import functools
from typing import Any

import keras

from modreduce_keras.distillers.backend import tensorflow as backend
from modreduce_keras.models import trials
from modreduce_keras.models.graph import input_specs, named_outputs
from modreduce_keras.models.head_kinds import (
    LOGITS,
    SIGMOID,
    by_values,
    graph_outputs,
    of_all,
)
from modreduce_keras.models.logits import copied_by, remedy
from modreduce_keras.taps import TapReader


class Heads:
    """Tells logits from probabilities in a model's outputs and taps; runs the model at most once.

    Args:
        reader: Runs the model and knows its taps.
        specs: The model's symbolic inputs, or `None` where they are not known.
    """

    def __init__(self, reader: TapReader, specs: Any):
        self._reader = reader
        eagerly = backend.outside_of_graphs
        self._trial = functools.cache(
            lambda: trials.first_outputs(reader, reader.model, specs, eagerly)
        )

    def head(self, tap: str | None = None) -> str | None:
        """Returns what a tap gives, or the model's output; see `models.head_kinds.of_model`."""
        if getattr(self._reader.model, "gives_logits", False):
            return LOGITS
        found = of_all(self._looked_at(tap))
        trial = None if found else self._trial()
        if trial is None:
            return found
        inputs, first = trial

        def read(output: Any) -> Any:
            missing = output is None
            return None if missing else output.logits if tap is None else output.features[tap]

        others = (self._run_with(inputs, one) for one in trials.other_weights(self._reader.model))
        return by_values(read(first), map(read, others))

    def _run_with(self, inputs: Any, weights: Any) -> Any:
        return trials.outputs_for(self._reader, inputs, weights, backend.outside_of_graphs)

    def require_logits(
        self, model: keras.Model, role: str, tap: str | None = None, *, plain_numbers: bool = False
    ) -> None:
        """Raises if the model, or a tap of it, gives probabilities where logits are needed.

        Args:
            model: What the message is about: the model, or the one of several that is tapped.
            role: What the message calls it.
            tap: What is read of it. Defaults to `None`, its output.
            plain_numbers: Whether numbers from 0 to 1 will do, as they are compared as they are.

        Raises:
            ValueError: With the call that gives the logits.
        """
        found = self.head(tap)
        if found in (None, LOGITS) or (found == SIGMOID and plain_numbers):
            return
        read, name = "" if tap is None else f" at {tap!r}", role.partition(" ")[0]
        copy = copied_by(model, name, tap)
        raise ValueError(
            f"The {role} {model.name!r} ends in a softmax or sigmoid{read}, but distillation needs "
            "logits: its temperature divides them. "
            + (f"{copy} is a copy that gives them. " if copy else "")
            + "End the model in a linear layer "
            "(keras.layers.Dense(classes)) and train with from_logits=True; of a trained model "
            + remedy(model, name, found, tap)
        )

    def _looked_at(self, tap: str | None) -> list[Any]:
        """Returns the symbolic outputs to look at, or the layer that is tapped."""
        if tap is None:
            return graph_outputs(self._reader.model) or [None]
        if tap in self._reader.outputs:
            model = self._reader.model
            return [named_outputs(model)[tap] if graph_outputs(model) else None]
        # What a layer is given says nothing about the layer: it is run and looked at.
        return [None if self._reader.is_input(tap) else self._reader.taps[tap][0]]


def of_model(model: keras.Model, tap: str | None = None) -> Heads:
    """Returns what tells about a model's output, or one tap of it."""
    return Heads(TapReader(model, [] if tap is None else [tap]), input_specs(model))


def require_logits(model: keras.Model, role: str, *, plain_numbers: bool = False) -> None:
    """Raises if a model gives probabilities where logits are needed; see `Heads`."""
    of_model(model).require_logits(model, role, plain_numbers=plain_numbers)


def compares_plain_numbers(loss: Any) -> bool:
    """Returns whether a loss on outputs takes them as they are: logits or a regression's."""
    return getattr(loss, "least_classes", 2) == 1 and not hasattr(loss, "temperature")
