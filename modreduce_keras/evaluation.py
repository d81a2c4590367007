"""Evaluation: the cost of a network, and the accuracy of its early exits."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from modreduce_keras.arguments import is_number, require_integer
from modreduce_keras.batches import Batches, split_index, unpack
from modreduce_keras.distillers import checks
from modreduce_keras.keras_internals import flatten_layers
from modreduce_keras.labels import class_indices
from modreduce_keras.models.exits import FINAL, exit_names
from modreduce_keras.models.graph import input_specs
from modreduce_keras.recording import recording
from modreduce_keras.symbolic import output_spec
from modreduce_keras.typing import Tensor

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)


def multiply_adds(model: keras.Model) -> int:
    """Returns how many multiplications with an addition a network needs for one sample.

    convolution, dense: positions of the output × entries of the kernel

    A layer that runs several times counts each time. Left out is what has no kernel and costs
    little: biases, normalization, activations, pooling, additions and other operations between
    tensors, look-ups (`Embedding`).

    Args:
        model: A built Keras model of any kind, for inputs of a known size.

    Returns:
        The number, for `Dense`, `Conv1D` to `Conv3D`, `DepthwiseConv1D`, `DepthwiseConv2D`,
        `SeparableConv1D` and `SeparableConv2D`.

    Raises:
        ValueError: If the model is not built, a layer of another kind has a kernel, or the size of
            an output is not known.

    Example:
        >>> import modreduce_keras as mr
        >>> multiply_adds(mr.models.convnet(num_classes=10, widths=(4, 8), input_shape=(8, 8, 1)))
        1808

    That is 4·4 positions × 3·3·1·4, 2·2 positions × 3·3·4·8, and 8·10.
    """
    counter = _Counter(model)
    output_spec(counter, counter.specs)
    return sum(
        _of_one_run(layer, shape)
        for layer, shapes in zip(counter.leaves, counter.shapes, strict=True)
        for shape in shapes
    )


class _Counter(keras.layers.Layer):
    """Runs a model symbolically and notes the shape of what each layer returns at each run."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(dtype="float32", autocast=False)
        checks.require_model(model, "model")
        self.specs = input_specs(model)
        if self.specs is None:
            raise ValueError(
                f"The model {model.name!r} must be built: start it with keras.Input(shape), or "
                "call it once on a batch."
            )
        self.model = model
        inside = flatten_layers(model, include_self=False)
        self.leaves = [one for one in inside if _is_leaf(one)]
        self.shapes: list[list[tuple]] = []

    def call(self, inputs: Any) -> Tensor:
        with recording(self.leaves) as recorded:
            outputs = self.model(inputs, training=False)
        self.shapes = [
            [
                tuple(output.shape)
                for record in recorded.calls_of(leaf)
                for output in keras.tree.flatten(record.output)
            ]
            for leaf in self.leaves
        ]
        return outputs


def _is_leaf(layer: keras.layers.Layer) -> bool:
    return not list(flatten_layers(layer, include_self=False))


def _of_one_run(layer: keras.layers.Layer, shape: tuple) -> int:
    """Returns the multiply-adds of a layer without layers inside, by the shape of its output."""
    if isinstance(layer, layers.Dense):
        kernels, channels = [layer.kernel], layer.units
    elif isinstance(layer, _CONVOLUTIONS):
        kernels, channels = [layer.kernel], layer.filters
    elif isinstance(layer, _SEPARABLE):
        kernels, channels = [layer.depthwise_kernel, layer.pointwise_kernel], layer.filters
    elif isinstance(layer, _DEPTHWISE):
        kernels, channels = [layer.kernel], math.prod(layer.kernel.shape[-2:])
    elif isinstance(layer, layers.Embedding) or all(len(w.shape) < 2 for w in layer.weights):
        return 0
    else:
        raise ValueError(
            "multiply_adds counts dense layers and convolutions (plain, depthwise, separable). "
            f"Received: layer {layer.name!r} of class {type(layer).__name__}, which has weights "
            f"of shape {[tuple(weight.shape) for weight in layer.weights]}"
        )
    if None in shape[1:]:
        raise ValueError(
            "multiply_adds needs inputs of a known size. Received: layer "
            f"{layer.name!r} with output of shape {shape}"
        )
    positions = math.prod(shape[1:]) // channels
    return positions * sum(math.prod(kernel.shape) for kernel in kernels)


def average_relative_improvement(
    ours: Sequence[float], others: Sequence[float], students: Sequence[float]
) -> float:
    """Returns how much more a method gains than another one, relative to that one, on average.

    mean over the pairs of networks of (ours - other) / (other - student)

    A pair on which the other method gains next to nothing decides the mean: look at the pairs too.

    Args:
        ours: Accuracies of a method, one for each pair of a teacher and a student.
        others: Those of the other method, on the same pairs and in the same unit.
        students: Those of the students that learn from the labels only.

    Returns:
        The improvement: .5 for half as much again.

    Raises:
        ValueError: If there is no pair, the numbers of accuracies differ, or one is no finite
            number; if the other method gains nothing at all on a pair.

    Example:
        >>> average_relative_improvement([72.0, 74.0], [71.0, 74.5], [69.0, 70.0])
        0.19444444444444445

    Reference:
        Tian, Krishnan and Isola, Contrastive Representation Distillation, 2020.
    """
    given = {"ours": ours, "others": others, "students": students}
    if len({len(values) for values in given.values()}) > 1 or not len(ours):
        lengths = {name: len(values) for name, values in given.items()}
        raise ValueError(
            "ours, others and students must be as many accuracies each, at least one. Received: "
            f"lengths {lengths}"
        )
    for name, values in given.items():
        if not all(is_number(value) and math.isfinite(value) for value in values):
            raise ValueError(f"{name} must be finite numbers. Received: {name}={values}")
    gained = np.subtract(others, students)
    if not gained.all():
        raise ValueError(
            "The improvement over a method that gains nothing on a pair is not defined. Received: "
            f"others={others}, students={students}"
        )
    return float(np.mean(np.subtract(ours, others) / gained))


