"""Relation knowledge: compares relations among samples, on one replica or on all."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.arguments import require_bool
from modreduce_keras.distribute import (
    gather_over_replicas,
    gather_with_gradient,
    num_replicas,
    place_in_global_batch,
)
from modreduce_keras.knowledge.base import Knowledge, Taps
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("knowledge", "relation")
class Relation(Knowledge):
    """Relation knowledge: compares relations among the samples of a batch, such as distances.

    Args:
        loss: A loss on relations, its config or its identifier.
        across_replicas: Whether to relate the samples of all replicas, instead of those of each
            replica separately. Training then equals that on one device, but all compared features
            are exchanged in each step, and several machines need batches of equal size
            (`drop_remainder=True`). Defaults to `False`.
        at: See `Feature`.
        student: See `Feature`.
        teacher: See `Feature`.
        adapter: See `Knowledge`.
        mask: See `Knowledge`. Masked positions are set to zero, so that they add nothing to
            products and distances, or are left out of means over positions.
        ignore_class: See `Knowledge`.
        labels: See `Knowledge`.
        weight: See `Knowledge`.
        staged: See `Knowledge`.
        name: See `Knowledge`.

    Raises:
        ValueError: See `Feature`; or if `across_replicas` is neither `True` nor `False`.

    Example:
        >>> import modreduce_keras as mr
        >>> mr.Relation("rkd_distance", at="embedding").name
        'rkd_distance'
    """

    def __init__(
        self,
        loss: Any,
        *,
        across_replicas: bool = False,
        at: Taps = None,
        student: Taps = None,
        teacher: Taps = None,
        adapter: Any = "default",
        mask: Any = None,
        ignore_class: int | None = None,
        labels: str | None = None,
        weight: Any = None,
        staged: bool | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            loss,
            at=at,
            student=student,
            teacher=teacher,
            adapter=adapter,
            mask=mask,
            ignore_class=ignore_class,
            labels=labels,
            weight=weight,
            staged=staged,
            name=name,
            **kwargs,
        )
        self.across_replicas = require_bool("across_replicas", across_replicas)

    def compare(self, y_true: Tensor, y_pred: Tensor, by_position: bool = False) -> Any:
        """Returns the loss's values per sample, (batch,), of this replica's samples."""
        if not self.across_replicas or num_replicas() == 1:
            return super().compare(y_true, y_pred, by_position)
        rows = ops.shape(keras.tree.flatten(y_pred)[0])[0]
        begin, _ = place_in_global_batch(rows)
        y_true = keras.tree.map_structure(gather_over_replicas, y_true)
        y_pred = keras.tree.map_structure(gather_with_gradient, y_pred)
        return super().compare(y_true, y_pred, by_position)[begin : begin + rows]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "across_replicas": self.across_replicas}
