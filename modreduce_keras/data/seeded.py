"""Seeded: whether what a function draws in a graph is a function of the seed that it was given."""

from typing import Any

import tensorflow as tf

from modreduce_keras.typing import Tensor


def require_seeded(argument: str, drawn: Any, seed: Tensor, example: str) -> None:
    """Raises if what a function returned does not depend on its seed.

    A draw of NumPy is a constant of the graph: it would be the same in every batch. Those of other
    generators of TensorFlow could not be repeated, so no training could be continued.

    Args:
        argument: What the function was given as.
        drawn: What it returned: tensors in a structure.
        seed: The symbolic tensor that it was given.
        example: A call that draws by a seed.

    Raises:
        ValueError: If none of the tensors depends on it.
    """
    if tf.executing_eagerly() or _depends(drawn, seed):
        return
    raise ValueError(
        f"{argument} must draw by the seed that it is given, and what it returned does not depend "
        "on it: draws of NumPy would be the same in every batch, as they are made once, and those "
        f"of other generators could not be repeated. Use functions such as {example}, and for "
        "NumPy tf.numpy_function(draw, [seed], tf.float32). What draws nothing goes into "
        "Dataset.map. Received: "
        f"{tf.nest.map_structure(lambda part: tf.type_spec_from_value(part), drawn)}"
    )


def _depends(drawn: Any, seed: Tensor) -> bool:
    """Returns whether a symbolic tensor is an ancestor of others."""
    parts = tf.nest.flatten(drawn, expand_composites=True)
    # An eager tensor or an array is none of this graph.
    left = [part.op for part in parts if tf.is_symbolic_tensor(part)]
    seen: set[int] = set()
    while left:
        operation = left.pop()
        if operation is seed.op:
            return True
        if id(operation) not in seen:
            seen.add(id(operation))
            left += [one.op for one in operation.inputs]
    return False
