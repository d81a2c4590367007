"""The state of callbacks outside of the model: stored completely, or an error that names it."""

import contextlib
import functools
import hashlib
import inspect
import itertools
import json
import logging
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from modreduce_keras.callbacks import keras_callbacks, stateful, training_state
from modreduce_keras.callbacks.kept import CannotKeepError, Writer, restored_value
from modreduce_keras.distillers.peer_averaging import PeerAveraging
from modreduce_keras.distillers.teachers.base import models_of
from modreduce_keras.keras_internals import flatten_layers, made_anew

# What has no state: where it is the same as when training began, the program brings it again.
_STATELESS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    type,
    functools.partial,
    np.ufunc,
    tf.types.experimental.PolymorphicFunction,
    tf.data.Dataset,
    logging.Logger,
)


def require_callbacks(given: Any) -> list[keras.callbacks.Callback]:
    """Returns callbacks as a list.

    Raises:
        ValueError: If something else is among them.
    """
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    wrong = [type(one).__name__ for one in several if not isinstance(one, keras.callbacks.Callback)]
    if wrong:
        raise ValueError(f"callbacks must be a list of Keras callbacks. Received: {wrong}")
    return several


def require_before(
    callbacks: Sequence[keras.callbacks.Callback],
    resume: keras.callbacks.Callback,
    given: Sequence[keras.callbacks.Callback],
) -> None:
    """Raises unless `fit` has some callbacks, and before the one that stores their state.

    Args:
        callbacks: Those whose state is stored.
        resume: What stores it.
        given: All that `fit` was given, in their order.
    """
    indices = {id(one): index for index, one in enumerate(given)}
    for callback in callbacks:
        index = indices.get(id(callback))
        if index is None or index > indices[id(resume)]:
            where = "is not among them" if index is None else "stands after it"
            raise ValueError(
                "What Resume(callbacks=[...]) names must be among the callbacks of fit, before "
                "Resume: fit(..., callbacks=[stopping, Resume(directory, callbacks=[stopping])]). "
                f"Received: {type(callback).__name__}, which {where}"
            )


def require_averaged(
    resume: keras.callbacks.Callback, given: Sequence[keras.callbacks.Callback]
) -> None:
    """Raises if weights would be averaged after the checkpoint of a step is written.

    Args:
        resume: What writes it.
        given: All callbacks that `fit` was given, in their order.
    """
    later = itertools.dropwhile(lambda one: one is not resume, given)
    if any(isinstance(one, PeerAveraging) for one in later):
        raise ValueError(
            "PeerAveraging must stand before Resume, which writes the averaged weights: "
            "fit(..., callbacks=[PeerAveraging(), Resume(directory)]). Received: it stands "
            "after Resume"
        )


