"""Early exits: accuracy and cost of a network that may answer before its end."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from modreduce_keras.arguments import is_number, require_integer
from modreduce_keras.batches import Batches, split_index, unpack
from modreduce_keras.evaluation.costs import multiply_adds
from modreduce_keras.labels import class_indices
from modreduce_keras.models.exits import FINAL, exit_names


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
    own = _up_to(model, exits)  # the function that Keras compiles and keeps is not the user's
    for inputs, labels in batches:
        outputs = own.predict_on_batch(inputs)
        logits = np.stack([np.asarray(output, "float32") for output in outputs], axis=1)
        labels = keras.ops.convert_to_numpy(labels)
        labels = class_indices(labels, (len(logits), logits.shape[-1]), "evaluation")
        probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits, axis=-1))
        confidence.append(probabilities.max(axis=-1))
        correct.append(logits.argmax(axis=-1) == labels[:, np.newaxis])
    return np.concatenate(confidence), np.concatenate(correct)
