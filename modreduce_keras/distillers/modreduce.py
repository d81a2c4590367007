"""ModReduce: offline knowledge of several kinds and online learning among peers, at once."""

from collections.abc import Mapping
from typing import Any

import keras

from modreduce_keras import registry
from modreduce_keras.distillers.peers import PeerDistiller
from modreduce_keras.knowledge import Knowledge
from modreduce_keras.registry import register


@register("distiller", "modreduce")
class ModReduce(PeerDistiller):
    """Trains students that each learn one kind of knowledge from a teacher, and all from the group.

    For each student i, with w the online weight and K_k its knowledge:

    total_i = (1 - w) · m_i · (CE_i + Σ_k weight_k K_k) / (1 + Σ_k weight_k) + w · online(z_i, z_e)

    (CE counts with the supervised weight, 1 by default.) The aggregator learns beside them from
    the labels, on detached logits.

    Args:
        teacher: The trained model to learn from; never changed.
        students: See `PeerDistiller`; usually `{"response": ..., "feature": ..., "relation": ...}`.
        knowledge: What each student is taught: a dict from student to list. The paper teaches
            every student KD and one kind of knowledge beside it.
        aggregator: See `PeerDistiller`. Defaults to `"weighted_average"`.
        online_weight: The part w of the loss that is online, from 0 to 1: a number or a schedule.
            The paper's is `schedules.Exponential(0.01, 0.7, steps=..., stairs=24)`. Defaults
            to 0.5.
        online_loss: See `PeerDistiller`. Defaults to `KD(temperature=4)`.
        multipliers: m by student, positive. A student without one has m_i = 1 + Σ_k weight_k,
            which cancels the normalization: its labels then count with weight 1, as in
            `Distiller`. Defaults to none.
        supervised_weight: See `PeerDistiller`.
        criterion: See `PeerDistiller`.
        criterion_mode: See `PeerDistiller`.
        **kwargs: `name` and `dtype`, as for every Keras model.

    Raises:
        ValueError: See `PeerDistiller`; and if a multiplier is not positive, or the online weight
            is above 1.

    Example:
        >>> import modreduce_keras as mr
        >>> def net(widths):
        ...     return mr.models.get("convnet", num_classes=3, widths=widths)
        >>> modreduce = mr.ModReduce(
        ...     teacher=net((8, 16)),
        ...     students={name: net((4, 8)) for name in ("response", "feature", "relation")},
        ...     knowledge={
        ...         "response": [mr.Response("kd")],
        ...         "feature": [mr.Response("kd"), mr.Feature("hint", at="stage2")],
        ...         "relation": [mr.Response("kd"), mr.Relation("rkd_distance", at="embedding")],
        ...     },
        ... )
        >>> modreduce.compile("sgd", mr.losses.LogitMSE())
        >>> list(modreduce.term_weights())[:3]
        ['response/logit_mse', 'response/kd', 'feature/logit_mse']

    Reference:
        ModReduce: A Multi-Knowledge Distillation Framework with Online Learning, 2023. The paper's
        losses beside KD are SemCKD (weight 400, multiplier 100) and CRD (.8, multiplier 1), with
        multiplier 10 for the response student; any knowledge may stand here.
    """

    def __init__(
        self,
        teacher: keras.Model,
        students: Any,
        *,
        knowledge: Mapping[str, list[Knowledge]],
        aggregator: Any = "weighted_average",
        online_weight: Any = 0.5,
        online_loss: Any = None,
        multipliers: Mapping[str, float] | None = None,
        **kwargs: Any,
    ):
        if online_loss is None:
            online_loss = registry.get("loss", "kd", temperature=4.0)
        if isinstance(online_weight, (int, float)) and online_weight > 1:
            raise ValueError(
                "online_weight is the part of the loss that is online, from 0 to 1. "
                f"Received: {online_weight=}"
            )
        super().__init__(
            students,
            teacher=teacher,
            knowledge=knowledge,
            aggregator=aggregator,
            online_weight=online_weight,
            online_loss=online_loss,
            **kwargs,
        )
        self.multipliers = dict(multipliers or {})
        wrong = {n: m for n, m in self.multipliers.items() if n not in self.students or not m > 0}
        if wrong:
            raise ValueError(
                f"multipliers must be positive numbers by student, one of {list(self.students)}. "
                f"Received: {wrong}"
            )

    def term_weights(self) -> dict[str, Any]:
        """Returns the weight of every term, scalars in the graph."""
        weights = super().term_weights()
        offline = 1.0 - self.online_weight
        for name, several in self.knowledge.items():
            several = [knowledge for knowledge in several if not knowledge.staged]
            scale = offline
            if name in self.multipliers:
                total = 1.0 + sum(knowledge.weight for knowledge in several)
                scale = offline * self.multipliers[name] / total
            terms = self._supervised([name]) + [self.term(name, k.name) for k in several]
            weights |= {term: scale * weights[term] for term in terms}
        return weights

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        return {**super().get_config(), "multipliers": dict(self.multipliers)}
