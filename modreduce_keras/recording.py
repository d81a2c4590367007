"""Recording: what operations are given and return while a model runs.

An operation is a layer, or a function of `keras.ops` in the graph of a functional model. For the
length of a pass a `call` of our own lies on it; the model is not rebuilt, and is left as it was.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from modreduce_keras.keras_internals import (
    call_showing_scores,
    delete_unnoticed,
    set_unnoticed,
)

_threads = threading.local()
_patches: dict[int, "_Patch"] = {}
_lock = threading.Lock()


class Record:
    """One call of an operation.

    Attributes:
        operation: What was called.
        inputs: The leaves of its arguments.
        parent: The call, among those that are recorded, in which it was called; or `None`.
        output: What it returned.
    """

    def __init__(self, operation: keras.Operation, inputs: list[Any], parent: "Record | None"):
        self.operation = operation
        self.inputs = inputs
        self.parent = parent
        self.output: Any = None


class Recording:
    """The calls of a pass, of one thread.

    Attributes:
        records: In the order in which the operations returned.
    """

    def __init__(
        self, operations: Iterable[keras.Operation], showing: Iterable[keras.Operation] = ()
    ) -> None:
        self.records: list[Record] = []
        self._showing = {id(operation) for operation in showing}
        self._ids = {id(operation) for operation in operations} | self._showing
        self._running: list[Record] = []

    def calls_of(self, operation: keras.Operation) -> list[Record]:
        """Returns the calls of one operation, in their order."""
        return [record for record in self.records if record.operation is operation]

    def wants(self, operation: keras.Operation) -> bool:
        """Returns whether the calls of an operation are recorded."""
        return id(operation) in self._ids

    def run(self, operation: keras.Operation, call: Any, args: Any, kwargs: Any) -> Any:
        """Runs a call and records it."""
        parent = self._running[-1] if self._running else None
        record = Record(operation, keras.tree.flatten([args, kwargs]), parent)
        self._running.append(record)
        try:
            if id(operation) in self._showing:
                record.output = call_showing_scores(operation, call, args, kwargs)
            else:
                record.output = call(*args, **kwargs)
        finally:
            self._running.pop()
        self.records.append(record)
        return record.output


@contextlib.contextmanager
def recording(
    operations: Iterable[keras.Operation], showing: Iterable[keras.layers.Layer] = ()
) -> Iterator[Recording]:
    """Records the calls of operations.

    Attention layers among `showing` are recorded too, and compute their scores, which a fused
    kernel would not show, in the layers inside.

    Replicas trace in threads of their own that take turns inside one pass, so what is recorded
    belongs to the thread, and an operation keeps its recorder until the last pass over it ended.
    """
    operations, showing = list(operations), list(showing)
    several = list({id(one): one for one in [*operations, *showing]}.values())
    outer = getattr(_threads, "recording", None)
    _threads.recording = Recording(several, showing)
    try:
        for one in several:
            _patch(one)
        yield _threads.recording
    finally:
        for one in several:
            _unpatch(one)
        _threads.recording = outer


class _Patch:
    """How many passes record an operation now, and the `call` of its own that it had before."""

    def __init__(self, operation: keras.Operation) -> None:
        self.passes = 0
        self.own = {name: call for name, call in vars(operation).items() if name == "call"}


def _patch(operation: keras.Operation) -> None:
    with _lock:
        patch = _patches.setdefault(id(operation), _Patch(operation))
        patch.passes += 1
        if patch.passes > 1:
            return
        call = operation.call

        def recorder(*args: Any, **kwargs: Any) -> Any:
            recorded = getattr(_threads, "recording", None)
            if recorded is None or not recorded.wants(operation):
                return call(*args, **kwargs)
            return recorded.run(operation, call, args, kwargs)

        set_unnoticed(operation, "call", recorder)


def _unpatch(operation: keras.Operation) -> None:
    with _lock:
        patch = _patches[id(operation)]
        patch.passes -= 1
        if patch.passes == 0:
            del _patches[id(operation)]
            delete_unnoticed(operation, "call")
            for name, call in patch.own.items():
                set_unnoticed(operation, name, call)
