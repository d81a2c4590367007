"""Layers: what is inside them, and attributes that Keras is not to notice."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras


def flatten_layers(
    layer: keras.layers.Layer, *, include_self: bool = True, recursive: bool = True
) -> list[keras.layers.Layer]:
    """Returns the layers inside a layer, at any depth or one level down.

    Relies on `Layer._flatten_layers`; the public `Model.layers` is one level deep, of models alone.
    """
    return layer._flatten_layers(include_self=include_self, recursive=recursive)


class ConvNeXtLayers(NamedTuple):
    """Layers that ConvNeXt of `keras.applications` brings.

    Attributes:
        scale: Multiplies each channel by a weight.
        depth: Drops whole branches in training.
    """

    scale: type[keras.layers.Layer]
    depth: type[keras.layers.Layer]


def layers_of_convnext() -> ConvNeXtLayers:
    """Returns the classes of two layers of ConvNeXt.

    Relies on where they are defined; `keras.applications` does not show them.
    """
    convnext = keras.src.applications.convnext
    return ConvNeXtLayers(convnext.LayerScale, convnext.StochasticDepth)


def own_losses(layer: keras.layers.Layer) -> list[Any]:
    """Returns what a layer itself has added by `add_loss`, without the layers inside it.

    Relies on `Layer._get_own_losses`, which `Layer.losses` sums up over all layers.
    """
    return layer._get_own_losses()


def constructor_arguments(layer: keras.layers.Layer) -> dict[str, Any] | None:
    """Returns what a layer was constructed with, or `None` where that is no plain values.

    The name and the precision are those that the layer has, where its constructor takes them.

    Relies on `Operation._auto_config`, from which Keras writes configs of classes that have no
    `get_config`. It is there for those that have one, too, and knows what theirs may have wrong.
    """
    kept = getattr(layer, "_auto_config", None)
    if kept is None:
        return None
    taken = inspect.signature(type(layer)).parameters.values()
    takes_more = any(one.kind == one.VAR_KEYWORD for one in taken)
    has = {"name": layer.name, "dtype": keras.dtype_policies.serialize(layer.dtype_policy)}
    names = {one.name for one in taken}
    return kept.config | {k: v for k, v in has.items() if takes_more or k in names}


def set_unnoticed(layer: keras.layers.Layer, name: str, value: Any) -> None:
    """Sets an attribute so that Keras neither tracks the value nor wraps it.

    Relies on Keras hooking `__setattr__` alone, and on calls looking up `layer.call` each time.
    """
    vars(layer)[name] = value


def delete_unnoticed(layer: keras.layers.Layer, name: str) -> None:
    """Deletes what `set_unnoticed` has set; the attribute of the class shows again.

    Relies on Keras hooking `__delattr__` alone.
    """
    del vars(layer)[name]


@contextlib.contextmanager
def calls_as(layer: keras.layers.Layer, function: Callable[..., Any]) -> Iterator[None]:
    """Lets a function answer when a layer is given symbolic tensors, and no node be made of it.

    Relies on `Layer.__call__` being found by the class, and on layers taking another class that
    adds nothing else.
    """
    kind = type(layer)

    def answer(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = keras.tree.flatten((args, kwargs))
        is_symbolic = any(isinstance(one, keras.KerasTensor) for one in given)
        return function(*args, **kwargs) if is_symbolic else kind.__call__(self, *args, **kwargs)

    other = type(kind.__name__, (kind,), {"__call__": answer})
    object.__setattr__(layer, "__class__", other)
    try:
        yield
    finally:
        object.__setattr__(layer, "__class__", kind)


def call_showing_scores(
    layer: keras.layers.Layer, call: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """Returns what a layer's `call` does; attention of Keras computes its scores, and unfused.

    Asked for its scores, it takes the way through its softmax layer and not a fused kernel. Relies
    on `_flash_attention`, for which it would refuse to.
    """
    signature = inspect.signature(type(layer).call)
    asked = "return_attention_scores"
    if asked not in signature.parameters or signature.bind(layer, *args, **kwargs).arguments.get(
        asked
    ):
        return call(*args, **kwargs)
    flash = vars(layer).get("_flash_attention")
    if flash:
        set_unnoticed(layer, "_flash_attention", False)
    try:
        output, _, *rest = call(*args, **{**kwargs, asked: True})
    finally:
        if flash:
            set_unnoticed(layer, "_flash_attention", flash)
    return (output, *rest) if rest else output
