"""Codistillation: every peer learns from copies of the others, refreshed from time to time."""

from typing import Any

import numpy as np
from keras import ops

from modreduce_keras.aggregators.base import Aggregator
from modreduce_keras.aggregators.mixing import mixed_probabilities
from modreduce_keras.arguments import require_integer
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("aggregator", "codistillation")
class Codistillation(Aggregator):
    """Codistillation: each peer learns from stale copies of the others.

    t_i = 1/(P - 1) Σ_{j≠i} softmax(z̄_j / T)

    with the logits z̄ of copies of the peers. The peers are copied at the start and after every
    `refresh` training steps: in steps 1 to `refresh` the peers learn from the initial copies, in
    the next `refresh` steps from copies made after step `refresh`, and so on.

    Args:
        refresh: Number of steps after which the copies are refreshed, a positive integer. Defaults
            to 50.
        name: See `Aggregator`.
        dtype: See `Aggregator`.
        trainable: See `Aggregator`.

    Call arguments:
        logits: (batch, peers, classes).
        averages: Logits of the copies, (batch, peers, classes).
        temperature: T, a scalar.
        independent: Whether the outputs are independent labels and not classes: softmax is then
            sigmoid. Defaults to `False`.

    Returns:
        `targets` (batch, peers, classes): logits that softened at T are t_i.

    Raises:
        ValueError: If `refresh` is not a positive integer, or something that it needs does not
            come.

    Example:
        >>> import numpy as np
        >>> copies = np.log([[[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]])
        >>> targets = Codistillation()(copies, averages=copies, temperature=1.0)["targets"]
        >>> np.round(np.exp(targets), 4).tolist()
        [[[0.375, 0.625], [0.5, 0.5], [0.625, 0.375]]]
        >>> [float(Codistillation(refresh=3).keep(step)) for step in range(6)]
        [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]

    Reference:
        Anil et al., Large Scale Distributed Neural Network Training through Online Distillation,
        2018. There the peers train on different machines and data, without a temperature (T = 1),
        and learn from one another after a start on the labels alone: give `online_weight` a
        schedule. Its loss is the cross-entropy with t_i, which has the gradient of KD.
    """

    needs = ("averages", "temperature", "independent")

    def __init__(
        self,
        *,
        refresh: int = 50,
        name: str | None = None,
        dtype: Any = "float32",
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.refresh = require_integer("refresh", refresh)

    def call(
        self,
        logits: Tensor,
        averages: Tensor | None = None,
        temperature: Any = None,
        independent: Tensor = False,
    ) -> Tensor:
        averages = self.required("averages", averages)
        temperature = self.required("temperature", temperature)
        peers = logits.shape[1]
        targets = [
            mixed_probabilities(
                ops.concatenate([averages[:, :i], averages[:, i + 1 :]], axis=1),
                ops.full((1, peers - 1), -np.log(peers - 1), "float32"),
                temperature,
                independent,
            )
            for i in range(peers)
        ]
        return {"targets": ops.concatenate(targets, axis=1)}

    def keep(self, step: Tensor) -> Tensor:
        refreshes = ops.equal((ops.cast(step, "int64") + 1) % self.refresh, 0)
        return 1.0 - ops.cast(refreshes, "float32")
