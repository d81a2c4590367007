"""Loss scales: keep gradients within the range of float16, with one scale for each network."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from modreduce_keras.keras_internals import flatten_layers

SMALLEST, LARGEST = 2.0**-14, 2.0**24


class Schedule(NamedTuple):
    """How a loss scale begins and grows.

    Attributes:
        initial: The scale at the start.
        growth_steps: Finite steps in a row after which it doubles.
    """

    initial: float = 2.0**15
    growth_steps: int = 2000


class LossScales(keras.layers.Layer):
    """One dynamic loss scale for each network, and how many of its steps were skipped.

    A step with a gradient that is not finite halves the network's scale; many finite steps in a
    row double it. All scales are powers of two, so that scaling alone changes no gradient.

    Args:
        names: Names of the networks.
    """

    def __init__(self, names: Iterable[str]):
        super().__init__(name="loss_scales", dtype="float32", trainable=False)
        self.names = list(names)
        self.scale = self._vector("scale", "float32")
        self.finite_steps = self._vector("finite_steps", "int64")
        self.skipped = self._vector("skipped", "int64")
        self.built = True

    def begin(self, scaled: Iterable[bool], schedules: Mapping[str, Schedule]) -> None:
        """Sets all scales as they are at the start of a training.

        Args:
            scaled: For each network, whether it has a scale; the scale of the others stays 1.
            schedules: How a network's scale begins and grows, where not as by default.
        """
        self.scaled = np.array(list(scaled))
        own = [schedules.get(name, Schedule()) for name in self.names]
        self._growth_steps = np.array([one.growth_steps for one in own], "int64")
        self.scale.assign(np.where(self.scaled, [one.initial for one in own], 1.0))
        self.finite_steps.assign(np.zeros(len(own), "int64"))
        self.skipped.assign(np.zeros(len(own), "int64"))

    def _vector(self, name: str, dtype: str) -> keras.Variable:
        return self.add_weight(
            shape=(len(self.names),),
            dtype=dtype,
            initializer="zeros",
            trainable=False,
            name=name,
            aggregation="only_first_replica",
        )

    def load_own_variables(self, store: Any) -> None:
        """Loads the scales; files of a training that had none leave them as they are."""
        if store.keys():
            super().load_own_variables(store)

    def of(self, name: str) -> Any:
        """Returns the scale of a network, a scalar; `None` where it has none."""
        index = self.names.index(name)
        return ops.convert_to_tensor(self.scale)[index] if self.scaled[index] else None

    def present(self) -> dict[str, float]:
        """Returns the scales that there are, by network."""
        values = ops.convert_to_numpy(ops.convert_to_tensor(self.scale))
        every = zip(self.names, self.scaled, values, strict=True)
        return {name: float(value) for name, scaled, value in every if scaled}

    def present_skips(self) -> dict[str, int]:
        """Returns how many steps were skipped, by network."""
        skipped = ops.convert_to_numpy(ops.convert_to_tensor(self.skipped))
        return {name: int(number) for name, number in zip(self.names, skipped, strict=True)}

    def follow(self, skipped: Any, idle: Any = False) -> None:
        """Updates the scales after a step.

        Args:
            skipped: Whether the step of each network was skipped, (networks,).
            idle: Whether the step was none of the network's. Defaults to `False`.
        """
        skipped = ops.logical_and(skipped, ops.logical_not(idle))
        finite_steps = ops.where(skipped, 0, self.finite_steps + ops.where(idle, 0, 1))
        grows = ops.equal(finite_steps, self._growth_steps)
        factor = ops.where(skipped, 0.5, ops.where(grows, 2.0, 1.0))
        scale = ops.clip(self.scale * ops.cast(factor, "float32"), SMALLEST, LARGEST)
        self.scale.assign(ops.where(self.scaled, scale, self.scale))
        self.finite_steps.assign(ops.where(grows, 0, finite_steps))
        self.skipped.assign(self.skipped + ops.cast(skipped, "int64"))


def taken_apart(optimizer: Any, groups: Collection[str]) -> tuple[Any, dict[str, Schedule]]:
    """Returns what `compile` was given without Keras' own loss scaling, and how that was set.

    Args:
        optimizer: What Keras takes, or a dict of it by group.
        groups: The groups that one optimizer for all trains.
    """
    if isinstance(optimizer, Mapping):
        parts = {name: taken_apart(one, [name]) for name, one in optimizer.items()}
        misplaced = [name for name, (_, own) in parts.items() if own and name not in groups]
        if misplaced:
            raise ValueError(
                "A loss scale is that of a whole student: give the LossScaleOptimizer under the "
                f"key of the student, one of {sorted(groups)}, and layers plain optimizers. "
                f"Received: one for the layers {misplaced}"
            )
        schedules = {name: one for _, own in parts.values() for name, one in own.items()}
        return {name: inner for name, (inner, _) in parts.items()}, schedules
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer, {}
    schedule = Schedule(optimizer.initial_scale, optimizer.dynamic_growth_steps)
    return optimizer.inner_optimizer, dict.fromkeys(groups, schedule)


def computes_in_float16(parts: Iterable[keras.layers.Layer]) -> bool:
    """Returns whether any layer of some models computes in float16."""
    return any(layer.compute_dtype == "float16" for part in parts for layer in flatten_layers(part))
