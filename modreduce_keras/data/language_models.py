"""Language models: what a model that continues texts must take and give, before it writes."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from modreduce_keras.keras_internals import flatten_layers
from modreduce_keras.models import head_kinds
from modreduce_keras.models.graph import input_specs

TOKENS, PADDING = "token_ids", "padding_mask"
"""What the inputs of keras-hub's causal models are called."""


def inputs_of(model: Any) -> Callable[[np.ndarray, np.ndarray], Any]:
    """Returns a function from tokens and the mask of non-padding tokens to a model's inputs.

    Args:
        model: A causal language model, or a function of the tokens.

    Raises:
        ValueError: If the model has other inputs than tokens and perhaps a mask.
    """
    declared = getattr(model, "input", None) if getattr(model, "inputs", None) else None
    if isinstance(declared, Mapping):
        if not {TOKENS} <= set(declared) <= {TOKENS, PADDING}:
            raise ValueError(
                f"A model that writes text takes tokens, or a dict of {TOKENS!r} and {PADDING!r}. "
                f"Received: a model with the inputs {list(declared)}"
            )
        names = list(declared)

        def by_name(tokens: np.ndarray, kept: np.ndarray) -> Any:
            given = {TOKENS: tokens, PADDING: kept.astype("int32")}
            return {name: given[name] for name in names}

        return by_name
    return lambda tokens, kept: tokens


_NEEDED = "A model that writes text must return logits (batch, length, vocabulary)"


def require_logits(model: Any) -> None:
    """Raises if a Keras model returns probabilities; of functions the first outputs tell.

    Raises:
        ValueError: With the call that gives the logits.
    """
    unknown = not isinstance(model, keras.Model) or getattr(model, "gives_logits", False)
    head = None if unknown else head_kinds.of_model(model)
    if head not in (None, head_kinds.LOGITS):
        raise ValueError(
            f"{_NEEDED}: their softmax is what tokens are drawn by. mr.models.as_logits(model) "
            f"takes a softmax off. Received: {model.name!r}, which ends in a {head}"
        )


def require_fitting(model: Any, length: int, tokens: Mapping[str, Any]) -> None:
    """Raises if a functional model does not take the texts; others are not known before they run.

    Args:
        model: The model, or a function of users.
        length: Number of tokens that it is given.
        tokens: What it is given, by the name of the argument: an array of tokens, one, or `None`.

    Raises:
        ValueError: If it takes texts of another length, does not know a token, or returns something
            of another shape than logits for each position.
    """
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        return
    if len(model.outputs) != 1:
        raise ValueError(f"{_NEEDED}. Received: {model.name!r} with {len(model.outputs)} outputs")
    require_positions(tuple(model.outputs[0].shape))
    _require_length(model, length)
    _require_known(model, model.outputs[0].shape[-1], tokens)


def require_positions(shape: tuple[int | None, ...]) -> None:
    """Raises if an output of this shape is not one for each position.

    Raises:
        ValueError: If it has other axes.
    """
    if len(shape) != 3:
        raise ValueError(f"{_NEEDED}. Received: an output of shape {shape}")


def require_unscaled(rows: np.ndarray) -> None:
    """Raises if outputs of a model are probabilities by their values.

    Args:
        rows: What is taken for logits, (batch, vocabulary).

    Raises:
        ValueError: If no number is negative, and each row sums to one.
    """
    if head_kinds.by_values(rows, ()) == head_kinds.SOFTMAX:
        raise ValueError(
            f"{_NEEDED}: tokens are sampled from their softmax. A function that has probabilities "
            "p must return keras.ops.log(p). Received: rows of outputs that are not negative, and "
            "sum to one"
        )


def _require_length(model: keras.Model, length: int) -> None:
    specs = input_specs(model)
    given = specs[TOKENS] if isinstance(specs, Mapping) else keras.tree.flatten(specs)[0]
    fixed = given.shape[1] if len(given.shape) > 1 else None
    if fixed not in (None, length):
        raise ValueError(
            f"length must be the number of tokens that the model takes: length={fixed}; "
            "keras.Input((None,)) takes any number. "
            f"Received: {length=} for {model.name!r} with an input of shape {tuple(given.shape)}"
        )


def _require_known(model: keras.Model, vocabulary: int | None, tokens: Mapping[str, Any]) -> None:
    # A model may read tokens that it never writes, such as one that begins a text.
    layers = flatten_layers(model)
    sizes = [one.input_dim for one in layers if isinstance(one, keras.layers.Embedding)]
    words = max([vocabulary or 0, *sizes])
    for name, given in tokens.items():
        known = given is None or not words
        wrong = [] if known else [one for one in np.unique(given) if not 0 <= one < words]
        if wrong:
            raise ValueError(
                f"{name} must be of the tokens that {model.name!r} knows, from 0 to {words - 1}. "
                f"Received: {name} with {[int(one) for one in wrong[:8]]}"
            )
