"""Updates: moves all variables by their gradients, or leaves a network as it was before the step.

A network is what moves or rests together: a student with its adapters, students that share a
trunk, the aggregator. Where one computes in float16 its gradients are scaled, and a step in which
they are not finite on any replica is skipped: the network, its batch statistics, its adapters'
memory and its optimizer's state are afterwards what they were before. The others move on.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from modreduce_keras.distillers import optimizers
from modreduce_keras.distillers.guard import STOP, Guard
from modreduce_keras.distillers.loss_scales import LossScales
from modreduce_keras.distribute import (
    keeping_overwritten,
    num_replicas,
    sum_over_replicas,
    take_back,
)
from modreduce_keras.distribute.rows import Overwritten, is_changed_by_rows
from modreduce_keras.ops import scale_gradient


class Before(NamedTuple):
    """What everything that a skipped step must not change was before it.

    Attributes:
        values: The values of variables.
        rows: Of variables that are changed by rows, those that the step has overwritten.
    """

    values: list[Any]
    rows: list[Overwritten]


class Updates:
    """Applies gradients.

    Args:
        networks: The layers of each network, by name.
        scales: The networks' loss scales; `None` where every step is to be taken as it comes.
        guard: What notes terms that are not finite, if any does.
        network_of: Tells the network that a term of the loss teaches.
    """

    def __init__(
        self,
        networks: Mapping[str, Sequence[keras.layers.Layer]],
        scales: LossScales | None = None,
        guard: Guard | None = None,
        network_of: Callable[[str], str] | None = None,
    ):
        self._networks, self.scales, self.guard = dict(networks), scales, guard
        self._network_of = network_of
        self._names = list(networks)
        self._owner = {
            id(variable): place
            for place, parts in enumerate(self._networks.values())
            for part in parts
            for variable in part.variables
        }
        self._holders = {name: _Holder(parts) for name, parts in self._networks.items()}
        self._state: list[tuple[keras.Variable, list[int]]] = []
        self._by_rows: dict[int, list[int]] = {}

    @property
    def skips(self) -> bool:
        """Whether a step that is not finite is skipped, and training goes on."""
        return self.scales is not None and not (self.guard and self.guard.mode == STOP)

    def keep(self, optimizer: Any, others: Sequence[keras.Variable]) -> None:
        """Says what is to be as before where a step is skipped: all that the step may change.

        Args:
            optimizer: The built optimizer.
            others: Variables of the model; those that no network owns rest if all networks do.
        """
        if self.scales is None:
            return
        everybody = list(range(len(self._names)))
        kept = {id(v): (v, [self._owner[id(v)]]) for v in others if id(v) in self._owner}
        kept |= {id(v): (v, everybody) for v in others if id(v) not in self._owner}
        for variable, served in optimizers.states(optimizer, self._owner):
            kept[id(variable)] = variable, served or everybody
        self._state = [one for one in kept.values() if not is_changed_by_rows(one[0])]
        self._by_rows = {key: one[1] for key, one in kept.items() if is_changed_by_rows(one[0])}

    # Before and during the pass

    @contextlib.contextmanager
    def keeping(self) -> Iterator[Before | None]:
        """Keeps what a skipped step must not change, in a block that runs the networks."""
        if self.scales is None:
            yield None
            return
        values = [tf.identity(variable.value) for variable, _ in self._state]
        with keeping_overwritten() as rows:
            yield Before(values, rows)

    def scaled_terms(self, terms: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the terms of the loss, whose gradients are scaled for the network they teach."""
        if self.scales is None:
            return dict(terms)
        return {name: self.scaled(self._network_of(name), term) for name, term in terms.items()}

    def scaled(self, network: str, value: Any) -> Any:
        """Returns a part of the loss, whose gradient is scaled for a network."""
        scale = self.scales and self.scales.of(network)
        # A sum of nothing is a number.
        constant = scale is None or isinstance(value, float)
        return value if constant else scale_gradient(value, scale)

    def crossing(self, value: Any, *, back_from: str, into: str) -> Any:
        """Returns a value that one network gives to another, with the gradient that it wants.

        Args:
            value: (batch, ...).
            back_from: The student, or network, whose terms the gradient comes from.
            into: The one that it goes on into.
        """
        if self.scales is None:
            return value
        first, second = (self.scales.of(self._network(name)) for name in (back_from, into))
        if first is None and second is None:
            return value
        return scale_gradient(value, _or_one(second) / _or_one(first))

    def _network(self, student: str) -> str:
        # Students that share a trunk are one network, the first.
        return student if student in self._networks else self._names[0]

    def additional_loss(self, model: keras.Model) -> Any:
        """Returns the sum of what regularizers and `add_loss` add, scaled for each network."""
        if self.scales is None:
            return _sum(model.losses)
        if len(self._names) == 1:
            return self.scaled(self._names[0], _sum(model.losses))
        parts = [self.scaled(name, _sum(one.losses)) for name, one in self._holders.items()]
        return sum(parts, _sum(model._get_own_losses()))

    # After it

    def apply(
        self,
        optimizer: Any,
        gradients: Sequence[Any],
        variables: Sequence[keras.Variable],
        *,
        terms: Mapping[str, Any],
        before: Before | None,
        step: Any,
    ) -> Any:
        """Moves the variables of every network whose step is finite on all replicas.

        Args:
            optimizer: Moves them.
            gradients: Of the loss, scaled; `None` where there is none.
            variables: The variables they belong to.
            terms: The terms of the loss, (batch,) each.
            before: What `keeping` kept.
            step: The number of the step.

        Returns:
            Whether each network rests, (networks,); `None` where every step is taken.
        """
        if self.scales is None:
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return None
        rests = self._resting(gradients, variables, terms, step)
        moving = [
            None if gradient is None else self._moving(gradient, variable, rests)
            for gradient, variable in zip(gradients, variables, strict=True)
        ]
        optimizer.apply_gradients(zip(moving, variables, strict=True))
        tf.__internal__.distribute.interim.maybe_merge_call(
            _restore,
            tf.distribute.get_strategy(),
            [variable.value for variable, _ in self._state],
            before.values,
            [_all_rest(rests, networks) for _, networks in self._state],
            tf.reduce_any(rests),
        )

        def take_back_rows():
            take_back(before.rows, lambda one: _all_rest(rests, self._by_rows[id(one)]))

        if num_replicas() == 1:
            tf.cond(tf.reduce_any(rests), take_back_rows, lambda: None)
        else:  # replicas write together, which no branch of a graph can
            take_back_rows()
        self.scales.follow(rests)
        return rests

    def _resting(self, gradients, variables, terms, step):
        by_network = [[] for _ in self._names]
        for gradient, variable in zip(gradients, variables, strict=True):
            if gradient is not None:
                by_network[self._owner[id(variable)]].append(gradient)
        flags = [_any_nonfinite(own) for own in by_network]
        watched = [] if self.guard is None else list(terms)
        flags += [_any_nonfinite([terms[name]]) for name in watched]
        bad = sum_over_replicas(tf.cast(tf.stack(flags), "float32")) > 0.0
        rests, bad_terms = bad[: len(self._names)], bad[len(self._names) :]
        if self.guard is None:
            return rests
        bad_gradients = rests & ~tf.constant(self.scales.scaled)
        for place, name in enumerate(watched):
            network = self._names.index(self._network_of(name))
            rests |= tf.one_hot(network, len(self._names), True, False) & bad_terms[place]
        # A gradient is worth a word of its own only where no term explains it.
        alone = bad_gradients & ~tf.reduce_any(bad_terms)
        halted = self.guard.halted()
        found = tf.concat([bad_terms, alone], 0)
        self.guard.note(found & ~halted, step)
        if self.guard.mode == STOP:
            rests |= halted | tf.reduce_any(found)
        return rests

    def _moving(self, gradient, variable, rests):
        """Returns the true gradient, or zeros where a network rests beside others."""
        place = self._owner[id(variable)]

        def moving(values):
            if self.scales.scaled[place]:
                values = values / tf.cast(self.scales.scale.value[place], values.dtype)
            if len(self._names) > 1:  # norms of gradients are over all networks
                values = tf.where(rests[place], tf.zeros_like(values), values)
            return values

        if isinstance(gradient, tf.IndexedSlices):
            values = moving(gradient.values)
            return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
        return moving(gradient)


