"""Model files: what can be told of one from its name, before Keras is imported."""

from pathlib import Path

from modreduce_keras.command.mistakes import MistakeError, did_you_mean

SUFFIXES = (".keras", ".h5")


def is_file(student: str) -> bool:
    """Returns whether a student is a file rather than a name."""
    return student.endswith(SUFFIXES) or "/" in student


def require_file(path: str, role: str) -> Path:
    """Returns the path of a saved model.

    Args:
        path: As it was given.
        role: What the flag is called.

    Raises:
        MistakeError: If there is no such file, or it is of another kind.
    """
    file = Path(path)
    if not file.is_file():
        there = sorted(one.name for one in file.parent.glob("*") if one.suffix in SUFFIXES)
        raise MistakeError(
            f"--{role} must be a saved model, and there is no file {path!r}."
            + did_you_mean(file.name, there)
        )
    if file.suffix not in SUFFIXES:
        raise MistakeError(
            f"--{role} must be a file that model.save('{role}.keras') writes. Received: {path!r}."
        )
    return file
