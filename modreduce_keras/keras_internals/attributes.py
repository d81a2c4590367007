"""Attributes: what a layer or a model holds, as it was before."""

from collections.abc import Callable
from typing import Any

import keras


def present_attributes(layer: keras.layers.Layer) -> Callable[[], None]:
    """Returns what gives a layer the attributes that it has now, and lists their entries.

    The values of its variables stay. Relies on `Layer._tracker`, whose `stored_ids` are a set for
    each list of what Keras finds among the attributes, and on these lists being attributes too.
    """
    attributes = dict(vars(layer))
    stored = layer._tracker.stored_ids
    # TensorFlow's wrappers of these are no such types, and are replaced as a whole.
    several = [one for one in (*attributes.values(), *stored.values()) if _kind_of(one)]
    contents = [(one, _kind_of(one)(one)) for one in several]

    def restore() -> None:
        vars(layer).clear()
        vars(layer).update(attributes)
        for one, before in contents:
            _refill(one, before)

    return restore


def _kind_of(value: Any) -> Any:
    return next((kind for kind in (list, dict, set) if issubclass(type(value), kind)), None)


def _refill(value: Any, entries: Any) -> None:
    """Gives a list, dict or set its former entries, without Keras' notice."""
    kind = type(entries)
    kind.clear(value)
    (list.extend if kind is list else kind.update)(value, entries)
