"""Balance: the share of each weighted term in the loss and in the gradient of its network."""

import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from modreduce_keras.calls import shown, stacklevel_of_user
from modreduce_keras.distillers import balanced
from modreduce_keras.distillers.backend import tensorflow as backend
from modreduce_keras.distillers.checks import compile_and_fit
from modreduce_keras.distillers.step.batch import Batch
from modreduce_keras.distillers.step.sample_weights import by_sample_weight
from modreduce_keras.distillers.step.terms import Term
from modreduce_keras.knowledge import Knowledge
from modreduce_keras.losses.base import Loss

_TOO_MUCH = 20.0


class Part(NamedTuple):
    """The share of one term in the loss.

    Attributes:
        value: The mean over the batch, without the weight.
        weight: The weight.
        loss: Share of the weighted value among those of its network, from 0 to 1.
        gradient: Share of the norm of its gradient among those of its network, from 0 to 1.
    """

    value: float
    weight: float
    loss: float
    gradient: float


class Balance(dict[str, Part]):
    """The share of each weighted term, by its name in the logs; `print` shows it as a table."""

    def __str__(self) -> str:
        width = max(map(len, [*self, "term"]))
        lines = [f"{'term':{width}}  {'value':>10}  {'weight':>10}  {'of loss':>8}  of gradient"]
        lines += [
            f"{name:{width}}  {part.value:10.4g}  {part.weight:10.4g}  {part.loss:8.1%}  "
            f"{part.gradient:11.1%}"
            for name, part in self.items()
        ]
        return "\n".join(lines)


def balance(  # noqa: D417
    self: Any, data: Any
) -> Balance:
    """Returns the share of each weighted term in the loss and in the gradient, for one batch.

    It runs a training step without the update. Nothing changes: weights, statistics, memories
    of adapters, metrics and the random numbers of layers stay as they are. (`tf.random` and
    `keras.random` without a seed draw from generators of the process.) A weight that is
    `"balanced"` and not set yet is shown as this batch would set it.

    Args:
        data: A batch as of a dataset: `(x, y)`, `(x, y, sample_weight)` or `x` alone.

    Returns:
        A dict from the name of each term to its `value` (the mean over the batch, without the
        weight), its `weight`, and its shares, from 0 to 1, of the `loss` (of the weighted
        values without their signs) and of the `gradient` (of the norms of the gradients by
        the weights of the network that the term trains, without those of adapters). The shares
        of a network add up to 1. Printed, it is a table.

    Raises:
        ValueError: If the distiller is not compiled, trains on several replicas, or the data are
            not a batch that it can train on.
    """
    if not self.compiled:
        raise ValueError("Compile the distiller first: distiller.compile(optimizer, loss).")
    if self.distribute_strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "balance measures on one device: build and compile the distiller outside of the "
            "strategy's scope, and measure there. Received: a distiller on "
            f"{self.distribute_strategy.num_replicas_in_sync} replicas"
        )
    _require_batch(self, data)
    objective, policy = self.objective(), self.policy
    data = keras.tree.map_structure(ops.convert_to_tensor, data)
    with (
        _unchanged([self, *self._forward.teachers]),
        backend.gradient_tape(persistent=True) as tape,
    ):
        with self.kernels():
            batch = Batch.from_data(self.split(data), self.check_labels)
            outputs = self.forward_pass(batch, training=True, with_teacher=True)
            found = by_sample_weight(
                objective.values(outputs), batch.sample_weight, objective.outputs_of(batch)
            )
            balanced.settle(found)
        terms = {term: ops.mean(v) for term, v in found.items() if term.weight is not None}
        weights = {term: weight_of(term) for term in terms}
        scaled = {
            term: policy.scaled(term.trains, weights[term] * value) for term, value in terms.items()
        }
    scales = policy.present_scales()
    values, norms, networks = {}, {}, {}
    for term, value in terms.items():
        network = policy.network_of(term.trains)
        gradients = tape.gradient(scaled[term], _variables(policy.networks[network]))
        scale = scales.get(network, 1.0)
        norms[term] = backend.global_norm(gradients) / scale
        values[term] = float(ops.convert_to_numpy(value)), weights[term]
        networks[term] = network
    return Balance(_parts(values, norms, networks))


