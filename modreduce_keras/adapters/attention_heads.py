"""Attention heads: learnt on the teacher's layers, they embed the layers of both networks."""

from itertools import pairwise
from typing import Any

import keras
from keras import ops

from modreduce_keras.adapters.base import Adapter
from modreduce_keras.adapters.normalization import normalization_layer
from modreduce_keras.arguments import require_integer
from modreduce_keras.ops import float32, mean_over_places, unit
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


class NormalizedDense(keras.layers.Layer):
    """A dense layer without bias, then batch normalization."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(
            units, use_bias=False, dtype=self.dtype_policy, name="dense"
        )
        self.normalization = normalization_layer(self.dtype_policy, "normalization")

    def build(self, shape: Any) -> None:
        self.dense.build(shape)
        self.normalization.build((*shape[:-1], self.dense.units))

    def call(self, vectors: Tensor, training: bool | None = None) -> Any:
        return self.normalization(self.dense(vectors), training=training)

    def learnt(self) -> list[keras.Variable]:
        """Returns what gradients change, whether it is marked as trainable or not."""
        return [self.dense.kernel, self.normalization.gamma, self.normalization.beta]


class AttentionNetwork(keras.layers.Layer):
    """The heads between two layers, and the estimator of the back layer by which they learn."""

    def __init__(self, *, heads: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.width = heads, width
        self.query = NormalizedDense(heads * width, dtype=self.dtype_policy, name="query")
        self.key = NormalizedDense(heads * width, dtype=self.dtype_policy, name="key")
        self.hidden = NormalizedDense(width, dtype=self.dtype_policy, name="hidden")

    def build(self, front_shape: Any, back_shape: Any) -> None:
        self.query.build(back_shape)
        self.key.build(front_shape)
        self.hidden.build(front_shape)
        self.estimate = keras.layers.Dense(back_shape[-1], dtype=self.dtype_policy, name="estimate")
        self.estimate.build((None, self.heads * self.width))

    def call(self, front: Any, back: Any, training: bool | None = None) -> Any:
        """Returns queries and keys, (batch, heads, width) each."""
        embedded = self.query(back, training=training), self.key(front, training=training)
        return [ops.reshape(one, (-1, self.heads, self.width)) for one in embedded]

    def estimated(self, front: Any, back: Any, kept: Any) -> Any:
        """Returns the back layer, guessed from the front layers that each sample attends to."""
        queries, keys = float32(self(front, back, training=True))
        attention = ops.softmax(ops.einsum("ihd,jhd->ihj", queries, keys), axis=-1) * kept
        values = float32(ops.relu(self.hidden(front, training=True)))
        gathered = ops.einsum("ihj,jd->ihd", attention, values)
        return unit(float32(self.estimate(ops.reshape(gathered, (-1, self.heads * self.width)))))

    def learnt(self) -> list[keras.Variable]:
        """Returns what gradients change, whether it is marked as trainable or not."""
        parts = [v for part in (self.query, self.key, self.hidden) for v in part.learnt()]
        return [*parts, self.estimate.kernel, self.estimate.bias]


@register("adapter", "attention_heads")
class AttentionHeads(Adapter):
    """Layers of both models -> queries and keys of the teacher's attention heads.

    q = θ(v_back), k = φ(v_front), with v = f / ‖f‖ of a layer averaged over its positions

    for each two neighbouring layers, where θ and φ are a dense layer without bias and batch
    normalization, for all heads at once. The heads are trained first and alone, on the teacher:
    `pretraining_loss` is 1 - v̂_back · v_back, summed over the pairs. There, the estimate v̂_back
    for sample i is a dense layer, scaled to unit length, on Σ_j A_hij g(v_front,j) of all heads h,
    A_hij = softmax over j of q_hi · k_hj, and g is a dense layer without bias, batch normalization
    and ReLU.

    Afterwards the heads stay as they are, with their batch normalizations at rest, and embed both
    models. Each of the student's layers has a dense layer before them, from its width to the
    teacher's, which trains with the student.

    Args:
        heads: Number of heads. Defaults to 8.
        width: Width of a head, and of g. Defaults to `None`: the mean of the widths of the
            teacher's two layers, rounded down.
        drop_heads: Whether the estimate for a sample sees only about half of the heads, drawn
            anew in each step: those whose normally distributed number is not below the mean of
            all. Defaults to `True`.
        seed: Seed of these numbers, for runs that repeat. Defaults to `None`: drawn from Keras'
            own seed, so that `keras.utils.set_random_seed` is enough.
        name: See `Adapter`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: List of two layers or more, from the first to the last: (batch, ..., channels).
        teacher: As many layers.

    Returns:
        The student's and the teacher's lists [q, k, q, k, ...], (batch, heads, width) each, in
        the order of the pairs (1, 2), (2, 3), ... of layers.

    Raises:
        ValueError: If `heads` or `width` is out of range, or the features are not lists of layers
            of known width, as many of the student as of the teacher.

    Example:
        >>> import numpy as np
        >>> student = [np.ones((2, 8, 8, 3)), np.ones((2, 4, 4, 5))]
        >>> teacher = [np.ones((2, 8, 8, 4)), np.ones((2, 4, 4, 8))]
        >>> queries, keys = AttentionHeads()(student, teacher)[0]
        >>> tuple(queries.shape), tuple(keys.shape)
        ((2, 8, 6), (2, 8, 6))

    Reference:
        Lee and Song, Graph-based Knowledge Distillation by Multi-head Attention Network, 2019,
        and the authors' code, in which the student uses the teacher's heads, too. There, v is the
        first right singular vector of a sample's map (for the student the one of its first four
        that is closest to the teacher's), not the mean; and only layers of unequal width have a
        layer before the heads, with batch normalization.
    """

    def __init__(
        self,
        *,
        heads: int = 8,
        width: int | None = None,
        drop_heads: bool = True,
        seed: int | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.heads = require_integer("heads", heads)
        self.width = require_integer("width", width, optional=True)
        self.drop_heads = drop_heads
        self.seed = require_integer("seed", seed, 0, optional=True)

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        students, teachers = _widths(student_shape), _widths(teacher_shape)
        if not (len(students) == len(teachers) > 1):
            raise ValueError(
                "AttentionHeads needs lists of two layers or more of known width, as many of the "
                "student as of the teacher, such as at=['stage2', 'stage3']. Received: student of "
                f"shape {student_shape} and teacher of shape {teacher_shape}"
            )
        self.projections = []
        for i, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
            projection = keras.layers.Dense(
                teacher, dtype=self.dtype_policy, name=f"projection_{i}"
            )
            projection.build((None, student))
            self.projections.append(projection)
        self.networks = []
        for i, (front, back) in enumerate(pairwise(teachers)):
            network = AttentionNetwork(
                heads=self.heads,
                width=self.width or (front + back) // 2,
                dtype=self.dtype_policy,
                name=f"network_{i}",
            )
            network.build((None, front), (None, back))
            self.networks.append(network)
        self.random = keras.random.SeedGenerator(self.seed)
        self.freeze_pretraining_variables()

    def call(self, student: Tensor, teacher: Tensor, training: bool | None = None) -> Any:
        projected = [
            unit(float32(project(mean_over_places(layer))))
            for project, layer in zip(self.projections, student, strict=True)
        ]
        teacher = [ops.stop_gradient(one) for one in self._embedded(_units(teacher))]
        return self._embedded(projected), teacher

    def _embedded(self, layers: Any) -> list[Any]:
        """Returns queries and keys of the heads at rest, pair of layers by pair of layers."""
        pairs = zip(self.networks, pairwise(layers), strict=True)
        return [one for network, pair in pairs for one in network(*pair, training=False)]

    def pretraining_loss(self, student: Tensor, teacher: Tensor) -> Any:
        pairs = zip(self.networks, pairwise(_units(teacher)), strict=True)
        return sum(
            1.0 - ops.sum(network.estimated(front, back, self._kept(back)) * back, axis=-1)
            for network, (front, back) in pairs
        )

    def _kept(self, layer: keras.layers.Layer) -> Any:
        """Returns 1 for the heads that a sample's estimate sees and 0 for others."""
        if not self.drop_heads:
            return 1.0
        noise = keras.random.normal((ops.shape(layer)[0], self.heads, 1), seed=self.random)
        return float32(noise >= ops.mean(noise, axis=1, keepdims=True))

    def pretraining_variables(self) -> list[Any]:
        return [variable for network in self.networks for variable in network.learnt()]


def _widths(shapes: Any) -> list[int]:
    """Returns the widths of several layers; an empty list where they are not known."""
    several = isinstance(shapes, (list, tuple)) and all(
        isinstance(shape, (list, tuple)) and len(shape) > 1 and shape[-1] for shape in shapes
    )
    return [shape[-1] for shape in shapes] if several else []


def _units(layers: Any) -> list[Any]:
    return [unit(mean_over_places(layer)) for layer in layers]
