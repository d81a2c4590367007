"""Settings: what a run was started with, so that a restart continues that run and no other."""

import json
from pathlib import Path
from typing import Any

from modreduce_keras.command.mistakes import MistakeError
from modreduce_keras.command.outputs import write_json
from modreduce_keras.command.tasks import Task

FILE = "settings.json"
_MAY_CHANGE = (
    *("out", "formats", "least_agreement", "report", "flagfile", "traceback"),
    *("checkpoint_every", "data_dir", "pixels"),
)


class Settings:
    """The settings of the run in a folder.

    Args:
        folder: The folder, which need not exist.
        given: The flags.

    Raises:
        MistakeError: If the folder holds a run with other settings, or something other than a run.
    """

    def __init__(self, folder: Path, given: dict[str, Any]):
        self._folder = folder
        own = {name: value for name, value in given.items() if name not in _MAY_CHANGE}
        self._own: dict[str, Any] = {"flags": json.loads(json.dumps(own))}
        self._stored: dict[str, Any] | None = None
        if folder.exists() and not folder.is_dir():
            raise MistakeError(f"--out must be a folder. Received: {str(folder)!r}, a file.")
        if (folder / FILE).is_file():
            self._stored = json.loads((folder / FILE).read_text("utf-8"))
            self._require_same("flags")
        elif folder.is_dir() and any(folder.iterdir()):
            raise MistakeError(
                "--out must be a new folder, or one of a run that is to continue. Received: "
                f"{str(folder)!r}, which holds other files."
            )

    @property
    def pixels(self) -> str | None:
        """Range of the pixels that the run began with; `None` if it has not begun."""
        return None if self._stored is None else self._stored["data"]["pixels"]

    def begin(self, task: Task) -> Path:
        """Writes the settings, or compares those of the data with what was written.

        Returns:
            The folder, which exists now.

        Raises:
            MistakeError: If the data are others.
        """
        sizes = {f"{name} samples": part.size for name, part in task.source.parts.items()}
        self._own["data"] = {
            "pixels": task.reader.pixels,
            "classes": task.source.class_names or task.source.classes,
            **sizes,
        }
        if self._stored is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._folder / FILE, self._own)
        else:
            self._require_same("data")
        return self._folder

    def _require_same(self, part: str) -> None:
        stored, own = (self._stored or {}).get(part, {}), self._own[part]
        differing = [
            f"{name} was {stored.get(name)} and is {own.get(name)}"
            for name in {**stored, **own}
            if stored.get(name) != own.get(name)
        ]
        if differing:
            raise MistakeError(
                f"--out={self._folder} holds a run with other settings: {'; '.join(differing)}. "
                "Give the same ones to continue it, or another --out."
            )
