"""Choosing: the layers of a student that are pruned or clustered, by name, pattern or kind."""

import fnmatch
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras import layers as keras_layers

from modreduce_keras.calls import did_you_mean, listed, stacklevel_of_user
from modreduce_keras.keras_internals import flatten_layers
from modreduce_keras.models.fake_quantization import is_quantization_aware
from modreduce_keras.models.kernel_wrapper import wrappers_in
from modreduce_keras.models.kernels import has_kernel

_DEPTHWISE = (keras_layers.DepthwiseConv1D, keras_layers.DepthwiseConv2D)


def require_model(model: Any, what: str) -> keras.Model:
    """Returns a model whose layers can be rebuilt.

    Raises:
        TypeError: If the model is not a Keras model.
        ValueError: If its layers cannot be rebuilt.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"{what} must be a Keras model. Received: {model!r}")
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"{what} must be a functional or a built Sequential model, so that its layers can be "
            f"rebuilt (for a distiller, pass distiller.student). Received: {model!r}"
        )
    return model


def require_plain(student: Any, what: str) -> keras.Model:
    """Returns a model that can be rebuilt, and in which nothing is rounded or wrapped.

    Raises:
        TypeError: If the model is not a Keras model.
        ValueError: If it is another one.
    """
    model = require_model(student, what)
    if is_quantization_aware(model):
        raise ValueError(
            f"{what} must not be quantization-aware: round it last, such as by "
            "mr.quantize_aware(mr.prune(student, ...)), which keeps the zeros. Received: "
            f"{model.name!r}"
        )
    wrapper = next(wrappers_in(model), None)
    if wrapper is not None:
        raise ValueError(
            f"{what} must not be pruned or clustered yet: give its plain model, "
            f"mr.strip({what}). Received: {model.name!r}, with the layer {wrapper.name!r} of type "
            f"{type(wrapper).__name__}"
        )
    return model


def chosen(model: keras.Model, layers: Any, what: str = "student") -> list[keras.layers.Layer]:
    """Returns the layers with a kernel that are meant.

    Args:
        model: A functional or a Sequential model.
        layers: Names, paths (`"block/conv"`), patterns of these, and classes of layers; or `None`
            for all but depthwise convolutions.
        what: The name of the argument that the model was given as.

    Warns:
        UserWarning: If `None` leaves out kernels in layers that cannot be rebuilt, or with
            LoRA; or if embeddings and recurrent layers have most weights. Attention is left out
            without a warning.

    Raises:
        ValueError: If one means no layer, or a layer without a kernel that is known.
    """
    every = dict(paths_in(model))
    if layers is None:
        found = [one for one in every.values() if is_plain(one) and _is_large(one)]
        left = [text for one in every.values() if (text := _left_out(one))]
        if not found:
            kinds = sorted({type(one).__name__ for one in every.values()})
            raise ValueError(
                f"{what} must have convolutions or dense layers, outside of other layers. "
                f"Received: {model.name!r} of {kinds}{f', with {left}' if left else ''}"
            )
        if left:
            warnings.warn(
                f"Of {model.name!r} these stay as they are: {', '.join(left)}. Build what is "
                "subclassed as a functional model, or name with layers=[...] the layers that are "
                "meant.",
                stacklevel=stacklevel_of_user(),
            )
        _warn_of_most(model, list(every.values()), found)
        return found
    if isinstance(layers, (str, type)) or not isinstance(layers, Iterable):
        raise ValueError(
            "layers must be a list of names and classes of layers, such as ['logits', "
            f"keras.layers.Conv2D], or None for all. Received: {layers=}"
        )
    chosen: dict[int, keras.layers.Layer] = {}
    for one in layers:
        chosen |= {id(layer): layer for layer in _meant(model, every, one)}
    return list(chosen.values())


def _warn_of_most(
    model: keras.Model, every: list[keras.layers.Layer], found: list[keras.layers.Layer]
) -> None:
    """Warns if embeddings and recurrent layers, which nothing here changes, have most weights."""
    kinds = (keras_layers.Embedding, keras_layers.RNN, keras_layers.Bidirectional)
    others = [(one, one.count_params()) for one in every if isinstance(one, kinds)]
    meant, left = sum(one.count_params() for one in found), sum(size for _, size in others)
    if left > meant:
        names = [f"{one.name} ({type(one).__name__}, {size:,})" for one, size in others]
        warnings.warn(
            f"Dense layers and convolutions have {meant:,} of the weights of {model.name!r}. Most "
            f"are elsewhere and stay as they are: {listed(names, 4)}. Make those layers smaller by "
            "distilling a student with fewer words or units.",
            stacklevel=stacklevel_of_user(),
        )


def is_plain(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer's kernel is known and nothing is added to it."""
    return has_kernel(layer) and not getattr(layer, "lora_enabled", False)


def _left_out(layer: keras.layers.Layer) -> str | None:
    """Returns how a layer is named in which kernels are left out; `None` if there are none."""
    kind = type(layer).__name__
    if has_kernel(layer):
        return None if is_plain(layer) else f"{layer.name!r} ({kind} with LoRA)"
    if (isinstance(layer, keras.Model) and getattr(layer, "inputs", None)) or "Attention" in kind:
        return None
    inside = [one for one in flatten_layers(layer, include_self=False) if _is_large(one)]
    return f"{layer.name!r} ({kind} around {len(inside)} with kernels)" if inside else None


def _is_large(layer: keras.layers.Layer) -> bool:
    return has_kernel(layer) and type(layer) not in _DEPTHWISE


def paths_in(model: keras.Model, within: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Returns the layers of a model and of those nested in it, each with its path."""
    for layer in model.layers:
        path = f"{within}{layer.name}"
        yield path, layer
        if isinstance(layer, keras.Model) and getattr(layer, "inputs", None):
            yield from paths_in(layer, f"{path}/")


def _meant(
    model: keras.Model, every: dict[str, keras.layers.Layer], one: Any
) -> list[keras.layers.Layer]:
    found: list[keras.layers.Layer]
    if isinstance(one, type):
        found = [layer for layer in every.values() if type(layer) is one]
    elif isinstance(one, str):
        found = [layer for path, layer in every.items() if _names(one, path)]
    else:
        raise ValueError(f"layers must be names and classes of layers. Received: {one!r}")
    if not found:
        inside = {layer.name for layer in flatten_layers(model)} - {
            layer.name for layer in every.values()
        }
        where = ", which is inside another layer and cannot be selected" * (one in inside)
        with_kernel = [path for path, layer in every.items() if is_plain(layer)]
        name = one if isinstance(one, str) and not where else ""
        hint = did_you_mean(name, list(every)) or f" Those with a kernel: {listed(with_kernel)}."
        raise ValueError(
            f"layers must match layers of {model.name!r}.{hint} Received: {one!r}{where}"
        )
    for layer in found:
        if not is_plain(layer):
            raise ValueError(
                f"layers must match plain convolutions and dense layers{_why(layer)}. "
                f"Received: {layer.name!r} of type {type(layer).__name__}"
            )
    return found


def _why(layer: keras.layers.Layer) -> str:
    if getattr(layer, "lora_enabled", False):
        return " (this one has LoRA weights)"
    return ""


def _names(name: str, path: str) -> bool:
    own = path if "/" in name else path.rpartition("/")[2]
    return fnmatch.fnmatchcase(own, name)
