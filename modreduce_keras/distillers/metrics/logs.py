"""Logs of a distiller: compiled metrics by student, and the parts that need class indices."""

from collections.abc import Mapping
from typing import Any

from modreduce_keras.distillers.metrics import student_metrics
from modreduce_keras.distillers.step.sample_weights import of_every_output
from modreduce_keras.distillers.step.supervision import (
    LabelRule,
    NamedSupervision,
    Supervision,
    require_same_size,
)
from modreduce_keras.knowledge import Knowledge
from modreduce_keras.labels import require_distributions, require_one_hot


def update_metrics(
    metrics: Any,
    labels: Mapping[str, Any],
    logits: Mapping[str, Any],
    weights: Mapping[str, Any],
) -> None:
    """Updates compiled metrics with the logits of a batch.

    Args:
        metrics: Keras' compiled metrics.
        labels: The labels, by student.
        logits: By student.
        weights: Sample weights by student, or `None` for each.

    Raises:
        ValueError: If the data have no labels, and a metric needs them, or labels of another size.
    """
    outputs, given = (student_metrics.as_outputs(each, logits) for each in (logits, labels))
    alike = len({id(weight) for weight in weights.values()}) < 2
    weight = next(iter(weights.values())) if alike else student_metrics.as_outputs(weights, logits)
    try:
        metrics.update_state(given, outputs, of_every_output(weight, given))
    except (AttributeError, TypeError, ValueError) as error:
        if None not in labels.values():
            for name, one in logits.items():
                own = labels[name]
                if hasattr(own, "shape") and hasattr(one, "shape"):
                    require_same_size("Compiled metrics need", tuple(own.shape), tuple(one.shape))
            raise
        raise ValueError(
            "Metrics are compiled, but the data have no labels y: give fit(x, y) and "
            "validation_data=(x, y) both, or leave metrics= out of compile. Received: y=None"
        ) from error


def label_rules(
    supervision: Supervision | NamedSupervision | None,
    knowledge: list[Knowledge],
    aggregator: Any,
    output: Any,
) -> list[LabelRule]:
    """Returns who takes class indices.

    Args:
        supervision: The compiled loss, or `None`.
        knowledge: All knowledge.
        aggregator: The aggregator, or `None`.
        output: The students' symbolic output, or a dict of them.
    """
    rules = [] if supervision is None else supervision.label_rules(output)
    shape = tuple(getattr(output, "shape", ()))
    if len(shape) != 2:  # with positions, a mask may leave out what is no class
        return rules
    for one in knowledge:
        if one.loss.needs_labels and not one.loss.label_numbers:
            ignored: set[Any] = {getattr(one, "ignore_class", None)} - {None}
            rules.append(_rule(f"Knowledge {one.name!r}", shape, ignored, one.loss))
    if "labels" in getattr(aggregator, "needs", ()):
        rules.append(_rule(type(aggregator).__name__, shape, set(), aggregator))
    return rules


def _rule(owner: str, shape: tuple, ignored: set[int], reader: Any) -> LabelRule:
    rows = require_distributions if reader.takes_soft_labels else require_one_hot
    return LabelRule(owner, None, shape[-1], ignored, rows)
