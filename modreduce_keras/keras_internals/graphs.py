"""Graphs of functional models: which call of which operation gives a symbolic tensor."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras


class History(NamedTuple):
    """Where a symbolic tensor comes from.

    Attributes:
        operation: What computes it.
        call: Index of the call of the operation.
        output: Index among the outputs of the call.
    """

    operation: keras.Operation
    call: int
    output: int


class Call(NamedTuple):
    """One symbolic call of an operation, a node of the graph.

    Attributes:
        key: Equal for the same call, whoever asks.
        operation: What is called.
        inputs: Symbolic tensors that it is given.
        outputs: Symbolic tensors that it returns.
        constants: What else it is given, by place or name, but for `training`.
    """

    key: int
    operation: keras.Operation
    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]
    constants: list[Any]


def history_of(tensor: keras.KerasTensor) -> History:
    """Returns where a symbolic tensor comes from.

    Relies on `KerasTensor._keras_history`, of (operation, node_index, tensor_index).
    """
    operation, call, output = tensor._keras_history
    return History(operation, call, output)


def operation_of(tensor: keras.KerasTensor) -> keras.Operation:
    """Returns the operation that computes a symbolic tensor; relies on what `history_of` does."""
    return history_of(tensor).operation


def calls_of(operation: keras.Operation) -> list[Call]:
    """Returns the symbolic calls of an operation, in all models that it is part of, in order.

    Relies on `Operation._inbound_nodes`, and on a node's `operation`, `input_tensors`, `outputs`.
    """
    return [_call(node) for node in operation._inbound_nodes]


def arguments_of(operation: keras.Operation) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Returns what each symbolic call of an operation is given, by place and by name.

    Relies on a node's `arguments`, of `args` and `kwargs`.
    """
    given = [node.arguments for node in operation._inbound_nodes]
    return [(tuple(one.args), dict(one.kwargs)) for one in given]


def readers_of(operation: keras.Operation) -> list[Call]:
    """Returns the symbolic calls that are given a result of an operation, in all models.

    Relies on `Operation._outbound_nodes`.
    """
    return [_call(node) for node in operation._outbound_nodes]


def calls_in(model: keras.Model) -> set[int]:
    """Returns the keys of the calls that make up a functional or a built Sequential model.

    Relies on `Function._nodes_by_depth`, and on `Sequential._functional`, which has the graph.
    """
    graph = model._functional if isinstance(model, keras.Sequential) else model
    return {id(node) for level in graph._nodes_by_depth.values() for node in level}


def calls_in_order(model: keras.Model) -> list[Call]:
    """Returns the calls that make up a functional model, each after those whose results it takes.

    Those of the inputs are left out. Relies on `Function._nodes_by_depth`, of lists whose depths
    fall towards the outputs, and on `Node.is_input`.
    """
    levels = sorted(model._nodes_by_depth.items(), reverse=True)
    return [_call(node) for _, level in levels for node in level if not node.is_input]


def operations_in(model: keras.Model) -> list[keras.Operation]:
    """Returns the operations of a functional or a built Sequential model.

    Relies on `Sequential._functional`; the operations of a functional model are public.
    """
    graph = model._functional if isinstance(model, keras.Sequential) else model
    return graph.operations


def run_graph(model: keras.Model, inputs: Any, call: Callable[..., Any]) -> Any:
    """Returns what a model gives whose operations are called by a function.

    Relies on `Function._run_through_graph` and `Sequential._functional`.

    Args:
        model: A functional or a built Sequential model.
        inputs: What it is given, symbolic or not, as its inputs are.
        call: Is given an operation and the arguments of one of its calls.
    """
    graph = model._functional if isinstance(model, keras.Sequential) else model
    return graph._run_through_graph(inputs, operation_fn=lambda one: one, call_fn=call)


def _call(node: Any) -> Call:
    named = {name: one for name, one in node.arguments.kwargs.items() if name != "training"}
    given = keras.tree.flatten([list(node.arguments.args), sorted(named.items())])
    constants = [one for one in given if not isinstance(one, keras.KerasTensor)]
    return Call(id(node), node.operation, node.input_tensors, node.outputs, constants)