def _require_batch(distiller: Any, data: Any) -> None:
    """Raises unless data are a batch that the distiller can train on."""
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    if not leaves or not all(hasattr(leaf, "shape") for leaf in leaves):
        raise ValueError(
            "data must be one batch of arrays, (x, y) or x alone: of a dataset "
            f"next(iter(dataset)). Received: {shown(data)}"
        )
    arrays = keras.tree.map_structure(
        lambda leaf: np.asarray(leaf) if hasattr(leaf, "__array__") else leaf, data
    )
    x, y, weight = keras.utils.unpack_x_y_sample_weight(arrays)
    compile_and_fit.require_batch(distiller, {"x": x, "y": y, "sample_weight": weight})


def _variables(parts: Sequence[keras.layers.Layer]) -> list[Any]:
    """Returns the trained weights of a network, without those of adapters."""
    models = [part for part in parts if not isinstance(part, Knowledge)]
    found = {id(v): v.value for one in models for v in one.trainable_variables}
    return list(found.values())


def _parts(
    values: Mapping[Term, tuple[float, float]],
    norms: Mapping[Term, float],
    networks: Mapping[Term, str],
) -> Iterator[tuple[str, Part]]:
    sizes = {term: abs(value * weight) for term, (value, weight) in values.items()}
    for term, pair in values.items():
        alike = [other for other in values if networks[other] == networks[term]]
        shares = [
            of[term] / total if (total := sum(of[other] for other in alike)) > 0 else 0.0
            for of in (sizes, norms)
        ]
        yield term.log_name, Part(*pair, *shares)


@contextmanager
def _unchanged(models: Sequence[keras.Model]) -> Iterator[None]:
    """Restores what a forward pass changes: statistics, memories and random generators."""
    variables = list({id(v): v for one in models for v in one.variables}.values())
    values = backend.values(variables)
    generators = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.value.assign(value)
        random.setstate(generators[0])
        np.random.set_state(generators[1])


# What `fit` says


def weight_of(term: Term) -> float:
    """Returns the current weight of a term, also if each replica has a copy of its variable."""
    return float(ops.convert_to_numpy(1.0 * term.weight()))


def warning_of(terms: Sequence[Term], losses: Mapping[str, Loss], logs: Mapping[str, Any]) -> str:
    """Returns a warning if one term outweighs all others on the first batch, else `""`.

    Args:
        terms: The terms of the objective.
        losses: The losses of the knowledge, by the names of their terms in the logs.
        logs: The unweighted means of the batch, by name.
    """
    weighted = [term for term in terms if term.weight is not None and term.log_name in logs]
    weights = {term: weight_of(term) for term in weighted}
    sizes = {t: abs(w * float(logs[t.log_name])) for t, w in weights.items() if w > 0}
    for term, size in sizes.items():
        others = {t: s for t, s in sizes.items() if t is not term and t.student == term.student}
        total = sum(others.values())
        if total <= 0 or size <= _TOO_MUCH * total or not np.isfinite(size):
            continue
        if _is_usual(term, losses.get(term.log_name), weights, others):
            continue
        return (
            f"On the first batch the term {term.log_name!r} is {size / total:.0f} times all others "
            f"together: {size:.3g} of {size + total:.3g}, with the weight {weights[term]:.3g}. The "
            "others hardly count then. Lower its weight (weight= of the knowledge, or "
            "weight='balanced'; supervised_weight= for labels); "
            "print(distiller.balance((x, y))) shows the shares of all terms in the loss and in the "
            "gradient."
        )
    return ""


def _is_usual(
    term: Term, loss: Loss | None, weights: Mapping[Term, float], others: Mapping[Term, float]
) -> bool:
    """Returns whether it is normal that a term outweighs others: a response, or the labels.

    Their size does not depend on the models, so it is not a mistake of the user.
    """
    if term.on_labels:
        return weights[term] <= 1.0
    if loss is None or loss.kind != "response" or weights[term] > loss.default_weight:
        return False
    return all(weights[other] >= 1.0 for other in others if other.on_labels)


def watching(step: Callable[..., Any], distiller: Any) -> Callable[..., Any]:
    """Returns a training function that checks the logs of its first call.

    Args:
        step: The training function.
        distiller: The distiller that trains.
    """
    looked = False

    def first(*args: Any, **kwargs: Any) -> Any:
        nonlocal looked
        logs = step(*args, **kwargs)
        # A callback may have put a step of its own in its place, around this one.
        if distiller.train_function is first:
            distiller.train_function = step
        if looked:
            return logs
        looked = True
        losses = {
            distiller.log_name(student, one.name): one.loss
            for student, several in distiller.knowledge.items()
            for one in several
        }
        text = warning_of(distiller.objective().terms, losses, logs)
        if text:
            warnings.warn(text, stacklevel=stacklevel_of_user())
        return logs

    return first
