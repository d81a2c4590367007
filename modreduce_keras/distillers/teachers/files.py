"""The teacher's part of a distiller's file: its weights, its other state, and what is there."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from modreduce_keras.copying import digest_of, load_tables, parts, save_tables
from modreduce_keras.fingerprints import fingerprint_of

WEIGHTS_FILE = "teacher.weights.h5"
_TABLES_FOLDER, _MANIFEST = "teacher", "teacher.json"


def save(model: keras.Model, folder: str) -> None:
    """Saves a teacher's whole state.

    Args:
        model: The teacher; of several, the model that holds them.
        folder: An existing folder, in which all names here are free.

    Raises:
        ValueError: If a layer's state lies outside of the model.
    """
    root = Path(folder)
    (root / _TABLES_FOLDER).mkdir()
    try:
        files = save_tables(model, root / _TABLES_FOLDER)
    except ValueError as error:
        raise ValueError(
            f"A distiller's file holds its whole teacher, and cannot hold this one: {error}. Save "
            "what has been trained: distiller.student.save('student.keras'), or "
            "distiller.save_weights('distiller.weights.h5'), which leaves the teacher out."
        ) from error
    model.save_weights(str(root / WEIGHTS_FILE))
    files = {f"{_TABLES_FOLDER}/{name}": digest for name, digest in files.items()}
    files[WEIGHTS_FILE] = digest_of(root / WEIGHTS_FILE)
    (root / _MANIFEST).write_text(json.dumps(files, indent=1))


def load(model: keras.Model, folder: str | None) -> None:
    """Loads what `save` saved.

    Files of earlier versions have the teacher's weights alone, which is all of most teachers.

    Raises:
        ValueError: If something of it is missing or damaged.
    """
    root = None if folder is None else Path(folder)
    if root is not None and _is_of_an_earlier_version(root):
        _require_weights_alone(model)
        _load_parts(model, root)
        return
    if root is None or not (root / _MANIFEST).is_file():
        raise missing(_MANIFEST)
    try:
        files = json.loads((root / _MANIFEST).read_bytes())
        found = {name: (root / name).is_file() for name in files}
    except (AttributeError, TypeError, ValueError) as error:
        raise missing(_MANIFEST) from error
    changed = [name for name in files if not found[name] or digest_of(root / name) != files[name]]
    if changed or WEIGHTS_FILE not in files:
        raise missing(*(changed or [WEIGHTS_FILE]))
    _load_parts(model, root)


def _is_of_an_earlier_version(root: Path) -> bool:
    """Returns whether a file has the teacher's weights and nothing else of it."""
    others = (root / _MANIFEST, root / _TABLES_FOLDER)
    return (root / WEIGHTS_FILE).is_file() and not any(path.exists() for path in others)


def _require_weights_alone(model: keras.Model) -> None:
    """Raises unless a teacher's weights are its whole state."""
    # A vocabulary that is still empty was not in the config, and so is nowhere in the file.
    more = [one.name for one in parts(model) if hasattr(one, "save_assets")]
    if more:
        raise ValueError(
            "The file was written by an earlier version, which saved of the teacher its weights "
            f"alone, and the layers {more} hold more than weights: vocabularies or other assets. "
            "Build the distiller with its teacher and call distiller.load_weights(path) with a "
            "file of weights. Received: no teacher.json under assets"
        )


def _load_parts(model: keras.Model, root: Path) -> None:
    try:
        model.load_weights(str(root / WEIGHTS_FILE))
        load_tables(model, root / _TABLES_FOLDER)
    except Exception as error:
        raise ValueError(f"The file's teacher does not fit its config: {error}") from error


def missing(*names: str) -> ValueError:
    """Returns the error of a file without its teacher.

    Args:
        *names: The parts that are missing or damaged.
    """
    named = f"{sorted(names)} under assets" if names else "no assets"
    return ValueError(
        "The teacher's part of the file is missing or damaged, and without it the teacher would "
        f"have random weights. Received: {named}. Load a whole file, as distiller.save('d.keras') "
        "writes it; or build the distiller with its teacher and call distiller.load_weights(path)."
    )


class Arrival(keras.Operation):
    """Tells whether the teacher of a distiller that a file describes has come with it.

    Keras loads no assets where a file has none. It loads the parts of a model after the model's
    own, so this part of it sees what came.

    Args:
        name: Name of the operation.
    """

    def __init__(self, name: str = "arrival"):
        super().__init__(name=name)
        self.is_awaited = False
        self._weights_now: Callable[[], str] = str
        self._weights = ""

    def await_weights(self, models: Sequence[keras.Model]) -> None:
        """Awaits the weights of a teacher's models, which have been made from a config."""
        self.is_awaited, owned = True, list(models)
        # A function, because Keras would save models that it finds here.
        self._weights_now = lambda: fingerprint_of(w for one in owned for w in one.weights)
        self._weights = self._weights_now()

    def require_weights(self) -> None:
        """Raises a `ValueError` if the teacher still has the weights that it was made with."""
        if self.is_awaited and self._weights == self._weights_now() != fingerprint_of([]):
            raise ValueError(
                "A distiller that is made from a config (keras.models.clone_model, from_config) "
                "has a teacher with random weights. Give it trained ones before it trains, "
                "made.teacher.set_weights(distiller.teacher.get_weights()), or copy the distiller "
                "with copy.deepcopy(distiller). Received: a teacher with the weights that it was "
                "made with"
            )
        self.is_awaited = False

    def save_own_variables(self, store: Any) -> None:
        """Saves nothing."""

    def load_own_variables(self, store: Any) -> None:
        """Raises a `ValueError` if the teacher is still awaited."""
        if self.is_awaited:
            raise missing()