class EarlyExitRow(NamedTuple):
    """One point of an early-exit curve.

    Attributes:
        threshold: Confidence at which a sample leaves.
        accuracy: Share of the samples that are classified correctly, each at its exit.
        compute: Mean multiply-adds of a sample, as a fraction of the network's without exits.
        shares: Share of the samples that leave at each exit, by its name.
    """

    threshold: float
    accuracy: float
    compute: float
    shares: dict[str, float]


def early_exit_curve(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    thresholds: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0),
    batch_size: int = 256,
) -> list[EarlyExitRow]:
    """Returns accuracy and cost of a network with exits for some confidence thresholds.

    A sample leaves at the first exit with max_c softmax(z)_c ≥ threshold, or at the end. It then
    has cost the layers up to that exit, with the bottlenecks and classifiers of all exits that it
    came by; so samples that never leave early cost a little more than without exits. Every sample
    runs through the whole network here, once for all thresholds.

    Args:
        model: A `SelfDistiller`, or what `mr.models.exits` built.
        x: Inputs, or a dataset of batches `(x, y)` that ends.
        y: Labels: classes (samples,), or one-hot (samples, classes). Not with a dataset.
        thresholds: Confidences from 0 to 1, in any order.
        batch_size: For arrays: how many samples run together. Defaults to 256.

    Returns:
        A row for each threshold, in the order given.

    Raises:
        ValueError: If the model has no exits, a threshold is out of range, or labels are missing.

    Example:
        >>> import numpy as np, modreduce_keras as mr
        >>> network = mr.models.convnet(num_classes=10, widths=(4, 8), input_shape=(8, 8, 1))
        >>> model = mr.models.exits(network, ["stage1"])
        >>> images, labels = np.ones((6, 8, 8, 1)), np.zeros(6)
        >>> row, = early_exit_curve(model, images, labels, thresholds=[0.0])
        >>> row.shares, round(row.compute, 3)
        ({'stage1': 1.0, 'final': 0.0}, 0.504)

    That is 16·36 + 16·8 + 4·16 + 4·16 + 8·10 = 912 multiply-adds up to the exit, of 1808.
    """
    model = getattr(model, "model_with_exits", model)
    if not isinstance(getattr(model, "output", None), dict) or FINAL not in model.output:
        raise ValueError(
            "early_exit_curve takes a SelfDistiller, or a model that mr.models.exits built. "
            f"Received: model={model!r}"
        )
    require_integer("batch_size", batch_size)
    wrong = [one for one in thresholds if not (is_number(one) and 0 <= one <= 1)]
    if wrong:
        raise ValueError(f"thresholds must be from 0 to 1. Received: {wrong}")
    exits = [*exit_names(model), FINAL]
    costs = np.array([multiply_adds(_up_to(model, exits[: n + 1])) for n in range(len(exits))])
    whole = multiply_adds(keras.Model(model.input, model.output[FINAL]))
    confidence, correct = _answers(model, exits, _batches(x, y, batch_size))
    rows = []
    for threshold in thresholds:
        sure = confidence >= threshold
        sure[:, -1] = True
        left_at = sure.argmax(axis=1)
        accuracy = correct[np.arange(len(correct)), left_at].mean()
        shares = np.bincount(left_at, minlength=len(exits)) / len(left_at)
        compute = costs[left_at].mean() / whole
        by_name = dict(zip(exits, shares.tolist(), strict=True))
        rows.append(EarlyExitRow(float(threshold), float(accuracy), float(compute), by_name))
    return rows


def _up_to(model: keras.Model, exits: list[str]) -> keras.Model:
    return keras.Model(model.input, [model.output[name] for name in exits])


def _batches(x: Any, y: Any, batch_size: int) -> Iterator[tuple[Any, Any]]:
    """Yields inputs and labels in batches."""
    name, data = ("x", x) if y is None else ("x and y", (x, y))
    labels = None
    for batch in Batches(name, data, batch_size):
        inputs, labels, _ = unpack(batch)
        if labels is None:
            raise ValueError(
                "Accuracy needs labels: give arrays x and y, or a dataset of batches (x, y). "
                f"Received: x of type {type(x).__name__} without labels"
            )
        yield split_index(inputs)[0], labels
    if labels is None:
        raise ValueError("x must have samples. Received: none")


def _answers(model: keras.Model, exits: Any, batches: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns how sure each exit is of each sample, and whether it is right, (samples, exits)."""
    confidence, correct = [], []
    for inputs, labels in batches:
        outputs = model.predict_on_batch(inputs)
        logits = np.stack([np.asarray(outputs[name], "float32") for name in exits], axis=1)
        labels = keras.ops.convert_to_numpy(labels)
        labels = class_indices(labels, (len(logits), logits.shape[-1]), "evaluation")
        probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits, axis=-1))
        confidence.append(probabilities.max(axis=-1))
        correct.append(logits.argmax(axis=-1) == labels[:, np.newaxis])
    return np.concatenate(confidence), np.concatenate(correct)


__all__ = ["EarlyExitRow", "average_relative_improvement", "early_exit_curve", "multiply_adds"]


def __dir__() -> list[str]:
    return __all__
