"""Contents: what a checkpoint holds of a training, and whether it is one of the same program."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from modreduce_keras.callbacks import training_state
from modreduce_keras.callbacks.callback_state import CallbackState
from modreduce_keras.callbacks.kept import CannotKeepError, Writer, restored_value

_CALLBACK = "callback"


def identity(model: keras.Model) -> dict[str, Any]:
    """Returns what has to be the same where a training goes on."""
    return {
        "optimizers": [type(one).__name__ for one in training_state.optimizers(model)],
        "teacher": training_state.teacher_fingerprint(model),
    }


def require_same(
    model: keras.Model, own: Mapping[str, Any], manifest: Mapping[str, Any], file: Path
) -> None:
    """Raises a `ValueError` if a checkpoint is not one of a model.

    Args:
        model: The model, compiled.
        own: Its `identity`.
        manifest: Of the checkpoint.
        file: The checkpoint, for the message.
    """
    told = {
        "optimizers": "optimizers {} in the checkpoint, {} in the model",
        "teacher": "its teacher had other weights or tables (fingerprint {} in it, {} now)",
    }
    different = [
        said.format(manifest[key], own[key])
        for key, said in told.items()
        if manifest[key] != own[key]
    ]
    what = different[0] if different else None
    what = what or training_state.differences(model, manifest["arrays"], metrics=False)
    if what:
        raise ValueError(
            f"The checkpoint {file} is of another run: {what}. "
            "Build and compile the same models, or use another folder."
        )


def of_training(
    model: keras.Model, state: CallbackState, history: Mapping[str, Any], *, metrics: bool
) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """Returns what is to be in a checkpoint, without the `identity`: the manifest and the arrays.

    Args:
        model: The model, as it is now.
        state: Of the callbacks.
        history: As `present_history` returns it.
        metrics: Whether the states of the metrics are part of it.

    Raises:
        ValueError: If a log or a callback cannot be stored.
    """
    writer, logs = Writer(state.known), {}
    for name, values in history["history"].items():
        try:
            logs[name] = writer.put(values)
        except CannotKeepError as error:
            raise ValueError(
                "Resume keeps the history, so logs must be numbers, strings, arrays, lists or "
                f"dicts. Received: the log {name!r}, which {error.why}"
            ) from error
    manifest = {
        "history": logs,
        "history_epochs": history["history_epochs"],
        "callbacks": state.read(writer),
        "stopped": bool(model.stop_training),
        "teacher_forms": dict(getattr(model, "teacher_forms", {})),
    }
    others = [(f"{_CALLBACK}/{i}", array) for i, array in enumerate(writer.arrays)]
    return manifest, training_state.arrays(model, metrics=metrics) + others


def assign_choices(model: keras.Model, manifest: Mapping[str, Any]) -> None:
    """Lets a distiller's teacher run as before; checkpoints of earlier versions do not say how."""
    if manifest.get("teacher_forms"):
        model.teacher_forms = manifest["teacher_forms"]


def assign_callbacks(
    state: CallbackState, manifest: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Gives callbacks back what a checkpoint holds of them."""
    state.assign(manifest["callbacks"], _arrays_of_callbacks(arrays))


# The history


def history_of(model: keras.Model) -> keras.callbacks.History | None:
    """Returns the callback of Keras that keeps the logs, where there is one."""
    history = getattr(model, "history", None)
    return history if isinstance(history, keras.callbacks.History) else None


def present_history(model: keras.Model) -> dict[str, Any]:
    """Returns a copy of the logs so far, and of the numbers of their epochs."""
    history = history_of(model)
    if history is None:
        return {"history": {}, "history_epochs": []}
    logs = {name: list(values) for name, values in history.history.items()}
    return {"history": logs, "history_epochs": list(history.epoch)}


def stored_history(manifest: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the same of a checkpoint."""
    contents = _arrays_of_callbacks(arrays)
    logs = {name: restored_value(values, contents) for name, values in manifest["history"].items()}
    return {"history": logs, "history_epochs": list(manifest["history_epochs"])}


def _arrays_of_callbacks(stored: Mapping[str, Any]) -> Sequence[Any]:
    """Returns the arrays of callbacks and history in their order."""
    return [one for name, one in stored.items() if name.split("/")[0] == _CALLBACK]
