"""Numbers: the figures of networks whose outputs are plain numbers, or directions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modreduce_keras.export import judging
from modreduce_keras.output_kind import REGRESSION
from modreduce_keras.reporting import measures
from modreduce_keras.reporting.subjects import TEACHER


def measure(
    kind: str,
    subjects: Sequence[Any],
    outputs: Mapping[str, np.ndarray],
    labels: Any,
    *,
    tolerance: float,
) -> dict[str, dict[str, Any]]:
    """Returns the figures of numbers, of each network and file by its name.

    Args:
        kind: `"regression"` or `"embedding"`.
        subjects: The networks and files.
        outputs: What each put out, (samples, units).
        labels: Of all samples; of an embedding, they do not count, and there may be none.
        tolerance: How far two may be apart that agree; see `mr.export.verify`.
    """
    shape = next(iter(outputs.values())).shape
    targets = judging.like(labels, shape, "report") if kind == REGRESSION else None

    def agreement(name: str, other: str | None) -> float | None:
        if other is None or other not in outputs:
            return None
        judge = judging.Judge("report", kind, tolerance, lambda: 0.0)
        judge.add(outputs[name], outputs[other], None)
        return judge.judgement().agreement

    def errors(name: str) -> tuple[float | None, float | None]:
        if targets is None:
            return None, None
        return measures.mean_absolute_error(outputs[name], targets), measures.determination(
            outputs[name], targets
        )

    found = {}
    for one in subjects:
        error, determination = errors(one.name)
        found[one.name] = {
            "error": error,
            "determination": determination,
            "agreement": agreement(one.name, None if one.role == TEACHER else TEACHER),
            "owner_agreement": agreement(one.name, one.owner),
        }
    return found
