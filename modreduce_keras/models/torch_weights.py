"""Weights of a PyTorch network, as NumPy arrays, for a Keras network of the same layout."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers

from modreduce_keras.copying import finalize
from modreduce_keras.models.layer_order import all_layers, weighted_layers

_LEFT_ASIDE = "num_batches_tracked"
_LEAVES = ("weight", "bias", "running_mean", "running_var")


def import_torch_weights(model: keras.Model, state_dict: Mapping[str, Any]) -> keras.Model:
    """Gives a Keras network the weights of a PyTorch network of the same layout.

    Names do not matter. The entries are taken in their order, module by module, and the layers
    that have weights in the order of the graph's paths, where paths join those of the first input
    first (a block's convolutions, then its shortcut). Kind and shapes of each pair must agree,
    every entry is used exactly once, and a model stays as it was unless all fits. Convolutions
    (plain, in groups, depthwise), linear layers and batch normalizations are known; the counters
    `num_batches_tracked` are left aside, since Keras has none.

    Outputs are equal if the networks also agree in what a state dict does not hold: strides,
    padding, activations, the epsilon of the normalizations (PyTorch's is 1e-5, as in our networks)
    and the normalization of images. For all networks of the CIFAR comparison that `mr.models`
    builds they do.

    Args:
        model: Functional or built Sequential model of `Conv2D`, `DepthwiseConv2D`, `Dense` and
            `BatchNormalization` and layers without weights. Channels last.
        state_dict: Arrays by name in the order of PyTorch's `state_dict()`, for example
            `{name: tensor.numpy() for name, tensor in network.state_dict().items()}` or an opened
            `.npz` file.

    Returns:
        The model.

    Raises:
        TypeError: If the model is not a Keras model, or the arrays are not a mapping.
        ValueError: If an entry and a layer do not fit, with the names of both, if layers or entries
            are left over, if an entry is of an unknown kind, if the model is not functional, has
            another layer with weights or flattens maps (PyTorch flattens the channels first).

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="logits")])
        >>> state_dict = {"fc.weight": np.arange(6.0).reshape(3, 2), "fc.bias": np.zeros(3)}
        >>> model = mr.models.import_torch_weights(model, state_dict)
        >>> model.get_layer("logits").get_weights()[0].tolist()
        [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]
    """
    modules = _modules(state_dict)
    known = weighted_layers(require_functional("import_torch_weights", model))
    plans = [_plan(layer) for layer in known]
    _require_no_flattening(model)
    for layer, plan, (prefix, entries) in zip(known, plans, modules, strict=False):
        received = {leaf: value.shape for leaf, value in entries.items()}
        expected = {leaf: shape for leaf, (_, shape) in plan.items()}
        if received != expected:
            raise ValueError(
                f"state_dict must have the layout of the model {model.name!r}. The layer "
                f"{layer.name!r} ({type(layer).__name__}) needs {_listed(expected)}. Received in "
                f"its place: {prefix!r} with {_listed(received)}"
            )
    if len(known) != len(modules):
        left = [layer.name for layer in known[len(modules) :]]
        over = [prefix for prefix, _ in modules[len(known) :]]
        raise ValueError(
            f"state_dict must have as many modules as the model {model.name!r} has layers with "
            f"weights, {len(known)}. Received: {len(modules)}; "
            + (f"without entries: {left}" if left else f"without a layer: {over}")
        )
    for layer, plan, (_, entries) in zip(known, plans, modules, strict=True):
        for leaf, (variable, shape) in plan.items():
            # Outputs, inputs, height, width -> height, width, inputs, outputs.
            order = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[len(shape)]
            variable.assign(entries[leaf].transpose(order).reshape(variable.shape))
        finalize(layer)
    return model


def require_functional(caller: str, model: Any) -> keras.Model:
    """Returns a model whose graph is known, or raises.

    Args:
        caller: What needs it.
        model: What came.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model. Received: {model!r}")
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"{caller} follows the graph of a model, so it must be a functional or a built "
            f"Sequential model. Received: {model!r}"
        )
    return model


def _modules(state_dict: Any) -> Any:
    """Returns (prefix, arrays by the last part of their names), in order."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict must map names to arrays. Received: {type(state_dict)}")
    modules: dict[str, dict[str, Any]] = {}
    for name in state_dict:
        value = state_dict[name]
        prefix, _, leaf = str(name).rpartition(".")
        if leaf == _LEFT_ASIDE:
            continue
        if not isinstance(value, np.ndarray):
            raise TypeError(f"state_dict must hold NumPy arrays. Received: {name!r}: {type(value)}")
        if leaf not in _LEAVES or value.dtype.kind != "f" or value.ndim not in (1, 2, 4):
            raise ValueError(
                "state_dict must hold floats of convolutions of images, linear layers and batch "
                f"normalizations, called {', '.join(_LEAVES)} or {_LEFT_ASIDE}. Received: "
                f"{name!r} of shape {value.shape} and dtype {value.dtype}"
            )
        modules.setdefault(prefix, {})[leaf] = value
    return list(modules.items())


def _plan(layer: keras.layers.Layer) -> Any:
    """Returns by PyTorch's names a layer's variables, and the shapes that they have there."""
    plan = {}
    if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D)):
        height, width, inputs, outputs = layer.kernel.shape
        if isinstance(layer, layers.DepthwiseConv2D):
            inputs, outputs = 1, inputs * outputs
        plan = {"weight": (layer.kernel, (outputs, inputs, height, width))}
    elif isinstance(layer, layers.Dense):
        plan = {"weight": (layer.kernel, tuple(reversed(layer.kernel.shape)))}
    elif isinstance(layer, layers.BatchNormalization):
        names = {"weight": "gamma", "running_mean": "moving_mean", "running_var": "moving_variance"}
        variables = {leaf: getattr(layer, name) for leaf, name in names.items()}
        plan = {leaf: (v, tuple(v.shape)) for leaf, v in variables.items() if v is not None}
    bias = getattr(layer, "beta", getattr(layer, "bias", None))
    if plan and bias is not None:
        plan["bias"] = (bias, tuple(bias.shape))
    if len(plan) != len(layer.weights):
        raise ValueError(
            "The model's layers with weights must be Conv2D, DepthwiseConv2D, Dense or "
            f"BatchNormalization. Received: {layer.name!r}, a {type(layer).__name__} with "
            f"{[variable.path for variable in layer.weights]}"
        )
    return plan


def _require_no_flattening(model: keras.Model) -> None:
    for layer in all_layers(model):
        shape = layer.input.shape if isinstance(layer, layers.Flatten) else ()
        if len(shape) == 4 and tuple(shape[1:3]) != (1, 1):
            raise ValueError(
                "PyTorch flattens maps with the channels first, so the weights after it cannot be "
                f"told apart. Received: {layer.name!r}, which flattens maps of shape {shape}"
            )


def _listed(shapes: Any) -> Any:
    return ", ".join(f"{leaf} {tuple(shapes[leaf])}" for leaf in _LEAVES if leaf in shapes)
