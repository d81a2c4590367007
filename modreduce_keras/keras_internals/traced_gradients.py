"""Custom gradients in TensorFlow's graphs. Only `distillers` imports it."""

import inspect
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

_KEPT = "modreduce_keras/custom_gradients"
"""The collection of a graph that holds the custom gradients in it."""


def release_unused_graphs() -> None:
    """Lets graphs be freed together with the models that they were traced from.

    When a function with a custom gradient is traced, TensorFlow puts the gradient into a registry
    and never removes it. The gradient holds its graph, and the graph holds the weights that it
    reads. Keras' cross-entropy from logits and SiLU have custom gradients, so each training of a
    new model leaves that model's weights behind. This function lets the graphs hold the gradient
    instead. When they are freed, the registry forgets it.

    Relies on `tensorflow.python.framework.ops.gradient_registry`, whose dict `_registry` has
    entries `{"type": function}`; on `tf.custom_gradient`, which calls them `CustomGradient-...`,
    and whose function holds the results as `result` of its `tape_grad_fn`. Entries of another form
    stay as they are.
    """
    from tensorflow.python.framework import ops

    entries = ops.gradient_registry._registry
    # A garbage collection removes entries, also while pairs of them are being made.
    for name in list(entries):
        entry = entries.get(name, {})
        gradient = entry.get("type")
        if not str(name).startswith("CustomGradient-") or not inspect.isfunction(gradient):
            continue
        graphs = list(_graphs_of(gradient))
        for graph in graphs:
            graph.add_to_collection(_KEPT, gradient)
        if graphs:
            entry["type"] = _Weak(gradient, name, entries)


class _Weak:
    """A function that is called as long as something else holds it, and leaves its dict then."""

    def __init__(self, function: Callable[..., Any], name: str, entries: MutableMapping[str, Any]):
        self._name = name
        self._function = weakref.ref(function, lambda _: entries.pop(name, None))

    def __call__(self, *args: Any) -> Any:
        function = self._function()
        if function is None:
            raise LookupError(f"The graph of the gradient {self._name!r} is no longer there")
        return function(*args)


def _graphs_of(gradient: Callable[..., Any]) -> Iterator[Any]:
    """Yields the function's graph in which a custom gradient was traced, and those around it."""
    import tensorflow as tf

    tape_gradient = inspect.getclosurevars(gradient).nonlocals.get("tape_grad_fn")
    if tape_gradient is None:
        return
    results = tf.nest.flatten(inspect.getclosurevars(tape_gradient).nonlocals.get("result"))
    graph: Any = next((one.graph for one in results if tf.is_symbolic_tensor(one)), None)
    # The outermost is not a function's: it is the default one, which is there for good.
    while hasattr(graph, "outer_graph"):
        yield graph
        graph = graph.outer_graph
