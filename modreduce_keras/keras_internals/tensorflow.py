"""Datasets of `tf.data`, and graphs of TensorFlow."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras


def inputs_of(dataset: Any) -> list[Any]:
    """Returns the datasets that a `tf.data.Dataset` is made of; none of anything else.

    Relies on `DatasetV2._inputs()`, which distributed datasets lack or raise for.
    """
    try:
        return list(dataset._inputs())
    except (AttributeError, NotImplementedError, TypeError):
        return []


def set_reshuffles(dataset: Any) -> None:
    """Marks a dataset as one whose order is another in each epoch.

    Relies on the attribute `_reshuffle_each_iteration` of what `Dataset.shuffle` returns.
    """
    dataset._reshuffle_each_iteration = True


def reshuffles(dataset: Any) -> bool:
    """Returns whether a dataset itself is known to have another order in each epoch.

    Relies on the same attribute; that of a shuffle by default is `None`, and it has a meaning.
    """
    return getattr(dataset, "_reshuffle_each_iteration", False) is not False


def draws_order(dataset: Any) -> bool:
    """Returns whether a dataset itself is shuffled in an order that depends on the process.

    It does in the first epoch without a seed, and in each one if the order changes: the seed counts
    from the beginning of the process. Relies on the attributes `_buffer_size`, `_seed`, `_seed2`
    and `_reshuffle_each_iteration` of what `Dataset.shuffle` returns; seeds of 0 are drawn.
    """
    names = ("_buffer_size", "_seed", "_seed2", "_reshuffle_each_iteration")
    if not all(hasattr(dataset, name) for name in names):
        return False
    drawn = all(int(one) == 0 for one in (dataset._seed, dataset._seed2))
    return drawn or dataset._reshuffle_each_iteration is not False


def is_compiled_by_xla(tensor: Any) -> bool:
    """Returns whether the graph in which a tensor of TensorFlow is computed is compiled by XLA.

    Relies on `Graph._get_control_flow_context`, in which `tf.function(jit_compile=True)` is, and on
    `FuncGraph.outer_graph`. False for eager tensors.
    """
    graph = getattr(tensor, "graph", None)
    while graph is not None:
        context = graph._get_control_flow_context()
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False


@contextlib.contextmanager
def fourier_transforms(instead: Callable[[Any, Any, int], Any]) -> Iterator[None]:
    """Lets `fft`, `fft2` and `ifft2` of `keras.ops` compute otherwise.

    Relies on the functions of the same names in `keras.src.backend.math`, which `keras.ops` and
    `ifft2` look up each time.

    Args:
        instead: Is given what computes a transform by itself, its real and imaginary parts, and
            along how many axes it is; returns a real and an imaginary part.
    """
    backend = keras.src.backend.math
    own = {"fft": (backend.fft, 1), "fft2": (backend.fft2, 2)}
    try:
        for name, (transform, axes) in own.items():
            setattr(backend, name, functools.partial(_instead, instead, transform, axes))
        yield
    finally:
        for name, (transform, _) in own.items():
            setattr(backend, name, transform)


def _instead(instead: Any, transform: Any, axes: int, numbers: Any) -> Any:
    return instead(transform, numbers, axes)
