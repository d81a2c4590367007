"""What a distiller does about steps that are not finite: loss scales, the guard, and reports."""

from collections.abc import Mapping
from typing import Any

import keras

from modreduce_keras.distillers import optimizers
from modreduce_keras.distillers.averages import PastSelves
from modreduce_keras.distillers.guard import Guard
from modreduce_keras.distillers.logs import LoggedModel
from modreduce_keras.distillers.loss_scales import LossScales, Schedule, computes_in_float16
from modreduce_keras.distillers.updates import Updates


class GuardedModel(LoggedModel):
    """Base class of the distillers: which networks move or rest together, and how they fare."""

    def _begin_unguarded(self) -> None:
        """Prepares a distiller that is not compiled yet."""
        self._updates, self._scales_loss = Updates({}), True
        self._loss_scales: LossScales | None = None

    @property
    def loss_scales(self) -> dict[str, float]:
        """The present loss scale of each student that computes in float16, by name.

        Students that share a trunk have one, `"trunk"`.
        """
        layer = self._updates.scales
        return layer.present() if layer else {}

    @property
    def skipped_steps(self) -> dict[str, int]:
        """How many steps of each student, and of the aggregator, were skipped since `compile`.

        Empty where none is ever skipped: without float16 and without `on_nonfinite`.
        """
        layer = self._updates.scales
        return layer.present_skips() if layer else {}

    @property
    def nonfinite_steps(self) -> dict[str, int]:
        """In how many steps a term of the loss was not finite, by the term's name.

        Gradients that no term explains are `"STUDENT/gradient"`. Counted where
        `compile(on_nonfinite="skip")` said so.
        """
        guard = self._updates.guard
        return guard.counts() if guard else {}

    @property
    def training_record(self) -> list[keras.Variable]:
        """What is noted of the training and no part of the model: a resume restores it too."""
        guard = self._updates.guard
        return [guard.record] if guard else []

    def _networks(self) -> dict[str, list[keras.layers.Layer]]:
        """Returns the layers of each network: what moves together, and can be skipped alone."""
        networks = {name: [one, *self.knowledge[name]] for name, one in self.students.items()}
        if self._wiring.trunk is None:
            return networks
        return {optimizers.TRUNK: [part for parts in networks.values() for part in parts]}

    def _network_of(self, term: str) -> str:
        """Returns the network that a term of the loss teaches."""
        networks, owner = list(self._networks()), term.partition("/")[0]
        return owner if owner in networks else networks[0]

    def _guard(self, schedules: Mapping[str, Schedule] | None, on_nonfinite: str | None) -> None:
        """Decides, in `compile`, which steps are looked at and which networks have a loss scale.

        Args:
            schedules: How loss scales begin and grow, where not as by default; `None` for none.
            on_nonfinite: See `BaseDistiller.compile`.
        """
        networks = self._networks()
        scaled = [schedules is not None and computes_in_float16(p) for p in networks.values()]
        if not any(scaled) and on_nonfinite is None:
            self._updates = Updates(networks)
            return
        with self.distribute_strategy.scope():
            # One for good, as Keras never forgets a layer that a model once held.
            self._loss_scales = self._loss_scales or LossScales(networks)
            self._loss_scales.begin(scaled, schedules or {})
            guard = Guard(on_nonfinite, self._looked_at(networks)) if on_nonfinite else None
        self._updates = Updates(networks, self._loss_scales, guard, self._network_of)
        self._updates.keep(self.optimizer, self._changed_by_a_step())

    def _looked_at(self, networks: Mapping[str, Any]) -> dict[str, str]:
        """Returns what the guard looks at, by its name: how messages call it."""
        described = {}
        for term in self.term_weights():
            owner, _, name = term.rpartition("/")
            described[term] = f"term {name!r} of {owner!r}" if owner else f"term {name!r}"
        for name in networks:
            term = f"{name}/gradient" if self._several else "gradient"
            described[term] = f"the gradient of {name!r}"
        return described

    def _changed_by_a_step(self) -> list[keras.Variable]:
        """Returns the variables that a step may change before the optimizer does, and those."""
        unchanged = {id(self.step)}
        for layer in [self._loss_scales, *self.metrics]:
            unchanged |= {id(variable) for variable in layer.variables}
        for layer in self._flatten_layers():
            if isinstance(layer, PastSelves):  # they move after the step
                unchanged |= {id(variable) for variable in layer.variables}
        return [variable for variable in self.variables if id(variable) not in unchanged]

    def make_train_function(self, force: bool = False):
        """Makes the compiled training step; with a guard, one that speaks up after it."""
        made = self.train_function
        super().make_train_function(force=force)
        if self._updates.guard is not None and self.train_function is not made:
            self.train_function = self._updates.guard.watching(self.train_function)
        return self.train_function
