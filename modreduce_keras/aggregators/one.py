"""ONE: a gate weights the peers' logits for each example."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.aggregators.base import Aggregator
from modreduce_keras.arguments import require_choice
from modreduce_keras.ops import mean_over_places
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor

_POOL = 16


class _Trunk:
    """What the paper's gate sees: what the peers share, averaged over all positions."""

    source = "trunk"
    normalizes = True
    trains_peers = True

    @staticmethod
    def width(shape: Any) -> int:
        """Returns how many numbers the gate sees."""
        return shape[-1]

    @staticmethod
    def seen(trunk: Any, width: int) -> Tensor:
        """Returns what the gate sees, (batch, width)."""
        return mean_over_places(trunk)


class _Images:
    """What the gate of ModReduce's code sees: the input, averaged over windows."""

    source = "inputs"
    normalizes = False
    trains_peers = False

    @staticmethod
    def width(shape: Any) -> int:
        """Returns how many numbers the gate sees."""
        if len(shape) != 4 or None in shape[1:] or min(shape[1:3]) < _POOL:
            raise ValueError(
                f"ONE(variant='modreduce') needs images (batch, height, width, channels) of a "
                f"known size of at least {_POOL} by {_POOL}. Received: inputs of shape "
                f"{tuple(shape)}"
            )
        _, height, width, channels = shape
        return (height // _POOL) * (width // _POOL) * channels

    @staticmethod
    def seen(images: Any, width: int) -> Tensor:
        """Returns what the gate sees, (batch, width), a constant."""
        windows = ops.average_pool(
            ops.stop_gradient(images), _POOL, _POOL, "valid", data_format="channels_last"
        )
        return ops.reshape(windows, (-1, width))


VARIANTS: dict[str, type[Any]] = {"paper": _Trunk, "modreduce": _Images}


@register("aggregator", "one")
class ONE(Aggregator):
    """On-the-fly native ensemble: a gate weights the peers' logits for each example.

    z_e = Σ_i g_i z_i with g = softmax(ReLU(BN(W · avgpool(trunk) + b)))

    The supervised loss of z_e trains the gate, the peers and the trunk. As a target for the peers,
    z_e is constant. The mean gate of each peer over the batch is logged as `PEER/ensemble_weight`.

    Args:
        variant: `"paper"`, the default: the input of the gate is the output of the shared layers,
            averaged over all positions, so the peers must come from `mr.models.branch`.
            `"modreduce"`: for peers without shared layers, as in the authors' code. The input of
            the gate is then the image, averaged over windows of 16×16, there is no batch
            normalization, and the supervised loss of z_e trains only the gate.
        batch_normalization: Whether the gate's scores are normalized over the batch. Defaults to
            `None`: as in the variant.
        name: See `Aggregator`.
        dtype: See `Aggregator`.
        trainable: See `Aggregator`.

    Call arguments:
        logits: (batch, peers, classes).
        trunk: (batch, ..., channels), for `"paper"`.
        inputs: (batch, height, width, channels), for `"modreduce"`; rows and columns that do not
            fill a window are left out.
        training: Whether it is a training step, which normalizes by the batch (of all replicas).

    Returns:
        `targets` (batch, peers, classes), `ensemble` (batch, classes) and `ensemble_weight`
        (peers,).

    Raises:
        ValueError: If an argument is out of range, or the images are not at least 16×16 and of
            known size.

    Example:
        >>> import numpy as np
        >>> one, logits = ONE(), np.array([[[0.0, 2.0], [4.0, 0.0]]])
        >>> one(logits, trunk=np.zeros((1, 8, 8, 3)))["ensemble"].numpy().tolist()
        [[2.0, 1.0]]

    Reference:
        Lan, Zhu and Gong, Knowledge Distillation by On-the-Fly Native Ensemble, 2018. The
        published gate averages maps of 16×16, the size of its trunk on CIFAR.
    """

    learns = True
    logs = ("ensemble_weight",)
    needs = ("trunk",)

    def __init__(
        self,
        *,
        variant: str = "paper",
        batch_normalization: bool | None = None,
        name: str | None = None,
        dtype: Any = "float32",
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        if batch_normalization is not None and not isinstance(batch_normalization, bool):
            raise ValueError(
                f"batch_normalization must be True, False or None. Received: {batch_normalization=}"
            )
        self.variant = require_choice("variant", variant, VARIANTS)
        self.batch_normalization = batch_normalization
        self.needs = (VARIANTS[variant].source,)

    def build(self, logits_shape: Any, trunk_shape: Any = None, inputs_shape: Any = None) -> None:
        super().build(logits_shape)
        peers, form = logits_shape[1], VARIANTS[self.variant]
        shapes = {"trunk": trunk_shape, "inputs": inputs_shape}
        width = form.width(self.required(form.source, shapes[form.source]))
        self.gate = keras.layers.Dense(peers, dtype=self.dtype_policy, name="gate")
        self.gate.build((None, width))
        given = self.batch_normalization
        self.normalization = None
        if given or (given is None and form.normalizes):
            self.normalization = keras.layers.BatchNormalization(
                momentum=0.9,
                epsilon=1e-5,
                synchronized=True,
                dtype=self.dtype_policy,
                name="normalization",
            )
            self.normalization.build((None, peers))

    def call(
        self,
        logits: Tensor,
        trunk: Any = None,
        inputs: Tensor | None = None,
        training: bool | None = None,
    ) -> Tensor:
        form = VARIANTS[self.variant]
        source = self.required(form.source, {"trunk": trunk, "inputs": inputs}[form.source])
        scores = self.gate(form.seen(ops.cast(source, "float32"), self.gate.kernel.shape[0]))
        if self.normalization is not None:
            scores = self.normalization(scores, training=training)
        gates = ops.softmax(ops.relu(scores))
        combined = logits if form.trains_peers else ops.stop_gradient(logits)
        ensemble = ops.einsum("bp,bpc->bc", gates, combined)
        return {
            **self.same_for_all(ensemble, logits),
            "ensemble_weight": ops.stop_gradient(ops.mean(gates, axis=0)),
        }