class CallbackState:
    """The state of some callbacks, from the beginning of a `fit` on.

    Args:
        callbacks: The callbacks, in the state in which training begins.
        model: The model that is trained.

    Attributes:
        known: What a callback may hold that is stored elsewhere or comes again with the program.

    Raises:
        ValueError: If what one of them holds cannot be kept.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback], model: keras.Model) -> None:
        self._callbacks = list(callbacks)
        self.known = _known(self._callbacks, model)
        self._at_begin: list[dict[str, tuple[Any, str | Literal[False] | None]]] = []
        # What a restart will find to give states to.
        self._fresh: list[dict[str, stateful.Form]] = []
        for callback in self._callbacks:
            keras_callbacks.require_resumable(callback)
            given, held = _arguments(callback), _attributes(callback)
            self._at_begin.append(
                {name: (value, name in given and self._digest(value)) for name, value in held}
            )
            self._fresh.append(self._objects(held))
        self.read(Writer(self.known))

    def _objects(self, held: list[tuple[str, Any]]) -> dict[str, stateful.Form]:
        """Returns the form of each object with a state among attributes, by its path."""
        found = {}
        for name, value in held:
            writer = Writer(self.known)
            with contextlib.suppress(CannotKeepError):
                writer.put(value, name)
            found.update(writer.objects)
        return found

    def _digest(self, value: Any) -> str | None:
        """Returns what tells whether a value has changed; `None` where it cannot be kept."""
        writer = Writer(self.known)
        try:
            text = json.dumps(writer.put(value))
        except CannotKeepError:
            return None
        digest = hashlib.sha256(text.encode())
        for array in writer.arrays:
            digest.update(array.data)
        return digest.hexdigest()

    def read(self, writer: Writer) -> list[dict[str, Any]]:
        """Returns the present state of each callback as JSON.

        The writer is one that knows what is in `known`.

        What its constructor takes is among it only where training has changed it: a restart may
        come with another patience.

        Raises:
            ValueError: If something cannot be kept.
        """
        return [self._read(index, writer) for index in range(len(self._callbacks))]

    def _read(self, index: int, writer: Writer) -> dict[str, Any]:
        callback = self._callbacks[index]
        own = {"class": type(callback).__name__, "beside": keras_callbacks.beside(callback)}
        if _tells(callback):
            try:
                return {**own, "state": self._put(writer, callback.get_state(), "get_state()", {})}
            except CannotKeepError as error:
                raise self._refusal(callback, error.path, error.why) from error
        kept, given = {}, _arguments(callback)
        for name, value in _attributes(callback):
            before, digest = self._at_begin[index].get(name, (None, None))
            unchanged = digest == self._digest(value) if name in given else False
            if unchanged and (digest is not None or before is value):
                continue
            try:
                kept[name] = self._put(writer, value, name, self._fresh[index])
            except CannotKeepError as error:
                if isinstance(value, _STATELESS) and _is_same(before, value):
                    continue
                raise self._refusal(callback, error.path, error.why) from error
        return {**own, "attributes": kept}

    @staticmethod
    def _put(writer: Writer, value: Any, path: str, fresh: Mapping[str, stateful.Form]) -> Any:
        """Puts a value whose objects a restart can give their states to."""
        writer.objects.clear()
        stored = writer.put(value, path)
        for at, form in writer.objects.items():
            why = stateful.misfit(form, fresh.get(at))
            if why is not None:
                raise CannotKeepError(at, why)
        return stored

    @staticmethod
    def _refusal(callback: Any, where: str, why: str) -> ValueError:
        name = type(callback).__name__
        return ValueError(
            "Resume(callbacks=[...]) keeps what a callback holds: numbers, strings, dates, arrays, "
            "lists, dicts, variables, metrics and random generators. For others give the class "
            "the methods get_state() and set_state(state), which return and take what is to be "
            f"kept, or leave it out of callbacks=. Received: {name}.{where}, which {why}"
        )

    def assign(self, stored: Sequence[Mapping[str, Any]], arrays: Sequence[Any]) -> None:
        """Gives the callbacks a state that `read` returned.

        Raises:
            ValueError: If the callbacks are others, or lack an object that is to get its state, or
                if a former version of the library, which kept less, has stored them.
        """
        classes = [type(callback).__name__ for callback in self._callbacks]
        if classes != [own["class"] for own in stored]:
            raise ValueError(
                "callbacks of Resume must be those of the checkpoint, "
                f"{[own['class'] for own in stored]}. Received: {classes}"
            )
        former = [own["class"] for own in stored if "beside" not in own]
        if former:
            raise ValueError(
                "The checkpoint was written by a former version of modreduce_keras, which kept "
                "less of its callbacks. Continue with that version, or start again with another "
                f"folder for Resume. Received: the callbacks {former}"
            )
        known = {name: one for one, name in self.known}
        for callback, own in zip(self._callbacks, stored, strict=True):
            class_name = type(callback).__name__
            if "state" in own:
                callback.set_state(restored_value(own["state"], arrays, None, known, class_name))
            held = vars(callback)
            for name, value in own.get("attributes", {}).items():
                path = f"{class_name}.{name}"
                held[name] = restored_value(value, arrays, held.get(name), known, path)
            keras_callbacks.take_back_beside(callback, own["beside"])


def _tells(callback: Any) -> bool:
    """Returns whether a callback says itself what is to be kept of it."""
    return all(callable(getattr(callback, name, None)) for name in ("get_state", "set_state"))


def _attributes(callback: Any) -> list[tuple[str, Any]]:
    if _tells(callback):
        return []
    left_out = made_anew(callback)
    return [(name, value) for name, value in vars(callback).items() if name not in left_out]


def _arguments(callback: Any) -> set[str]:
    """Returns the names of what the constructor takes."""
    kinds = type(callback).__mro__
    constructors = (vars(kind)["__init__"] for kind in kinds if "__init__" in vars(kind))
    return {name for one in constructors for name in inspect.signature(one).parameters}


def _is_same(before: Any, value: Any) -> bool:
    # A bound method is another object each time it is asked for.
    return before is value or (isinstance(value, types.MethodType) and before == value)


def _known(callbacks: Sequence[Any], model: keras.Model) -> list[tuple[Any, str]]:
    """Returns the model and its parts, and the callbacks themselves, with a name for each."""
    found = [(model, "model"), (getattr(model, "history", None), "history")]
    found += [(one, f"callback {i}") for i, one in enumerate(callbacks)]
    found += [(one, f"optimizer {i}") for i, one in enumerate(training_state.optimizers(model))]
    found += [
        (one, f"layer {i}") for i, one in enumerate(flatten_layers(model, include_self=False))
    ]
    teachers = models_of(getattr(model, "teacher", None))
    found += [(one, f"teacher {i}") for i, one in enumerate(teachers) if one is not None]
    for kind, several in training_state.variables(model, metrics=True).items():
        for i, variable in enumerate(several):
            found += [(variable, f"{kind} variable {i}"), (variable.value, f"{kind} value {i}")]
    return found
