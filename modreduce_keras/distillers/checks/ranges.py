"""Ranges: warns of pixels in another range than the one that a model expects."""

import warnings
from typing import Any

import keras
import numpy as np

from modreduce_keras.calls import stacklevel_of_user
from modreduce_keras.models.preprocessing import mismatch

_LOOKED_AT = 32


def warn_of_ranges(forward: Any, x: Any) -> None:
    """Warns once for each model that is likely given pixels in another range than it expects.

    Only arrays are looked at: a dataset would have to be read an additional time, which draws
    random numbers that its training then lacks.

    Args:
        forward: The forward pass of a distiller.
        x: What `fit` is given.
    """
    leaves = keras.tree.flatten(x)
    if not leaves or not all(isinstance(leaf, np.ndarray) and leaf.ndim for leaf in leaves):
        return
    if not any(leaf.ndim == 4 for leaf in leaves):
        return
    first = keras.tree.map_structure(lambda leaf: leaf[:_LOOKED_AT], x)
    for role, model, seen in _seen(forward, first):
        if keras.tree.is_nested(seen):
            continue
        values = keras.ops.convert_to_numpy(seen)
        found = mismatch(model, np.asarray(values, "float64")) if values.dtype.kind in "iuf" else ""
        if found:
            warnings.warn(
                f"The {role} {model.name!r} {found}. Scale x, or, where the models differ, give "
                "teacher_input= or student_inputs= a function of it; mr.models.preprocessing(model)"
                " returns what a model expects.",
                stacklevel=stacklevel_of_user(),
            )


def _seen(forward: Any, x: Any) -> list[tuple[str, keras.Model, Any]]:
    """Returns the models, what messages call them, and what of a batch they see."""
    views, teacher = forward.views, forward.teacher
    models = getattr(teacher, "models", ()) if hasattr(teacher, "given") else ()
    try:
        seen = views.teacher(x, training=False) if models else None
        each = seen if isinstance(seen, list) else [seen] * len(models)
        found = [("teacher", *pair) for pair in zip(models, each, strict=True)]
        for name, reader in forward.readers.items():
            found.append((f"student {name!r}", reader.model, views.student(name, x, False)))
    except Exception:  # functions of the user's own may want more than a few samples
        return []
    return found
