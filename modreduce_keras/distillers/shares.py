"""Shares: knobs that are a part of a whole, from 0 to 1."""

from typing import Any

from modreduce_keras.knobs import Knob


class Share(Knob):
    """Descriptor of a number from 0 to 1, or a schedule, that can be changed from outside.

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