def _or_one(scale: Any) -> Any:
    return 1.0 if scale is None else scale


class _Holder(keras.layers.Layer):
    """Holds layers, to find each of their losses once."""

    def __init__(self, parts: Sequence[keras.layers.Layer]):
        super().__init__(dtype="float32")
        self.parts = list(parts)


def _sum(losses: Sequence[Any]) -> Any:
    return sum((tf.reduce_sum(tf.cast(loss, tf.float32)) for loss in losses), 0.0)


def _any_nonfinite(tensors: Sequence[Any]) -> Any:
    """Returns whether anything in some tensors is not finite, a scalar."""
    values = [t.values if isinstance(t, tf.IndexedSlices) else t for t in tensors]
    flags = [tf.reduce_any(~tf.math.is_finite(value)) for value in values]
    return tf.reduce_any(tf.stack(flags)) if flags else tf.constant(False)


def _all_rest(rests: Any, networks: Sequence[int]) -> Any:
    return tf.reduce_all(tf.gather(rests, networks))


def _restore(strategy, variables, before, rests, any_rests):
    """Writes back, on every replica, the old values of the variables that rest."""

    def restore(variable, old, rest):
        variable.assign(tf.where(rest, old, variable))

    def restore_all():
        for variable, old, rest in zip(variables, before, rests, strict=True):
            strategy.extended.update(variable, restore, args=(old, rest), group=False)

    # Hardly ever: then everything is read and written once more.
    tf.cond(strategy.experimental_local_results(any_rests)[0], restore_all, lambda: None)
