"""GradientPolicy: how the gradients of a step are applied. This one applies all unchanged."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from modreduce_keras.distillers.gradients.guard import Guard
from modreduce_keras.distillers.step.terms import Term

Networks = Mapping[str, Sequence[keras.layers.Layer]]
"""What is trained or skipped together, by name: a student with its adapters, students that share a
trunk, the aggregator."""
Gradients = list[tuple[Any, keras.Variable]]
"""Gradients, or `None`, each with its variable. Those of embeddings may be sparse, by rows."""


class GradientPolicy:
    """Applies every gradient unchanged.

    A network is what is updated, or skipped, together: a student with its adapters, the students
    that share a trunk (`"trunk"`), the aggregator (`"aggregator"`).

    A distiller that changes gradients before they are applied overrides `transform_gradients`. One
    that needs more returns a subclass of this from `build_gradient_policy`.

    A plain object: the distiller holds what has weights.

    Args:
        networks: The layers of each network, by name.

    Attributes:
        transform: Returns the gradients to apply, each with its variable; see
            `BaseDistiller.transform_gradients`.
    """

    skips = False
    """Whether non-finite steps are skipped, so that training continues."""

    guard: Guard | None = None
    """What notes terms that are not finite, if anything does."""

    def __init__(self, networks: Networks):
        self.transform: Callable[[Gradients], Gradients] = list
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

    def by_network(self, gradients: Gradients) -> dict[str, Gradients]:
        """Returns gradients, each with its variable, by the network that the variable is of."""
        found: dict[str, Gradients] = {name: [] for name in self.names}
        for gradient, variable in gradients:
            found[self.names[self.owner[id(variable)]]].append((gradient, variable))
        return found

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
        """Returns a value that goes from one network to another, with its gradient rescaled.

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
        optimizer.apply_gradients(self.transform(list(gradients)))


def total(losses: Sequence[Any]) -> Any:
    """Returns the sum of losses, float32; of no losses 0.0, as `sum([])` is a Python number."""
    return sum((ops.sum(ops.cast(loss, "float32")) for loss in losses), 0.0)
