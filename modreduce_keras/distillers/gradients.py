"""GradientPolicy: how the gradients of a step are applied. This one applies all unchanged."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from modreduce_keras.distillers.guard import Guard
from modreduce_keras.distillers.terms import Term

Networks = Mapping[str, Sequence[keras.layers.Layer]]
"""What is trained or skipped together, by name: a student with its adapters, students that share a
trunk, the aggregator."""


class GradientPolicy:
    """Applies every gradient unchanged.

    To do something else with gradients (clip them by student, skip some), write a subclass and
    return it from `build_gradient_policy` of a distiller.

    A plain object: the distiller holds what has weights.

    Args:
        networks: The layers of each network, by name.
    """

    skips = False
    """Whether non-finite steps are skipped, so that training continues."""

    guard: Guard | None = None
    """What notes terms that are not finite, if anything does."""

    def __init__(self, networks: Networks):
        self.networks = dict(networks)
        self.names = list(networks)
        self.owner = {
            id(variable): index
            for index, parts in enumerate(self.networks.values())
            for part in parts
            for variable in part.variables
        }

    def network_of(self, student: str | None) -> str:
        """Returns the network of a student; students that share a trunk are one, the first."""
        return student if student in self.networks else self.names[0]

    def present_scales(self) -> dict[str, float]:
        """Returns the loss scales that there are, by network."""
        return {}

    def skipped_steps(self) -> dict[str, int]:
        """Returns how many steps were skipped, by network; empty if the policy skips none."""
        return {}

    # Before and during the pass

    @contextlib.contextmanager
    def keeping(self) -> Iterator[Any]:
        """Keeps what `apply` may have to restore, in a block that runs the networks."""
        yield None

    def scaled(self, network: str | None, value: Any) -> Any:
        """Returns a part of the loss, whose gradient is scaled for a network."""
        return value

    def crossing(self, value: Any, *, back_from: str, into: str) -> Any:
        """Returns a value that one network gives to another, with the gradient that it wants.

        Args:
            value: (batch, ...).
            back_from: The student, or network, whose terms the gradient comes from.
            into: The one that it goes on into.
        """
        return value

    def additional_loss(self, model: keras.Model) -> Any:
        """Returns the sum of what regularizers and `add_loss` add, scaled for each network."""
        return total(model.losses)

    # After it

    def apply(
        self,
        optimizer: keras.optimizers.Optimizer,
        gradients: Sequence[tuple[Any, keras.Variable]],
        terms: Sequence[tuple[Term, Any]],
        before: Any,
    ) -> None:
        """Updates the variables.

        Args:
            optimizer: Updates them.
            gradients: Of the loss, scaled, or `None`; each with its variable.
            terms: The terms of the loss, with their values, (batch,).
            before: What `keeping` kept.
        """
        optimizer.apply_gradients(gradients)


def total(losses: Sequence[Any]) -> Any:
    """Returns the sum of losses, float32; of no losses 0.0, as `sum([])` is a Python number."""
    return sum((ops.sum(ops.cast(loss, "float32")) for loss in losses), 0.0)
