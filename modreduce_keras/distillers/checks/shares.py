"""Shares: hyperparameters from 0 to 1."""

from typing import Any

from modreduce_keras.knobs import Knob


class Share(Knob):
    """A hyperparameter from 0 to 1, or a schedule, that can be changed during training.

    Of a schedule, the values at its `landmarks` are looked at; of one of Keras' own, the first.
    """

    def _validate(self, owner: str, value: Any, received: str) -> float:
        number = super()._validate(owner, value, received)
        if number > 1:
            raise ValueError(
                f"{self.name} of {owner} must be from 0 to 1, or a schedule. "
                f"Received: {self.name}={received}"
            )
        return number
