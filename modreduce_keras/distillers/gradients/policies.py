"""Which gradient policy a compiled distiller needs: the plain one, or one that skips steps."""

from collections.abc import Mapping
from typing import Any

import keras

from modreduce_keras.distillers.gradients.base import GradientPolicy
from modreduce_keras.distillers.gradients.guard import Guard
from modreduce_keras.distillers.gradients.loss_scales import (
    LossScales,
    Schedule,
    computes_in_float16,
)
from modreduce_keras.distillers.gradients.skip_nonfinite import SkipNonFinite
from modreduce_keras.distillers.step.averages import EMAWeights
from modreduce_keras.keras_internals import flatten_layers


def gradient_policy(
    distiller: Any, schedules: Mapping[str, Schedule] | None, on_nonfinite: str | None
) -> GradientPolicy:
    """Returns the policy of a distiller whose optimizer is built.

    Args:
        distiller: The distiller.
        schedules: How loss scales begin and grow, where not as by default; `None` for none.
        on_nonfinite: See `BaseDistiller.compile`.
    """
    networks = distiller.networks()
    scaled = [schedules is not None and computes_in_float16(p) for p in networks.values()]
    if not any(scaled) and on_nonfinite is None:
        return GradientPolicy(networks)
    with distiller.distribute_strategy.scope():
        scales = distiller.loss_scale_layer(networks)
        scales.begin(scaled, schedules or {})
        guard = Guard(on_nonfinite, _looked_at(distiller, networks)) if on_nonfinite else None
    others, step = _changed_by_a_step(distiller, scales), distiller.step
    return SkipNonFinite(networks, scales, guard, step, distiller.optimizer, others)


def _looked_at(distiller: Any, networks: Mapping[str, Any]) -> dict[str, str]:
    """Returns what the guard looks at, by its name: how messages call it."""
    terms = [term for term in distiller.objective().terms if term.weight is not None]
    described = {term.log_name: term.described for term in terms}
    for name in networks:
        described[distiller.log_name(name, "gradient")] = f"the gradient of {name!r}"
    return described


def _changed_by_a_step(distiller: Any, scales: LossScales) -> list[keras.Variable]:
    """Returns the variables that a step may change before the optimizer does, and those."""
    unchanged = {id(distiller.step)}
    for layer in [scales, *distiller.metrics]:
        unchanged |= {id(variable) for variable in layer.variables}
    for layer in flatten_layers(distiller):
        if isinstance(layer, EMAWeights):  # they follow after the step
            unchanged |= {id(variable) for variable in layer.variables}
    return [variable for variable in distiller.variables if id(variable) not in unchanged]
