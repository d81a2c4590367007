"""Exits: adds classifiers at several depths of a network."""

import difflib
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from modreduce_keras.models.graph import input_specs
from modreduce_keras.typing import Tensor

FINAL = "final"
"""Name of the output of the network itself, behind all exits."""
_TAKEN = (FINAL, "ensemble")
_NORMALIZATION = {"momentum": 0.9, "epsilon": 1e-5}
_INITIALIZER = {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"}


def exits(
    model: keras.Model,
    at: Sequence[str],
    *,
    feature_at: str | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds a network with classifiers at several depths: its own output and one at each exit.

    An exit is a bottleneck, global average pooling and a linear classifier. The bottleneck brings
    the maps of its layer to the shape of the deepest maps, those of `feature_at`: a 1×1
    convolution to a quarter of the deepest channels, a convolution whose stride and size are the
    ratio of the two sizes, and a 1×1 convolution to the deepest channels, each with batch
    normalization and ReLU.

    The result is a plain functional model that shares its layers with the given one, so training
    one trains both. Its outputs are a dict of logits, `{"stage1": ..., "final": ...}`: the exits by
    the name of their layer from shallow to deep, and `"final"`, the output of the given model. The
    exit at `"stage1"` adds layers named `"stage1_exit_..."`; its feature is `"stage1_exit"`.

    Args:
        model: Functional or Sequential model to logits (batch, classes).
        at: Layers after which there is an exit, from shallow to deep, before `feature_at`; each
            returns maps (batch, height, width, channels) of a known size.
        feature_at: Layer of the deepest maps. Defaults to the last layer that returns maps.
        name: Name of the model. Defaults to that of the given one and `"_with_exits"`.

    Returns:
        A functional model from the given one's inputs to a dict of logits.

    Raises:
        ValueError: If the model is not functional, it has other outputs, a layer is unknown, does
            not give maps of a known size or comes in the wrong order, or maps are smaller than the
            deepest.

    Example:
        >>> import modreduce_keras as mr
        >>> model = mr.models.convnet(num_classes=10, widths=(4, 8, 16))
        >>> {name: logits.shape for name, logits in exits(model, ["stage1"]).output.items()}
        {'stage1': (None, 10), 'final': (None, 10)}

    Reference:
        Zhang et al., Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks
        via Self Distillation, 2019, which leaves the layers of the bottleneck open.
    """
    logits = _logits(model)
    if not isinstance(at, (str, list, tuple)):
        raise ValueError(f"at must be a list of names of layers. Received: {at!r}")
    at = [at] if isinstance(at, str) else list(at)
    feature_at = deepest_maps(model) if feature_at is None else feature_at
    deepest = _maps(model, feature_at, "feature_at")
    tapped = {exit_name: _maps(model, exit_name, "at") for exit_name in at}
    _require_order(model, at, feature_at)
    outputs = {
        exit_name: _classifier(maps, deepest, logits.shape[-1], exit_name)
        for exit_name, maps in tapped.items()
    }
    return keras.Model(
        input_specs(model), {**outputs, FINAL: logits}, name=name or f"{model.name}_with_exits"
    )


def deepest_maps(model: keras.Model) -> str:
    """Returns the name of the last layer of a functional model that returns maps.

    Raises:
        ValueError: If there is none.
    """
    names = [layer.name for layer in model.layers if _puts_out_maps(layer)]
    if not names:
        raise ValueError(
            "Exits branch off maps (batch, height, width, channels) of a known size, and no layer "
            f"of {model.name!r} returns such maps: {[layer.name for layer in model.layers]}"
        )
    return names[-1]


def exit_names(model: keras.Model) -> list[str]:
    """Returns the names of the exits of what `exits` built, from shallow to deep."""
    names = [layer.name for layer in model.layers]
    return sorted(set(model.output) - {FINAL}, key=names.index)


def _logits(model: keras.Model) -> Any:
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ValueError(
            "Exits branch off inside the graph of a model, so it must be a functional or a built "
            f"Sequential model. Received: model={model!r}"
        )
    outputs = model.outputs[0] if isinstance(model, keras.Sequential) else model.output
    if keras.tree.is_nested(outputs) or len(outputs.shape) != 2:
        received = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), outputs)
        raise ValueError(
            f"A model with exits must have one output (batch, classes). Received: {model.name!r} "
            f"with output of shape {received}"
        )
    return outputs


def _puts_out_maps(layer: keras.layers.Layer) -> bool:
    output = getattr(layer, "output", None)
    return (
        output is not None
        and not keras.tree.is_nested(output)
        and len(output.shape) == 4
        and None not in output.shape[1:]
    )


def _maps(model: keras.Model, layer: keras.layers.Layer, argument: str) -> Any:
    names = [one.name for one in model.layers]
    if layer not in names:
        close = difflib.get_close_matches(str(layer), names, n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(
            f"{argument} must name layers of {model.name!r}, of {names}.{hint} Received: {layer!r}"
        )
    if not _puts_out_maps(model.get_layer(layer)):
        raise ValueError(
            f"{argument} must name layers that return maps (batch, height, width, channels) of a "
            f"known size. Received: {layer!r}"
        )
    return model.get_layer(layer).output


def _require_order(model: keras.Model, at: Any, feature_at: Any) -> None:
    names = [layer.name for layer in model.layers]
    indices = [names.index(layer) for layer in [*at, feature_at]]
    taken = [layer for layer in at if layer in _TAKEN]
    if not at or taken or indices != sorted(set(indices)):
        raise ValueError(
            "Exits must be at least one layer, different ones from shallow to deep, all before "
            f"the deepest maps {feature_at!r}, and not be called {_TAKEN}. Received: {at}"
        )


def _classifier(maps: Tensor, deepest: Any, classes: Any, name: str) -> Tensor:
    """Returns the logits of an exit."""
    steps = []
    for size, target in zip(maps.shape[1:3], deepest.shape[1:3], strict=True):
        if size < target:
            raise ValueError(
                "The bottleneck of an exit makes maps smaller, never larger. Received: exit "
                f"{name!r} with maps of {tuple(maps.shape[1:3])}, and the deepest of "
                f"{tuple(deepest.shape[1:3])}"
            )
        stride = size // target
        # What does not divide evenly goes into the last window's size, so that all windows fit.
        steps.append((stride, size - (target - 1) * stride))
    strides, sizes = zip(*steps, strict=True)
    channels = deepest.shape[-1]
    narrow = max(channels // 4, 1)
    maps = _convolution(maps, narrow, 1, 1, f"{name}_exit_1")
    maps = _convolution(maps, narrow, sizes, strides, f"{name}_exit_2")
    maps = _convolution(maps, channels, 1, 1, f"{name}_exit")
    embedding = layers.GlobalAveragePooling2D(name=f"{name}_exit_embedding")(maps)
    return layers.Dense(classes, name=f"{name}_exit_logits")(embedding)


def _convolution(maps: Tensor, filters: int, sizes: Any, strides: Any, name: str) -> Tensor:
    maps = layers.Conv2D(
        filters,
        sizes,
        strides=strides,
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(**_INITIALIZER),
        name=f"{name}_conv",
    )(maps)
    maps = layers.BatchNormalization(**_NORMALIZATION, name=f"{name}_norm")(maps)
    return layers.ReLU(name=name)(maps)
