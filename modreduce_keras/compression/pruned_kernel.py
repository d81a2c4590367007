"""PrunedKernel: a layer whose smallest weights become zeros while it trains."""

from functools import cached_property
from typing import Any

import keras
from keras import ops

from modreduce_keras.arguments import is_number, require_choice, require_integer, require_sizes
from modreduce_keras.compression.structures import BLOCK, STRUCTURES, Structure
from modreduce_keras.keras_internals import completes_update
from modreduce_keras.models.kernel_wrapper import MaskedKernel
from modreduce_keras.models.kernels import kernel_of
from modreduce_keras.registry import get
from modreduce_keras.schedules import Constant

MAGNITUDE, MOVEMENT = "magnitude", "movement"
SCORES = (MAGNITUDE, MOVEMENT)
BLOCK_SIZE = (1, 4)

_Schedule: Any = keras.optimizers.schedules.LearningRateSchedule


@keras.saving.register_keras_serializable(package="modreduce_keras")
class PrunedKernel(MaskedKernel):
    """Runs a layer with the weights of smallest score at zero; see `mr.prune`.

    After each update of the weights by an optimizer the step count advances, and the mask follows
    the schedule; batches whose gradients are only accumulated are not updates. It is a part of the
    graph, as a constraint on the kernel is, so it is the same in every training loop. A frozen
    layer keeps its mask.

    Args:
        layer: A convolution or a dense layer.
        sparsity: Share of the weights, or blocks, that are zero: a number or a schedule.
        structure: `"unstructured"`, `"2:4"` or `"block"`.
        score: `"magnitude"` or `"movement"`.
        every: Number of updates from one mask to the next.
        block_size: Inputs and outputs of a block.
        **kwargs: `name` and `dtype`, which default to those of the layer.

    Call arguments:
        inputs: What the layer takes.

    Returns:
        What the layer gives.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        *,
        sparsity: Any,
        structure: str = STRUCTURES[0],
        score: str = MAGNITUDE,
        every: int = 1,
        block_size: tuple[int, int] = BLOCK_SIZE,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, **kwargs)
        self.structure = require_choice("structure", structure, STRUCTURES)
        self.score = require_choice("score", score, SCORES)
        self.every = require_integer("every", every)
        self.block_size = require_sizes("block_size", block_size, "say (inputs, outputs)", 2)
        self.sparsity = as_sparsity(sparsity)

    def build(self, input_shape: Any = None) -> None:
        """Builds the layer, and creates the mask, the step count, and scores that are trained."""
        super().build(input_shape)
        self.step = self.add_weight(
            name="step",
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )
        kernel = kernel_of(self.plain)
        self.scores: Any = None
        if self.score == MOVEMENT:
            self.scores = self.add_weight(
                name="scores", shape=kernel.shape, initializer="zeros", trainable=True
            )
        self._constraint = kernel.constraint
        kernel.constraint = self._after_update

    @cached_property
    def _units(self) -> Structure:
        return Structure(self.structure, self.plain, self.block_size)

    def used_kernel(self) -> Any:
        """Returns the kernel with zeros where the mask is `False`, float32."""
        kernel = super().used_kernel()
        if self.scores is None:
            return kernel
        # Adds zero, whose gradient is that of the scores (the straight-through estimator).
        scores = ops.cast(ops.convert_to_tensor(self.scores), "float32")
        return kernel + ops.stop_gradient(self.given_kernel()) * (
            scores - ops.stop_gradient(scores)
        )

    def unfinished(self) -> str | None:
        """Returns how far the sparsity is from where it ends; `None` once it is there."""
        step, last = int(ops.convert_to_numpy(self.step)), max(self.sparsity.landmarks())
        now, end = (round(float(self.sparsity(one)), 2) for one in (step, last))
        if step >= last or now >= end:
            return None
        return (
            f"sparsity is {now:.2f} at step {step}, and the schedule ends at {end:.2f} at step "
            f"{last:.0f}"
        )

    def first_mask(self, shape: Any = None, dtype: Any = None) -> Any:
        """Returns the mask of the first step, by magnitude: there has been no movement yet."""
        return self._units.kept(ops.abs(self.given_kernel()), self.sparsity(0))

    def start(self) -> None:
        """Sets the mask of the first step."""
        self.mask.assign(self.first_mask())
        if self.scores is None:
            kernel_of(self.plain).assign(super().used_kernel())

    def _after_update(self, kernel: Any) -> Any:
        """Returns the kernel that an update leaves, and updates the mask."""
        kernel = ops.convert_to_tensor(kernel)
        if self._constraint is not None:
            kernel = ops.convert_to_tensor(self._constraint(kernel))
        completes = ops.cast(completes_update(), "bool")
        self.step.assign_add(ops.cast(completes, "int64"))
        sparsity = self.sparsity(ops.convert_to_tensor(self.step))
        mask = ops.convert_to_tensor(self.mask)
        if self.scores is None:
            # An optimizer's momentum has moved zeros too.
            kernel = ops.where(mask, kernel, 0.0)
        scores = ops.abs(kernel) if self.scores is None else ops.convert_to_tensor(self.scores)
        mask = ops.cond(
            ops.logical_and(completes, self._is_due(mask, sparsity)),
            lambda: self._units.kept(ops.cast(scores, "float32"), sparsity),
            lambda: mask,
        )
        self.mask.assign(mask)
        # By movement a weight may come back, as it was.
        return kernel if self.scores is not None else ops.where(mask, kernel, 0.0)

    def _is_due(self, mask: Any, sparsity: Any) -> Any:
        """Returns whether there is to be another mask."""
        is_due = ops.equal(ops.convert_to_tensor(self.step) % self.every, 0)
        if self.scores is not None:
            # Where nothing has moved, equal scores say nothing.
            return ops.logical_and(is_due, ops.any(ops.not_equal(self.scores, 0.0)))
        if self.structure == BLOCK:
            return is_due
        # As many of the smallest weights as are zero already are those.
        zeros = ops.sum(ops.cast(ops.logical_not(mask), "int32"))
        is_other = ops.not_equal(zeros, self._units.pruned_units(sparsity))
        return ops.logical_and(is_due, is_other)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            **super().get_config(),
            "sparsity": keras.saving.serialize_keras_object(self.sparsity),
            "structure": self.structure,
            "score": self.score,
            "every": self.every,
            "block_size": list(self.block_size),
        }


def as_sparsity(value: Any) -> Any:
    """Returns a sparsity as a schedule.

    Raises:
        ValueError: If it is neither a number nor a schedule whose range is known, or not from 0 to
            below 1.
    """
    if isinstance(value, (dict, _Schedule)):
        schedule = get("schedule", value, _Schedule)
    elif is_number(value):
        schedule = Constant(value)
    else:
        raise ValueError(
            "sparsity must be a number from 0 to below 1, the share of weights that are zero, or a "
            "schedule of it, such as mr.schedules.Polynomial(0.0, 0.8, steps=1000). "
            f"Received: sparsity={value!r}"
        )
    if not hasattr(schedule, "landmarks"):
        raise ValueError(
            "sparsity must be a number, or a schedule that tells where it is smallest and largest "
            "(landmarks), as those of mr.schedules do, such as mr.schedules.Polynomial(0.0, 0.8, "
            f"steps=1000). Received: sparsity={value!r}"
        )
    ends = schedule.landmarks()
    found = [float(schedule(step)) for step in ends]
    if not all(0.0 <= one < 1.0 for one in found):
        raise ValueError(
            "sparsity must be from 0 to below 1 at every step. Received: "
            f"sparsity={value!r}, which is {found} at the steps {ends}"
        )
    return schedule
