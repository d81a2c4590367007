"""SkipNonFinite: scales the gradients of each network, and skips its non-finite steps.

A skipped network is afterwards what it was before the step: its weights and batch statistics, its
adapters' memory and its optimizer's state. The other networks are updated.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from modreduce_keras.distillers import optimizers
from modreduce_keras.distillers.backend import tensorflow as backend
from modreduce_keras.distillers.gradients.base import GradientPolicy, Networks, total
from modreduce_keras.distillers.gradients.guard import STOP, Guard
from modreduce_keras.distillers.gradients.loss_scales import LossScales
from modreduce_keras.distribute import (
    keeping_overwritten,
    num_replicas,
    sum_over_replicas,
    take_back,
)
from modreduce_keras.distribute.rows import Overwritten, is_changed_by_rows
from modreduce_keras.keras_internals import own_losses
from modreduce_keras.ops import scale_gradient


class Before(NamedTuple):
    """The values before a step of everything that a skipped step must not change.

    Attributes:
        values: The values of variables.
        rows: Of variables that are changed by rows, those that the step has overwritten.
    """

    values: list[Any]
    rows: list[Overwritten]


class SkipNonFinite(GradientPolicy):
    """Updates the networks whose gradients, and terms, are finite on all replicas.

    Args:
        networks: The layers of each network, by name.
        scales: The networks' loss scales.
        guard: Notes terms and gradients that are not finite, if they are to be noted.
        step: The number of the step, for the guard.
        optimizer: The built optimizer.
        others: Variables that a step may change beside the optimizer's; those that no network
            owns are restored if all networks are skipped.
    """

    def __init__(
        self,
        networks: Networks,
        scales: LossScales,
        guard: Guard | None,
        step: keras.Variable,
        optimizer: keras.optimizers.Optimizer,
        others: Sequence[keras.Variable],
    ):
        super().__init__(networks)
        self.scales, self.guard, self._step = scales, guard, step
        self.skips = guard is None or guard.mode != STOP
        self._holders = {name: _Holder(parts) for name, parts in self.networks.items()}
        everybody = list(range(len(self.names)))
        kept = {id(v): (v, [self.owner[id(v)]]) for v in others if id(v) in self.owner}
        kept |= {id(v): (v, everybody) for v in others if id(v) not in self.owner}
        for variable, served in optimizers.states(optimizer, self.owner):
            kept[id(variable)] = variable, served or everybody
        self._state = [one for one in kept.values() if not is_changed_by_rows(one[0])]
        self._by_rows = {key: one[1] for key, one in kept.items() if is_changed_by_rows(one[0])}

    def present_scales(self) -> dict[str, float]:
        """Returns the loss scales that there are, by network."""
        return self.scales.present()

    def skipped_steps(self) -> dict[str, int]:
        """Returns how many steps were skipped, by network."""
        return self.scales.present_skips()

    @contextlib.contextmanager
    def keeping(self) -> Iterator[Before]:
        """Keeps what a skipped step must not change, in a block that runs the networks."""
        values = backend.values([variable for variable, _ in self._state])
        with keeping_overwritten() as rows:
            yield Before(values, rows)

    def scaled(self, network: str | None, value: Any) -> Any:
        """Returns a part of the loss, whose gradient is scaled for a network."""
        scale = self.scales.of(self.network_of(network))
        # The sum of no losses is a Python number.
        constant = scale is None or isinstance(value, float)
        return value if constant else scale_gradient(value, scale)

    def crossing(self, value: Any, *, back_from: str, into: str) -> Any:
        """Returns a value that one network gives to another, with the gradient that it wants."""
        first, second = (self.scales.of(self.network_of(name)) for name in (back_from, into))
        if first is None and second is None:
            return value
        return scale_gradient(value, _or_one(second) / _or_one(first))

    def additional_loss(self, model: keras.Model) -> Any:
        """Returns the sum of what regularizers and `add_loss` add, scaled for each network."""
        if len(self.names) == 1:
            return self.scaled(self.names[0], total(model.losses))
        parts = [self.scaled(name, total(one.losses)) for name, one in self._holders.items()]
        return sum(parts, total(own_losses(model)))

    def apply(self, optimizer: Any, gradients: Any, terms: Any, before: Any) -> None:
        """Updates the variables of every network whose step is finite on all replicas."""
        skipped, idle = self._skipped(gradients, terms), self._idle(gradients)
        # What a step does not update has run in it, and may have counted what is not finite.
        skipped = ops.logical_or(skipped, ops.logical_and(idle, ops.any(skipped)))
        applied = [
            (None if gradient is None else self._applied(gradient, variable, skipped), variable)
            for gradient, variable in gradients
        ]
        optimizer.apply_gradients(self.transform(applied))
        any_skipped = ops.any(skipped)
        backend.restore(
            [variable for variable, _ in self._state],
            before.values,
            [_all(skipped, networks) for _, networks in self._state],
            any_skipped,
        )

        def take_back_rows() -> None:
            take_back(before.rows, lambda one: _all(skipped, self._by_rows[id(one)]))

        if num_replicas() == 1:
            backend.run_if(any_skipped, take_back_rows)
        else:  # replicas write together, which no branch of a graph can
            take_back_rows()
        self.scales.follow(skipped, idle)

    def _idle(self, gradients: Any) -> np.ndarray:
        """Returns which networks a step does not update, (networks,)."""
        updated = {self.owner[id(variable)] for _, variable in gradients}
        return np.array([index not in updated for index in range(len(self.names))])

    def _skipped(self, gradients: Any, terms: Any) -> Any:
        """Returns which networks are skipped, (networks,), and lets the guard note why."""
        by_network: list[list[Any]] = [[] for _ in self.names]
        for gradient, variable in gradients:
            if gradient is not None:
                by_network[self.owner[id(variable)]].append(gradient)
        flags = [backend.any_nonfinite(own) for own in by_network]
        terms = [] if self.guard is None else terms
        flags += [backend.any_nonfinite([values]) for _, values in terms]
        bad = sum_over_replicas(ops.cast(ops.stack(flags), "float32")) > 0.0
        skipped, bad_terms = bad[: len(self.names)], bad[len(self.names) :]
        if self.guard is None:
            return skipped
        bad_gradients = ops.logical_and(skipped, ~self.scales.scaled)
        for index, (term, _) in enumerate(terms):
            own = np.array(self.names) == self.network_of(term.trains)
            skipped = ops.logical_or(skipped, ops.logical_and(own, bad_terms[index]))
        # A bad gradient is reported only if every term is finite.
        unexplained = ops.logical_and(bad_gradients, ops.logical_not(ops.any(bad_terms)))
        halted = self.guard.halted()
        by_name = {term.log_name: bad_terms[index] for index, (term, _) in enumerate(terms)}
        every = self.guard.names[: -len(self.names)]
        noted = ops.stack([ops.cast(by_name.get(name, False), "bool") for name in every])
        found = ops.concatenate([noted, unexplained])
        self.guard.note(ops.logical_and(found, ops.logical_not(halted)), self._step)
        if self.guard.mode == STOP:
            skipped = ops.logical_or(skipped, ops.logical_or(halted, ops.any(found)))
        return skipped

    def _applied(self, gradient: Any, variable: Any, skipped: Any) -> Any:
        """Returns the true gradient, or zeros where a network is skipped beside others."""
        index = self.owner[id(variable)]

        def applied(values: Any) -> Any:
            if self.scales.scaled[index]:
                values = values / ops.cast(self.scales.scale[index], values.dtype)
            if len(self.names) > 1:  # norms of gradients are over all networks
                values = ops.where(skipped[index], ops.zeros_like(values), values)
            return values

        return backend.map_gradient(applied, gradient)


class _Holder(keras.layers.Layer):
    """Holds layers, to find each of their losses once."""

    def __init__(self, parts: Sequence[keras.layers.Layer]):
        super().__init__(dtype="float32")
        self.parts = list(parts)


def _or_one(scale: Any) -> Any:
    return 1.0 if scale is None else scale


def _all(skipped: Any, networks: Sequence[int]) -> Any:
    """Returns whether all of some networks are skipped, a scalar."""
    return ops.all(ops.take(skipped, np.array(networks), axis=0))
