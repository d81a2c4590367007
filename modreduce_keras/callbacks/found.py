"""Finds the checkpoint in a folder that training begins with."""

import warnings
from typing import Any

import keras

from modreduce_keras.callbacks import workers
from modreduce_keras.callbacks.checkpoints import DamagedError, Folder, Position
from modreduce_keras.calls import stacklevel_of_user


def readable(folder: Folder, model: keras.Model) -> tuple[Any, list[str]]:
    """Returns the newest checkpoint that can be read, and what is wrong with newer ones.

    On several workers it is the newest that all can read; `None` where there is none.
    """
    problems, found = [], {}
    several = workers.number(model) > 1
    for position in reversed(folder.positions()):
        try:
            found[position] = folder.read(position)
        except (DamagedError, OSError) as error:
            problems.append(f"{folder.file(position).name} is {error}")
            continue
        if not several:
            break
    if several:
        found = workers.common(model, found, folder.keep, folder.path)
    return (max(found.items()) if found else None), problems


def ended(folder: Folder, model: keras.Model, newest: Position) -> Any:
    """Returns what `fit` left behind where training ended, and nothing newer is there."""
    found = {}
    for position in folder.positions(ended=True):
        try:
            if position >= newest:
                found[position] = folder.read(position, ended=True)
        except (DamagedError, OSError) as error:
            path = folder.file(position, ended=True)
            warnings.warn(f"{path} is not used: it is {error}", stacklevel=stacklevel_of_user())
    if workers.number(model) > 1:
        found = workers.common(model, found, 1, folder.path, required=False)
    return max(found.items()) if found else None
