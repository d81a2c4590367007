"""Subjects: the networks and files of a report, checked and ready to run on the same batches."""

import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from modreduce_keras.distillers.checks import heads
from modreduce_keras.evaluation import multiply_adds
from modreduce_keras.export.interpreter import TFLiteFile
from modreduce_keras.export.onnx_session import ONNXFile
from modreduce_keras.export.runnable import RunnableFile, UnusableFileError
from modreduce_keras.export.served import SavedModelFolder, is_saved_model
from modreduce_keras.export.students import Inputs, compiled, require_student
from modreduce_keras.export.verification import VerificationError
from modreduce_keras.models.kernel_wrapper import weights_in_use
from modreduce_keras.taps import TapReader

TEACHER, STUDENT, FILE = "teacher", "student", "file"
_WARM_UP = 10


class Network:
    """A Keras model that is ready to run.

    Args:
        name: What it is called in the report.
        role: `"teacher"` or `"student"`.
        argument: How the user names it, for messages.
        model: The model.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it has no single output (batch, units).
    """

    owner = None

    def __init__(self, name: str, role: str, argument: str, model: Any) -> None:
        self.name, self.role, self.argument = name, role, argument
        try:
            self.inputs: Inputs = require_student(model)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{argument} cannot be reported: {error}") from error
        shape = tuple(TapReader(model).specs(self.inputs.structure).logits.shape)
        if len(shape) != 2 or shape[1] is None:
            raise ValueError(
                f"{argument} must give logits (batch, classes) of at least two classes, one logit, "
                f"or labels or numbers (batch, units). Received: {model.name!r} with output of "
                f"shape {shape}"
            )
        self.units: int = shape[1]
        self.model = model
        weights = weights_in_use(model)
        self.parameters = sum(math.prod(weight.shape) for weight in weights)
        self.size = sum(_bytes(weight) for weight in weights)
        self.multiply_adds: int | None
        try:
            self.multiply_adds = multiply_adds(model)
        except ValueError:
            self.multiply_adds = None
        self._forward = compiled(model, self.inputs)

    def run(self, arrays: list[np.ndarray]) -> np.ndarray:
        """Returns the outputs for a batch.

        Raises:
            ValueError: If they are not finite.
        """
        outputs = self._forward(arrays).numpy()
        if not np.isfinite(outputs).all():
            raise ValueError(
                f"{self.argument} must give finite logits. Received: NaN or infinity from it"
            )
        return outputs

    def milliseconds(self, arrays: list[np.ndarray], repeats: int) -> float:
        """Returns the median time of one run."""
        seconds = []
        for _ in range(_WARM_UP + repeats):
            begin = time.perf_counter()
            self._forward(arrays).numpy()
            seconds.append(time.perf_counter() - begin)
        return 1e3 * statistics.median(seconds[_WARM_UP:])


class File:
    """An exported student that is ready to run: TFLite, ONNX or a SavedModel.

    Args:
        name: What it is called in the report.
        path: The file, or the folder of a SavedModel.
        student: What it was made from.
        threads: How many threads TFLite and ONNX files may use.

    Raises:
        VerificationError: If it is damaged, or takes other inputs than its student.
    """

    role = FILE
    parameters = multiply_adds = None

    def __init__(self, name: str, path: Path, student: Network, threads: int) -> None:
        self.name, self.owner = name, student.name
        self._path, self._student = path, student
        specs = student.inputs.by_name
        try:
            self._file = _runnable(path, threads)
            self._file.bind(
                {name: tuple(spec.shape) for name, spec in specs.items()},
                {name: spec.dtype for name, spec in specs.items()},
            )
        except UnusableFileError as error:
            raise VerificationError(str(error)) from error
        self.size: int = self._file.size

    def run(self, arrays: list[np.ndarray]) -> np.ndarray:
        """Returns the logits of a batch.

        Raises:
            VerificationError: If they are others than a student's, or not finite.
        """
        try:
            logits = self._file.run(self._by_name(arrays))
        except UnusableFileError as error:
            raise VerificationError(str(error)) from error
        expected = (len(arrays[0]), self._student.units)
        if logits.shape != expected or not np.issubdtype(logits.dtype, np.floating):
            raise VerificationError(
                f"{self._path} returns {logits.dtype} of shape {logits.shape}, and its student "
                f"{self.owner!r} float32 of shape {expected}"
            )
        if not np.isfinite(logits).all():
            raise VerificationError(f"{self._path} returns NaN or infinity")
        return logits

    def milliseconds(self, arrays: list[np.ndarray], repeats: int) -> float:
        """Returns the median time of one run."""
        return self._file.milliseconds(self._by_name(arrays), repeats)

    def _by_name(self, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self._student.inputs.by_name, arrays, strict=True))


def _runnable(path: Path, threads: int) -> RunnableFile:
    if path.is_dir():
        return SavedModelFolder(path)
    return (ONNXFile if path.suffix == ".onnx" else TFLiteFile)(path, threads)


def _bytes(weight: keras.Variable) -> int:
    size = np.dtype(keras.backend.standardize_dtype(weight.dtype)).itemsize
    return int(np.prod(weight.shape, dtype="int64")) * size


def networks(teacher: Any, students: Any) -> list[Network]:
    """Returns the teacher, if there is one, and the students.

    Raises:
        TypeError: If a model is not a Keras model.
        ValueError: If names are not valid, or classes or inputs differ.
    """
    if isinstance(students, Mapping):
        wrong = [name for name in students if not (isinstance(name, str) and name.strip())]
        if wrong or not students or TEACHER in students:
            raise ValueError(
                "students must be a model, or a dict of at least one with names that are strings, "
                f"not empty, and not {TEACHER!r}. Received: students with the names "
                f"{list(students)}"
            )
        found = [
            Network(name, STUDENT, f"students[{name!r}]", model) for name, model in students.items()
        ]
    else:
        found = [Network(STUDENT, STUDENT, "students", students)]
    if teacher is not None:
        found.insert(0, Network(TEACHER, TEACHER, "teacher", teacher))
    _require_equal(found)
    return found


def require_logits(subjects: Sequence[Network | File]) -> None:
    """Raises if a network returns probabilities; its files put out what it does.

    Raises:
        ValueError: With the call that gives logits.
    """
    for one in subjects:
        if isinstance(one, Network):
            try:
                heads.require_logits(one.model, one.role)
            except ValueError as error:
                raise ValueError(f"{one.argument} cannot be reported: {error}") from error


def _require_equal(found: list[Network]) -> None:
    units = {one.argument: one.units for one in found}
    if len(set(units.values())) > 1:
        raise ValueError(
            "The teacher and the students must have the same classes. Received: numbers of "
            f"classes {units}"
        )
    shapes = {
        one.argument: [_any_size(spec) for spec in one.inputs.by_name.values()] for one in found
    }
    first, *others = shapes.values()
    for other in others:
        fits = len(first) == len(other) and all(
            len(a) == len(b)
            and all(None in pair or pair[0] == pair[1] for pair in zip(a, b, strict=True))
            for a, b in zip(first, other, strict=False)
        )
        if not fits:
            raise ValueError(
                "The teacher and the students must take the same inputs; put what turns the one's "
                "into the other's before it: keras.Sequential([layer, teacher]). Received: inputs "
                f"of shape {shapes}"
            )


def _any_size(spec: keras.KerasTensor) -> tuple[int | None, ...]:
    return tuple(spec.shape[1:])


def files(exports: Any, found: list[Network], threads: int) -> list[File]:
    """Returns the files of `exports`.

    Raises:
        TypeError: If a file is not given as a path.
        ValueError: If a student or a name is not known or not new.
        FileNotFoundError: If there is no such file.
        VerificationError: If a file is damaged, or takes other inputs than its student.
    """
    students = {one.name: one for one in found if one.role == STUDENT}
    taken, made = {one.name for one in found}, []
    for owner, name, path in _paths(exports, students):
        if not (isinstance(name, str) and name.strip()) or name in taken:
            raise ValueError(
                "Names of files in exports must be strings, not empty, and differ from one another "
                f"and from the networks'. Received: {name!r} beside {sorted(taken)}"
            )
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"exports must name paths of files. Received: {name!r}: {path!r}")
        if not (Path(path).is_file() or is_saved_model(Path(path))):
            raise FileNotFoundError(
                "exports must name TFLite or ONNX files, or folders of SavedModels. Received: "
                f"{name!r}: {str(path)!r}, where there is none"
            )
        taken.add(name)
        made.append(File(name, Path(path), students[owner], threads))
    return made


def _paths(exports: Any, students: dict[str, Network]) -> list[tuple[str, Any, Any]]:
    """Returns student, name and path of each file."""
    if exports is None:
        return []
    found = []
    for name, one in exports.items():
        if isinstance(one, Mapping):
            if name not in students:
                raise ValueError(
                    f"exports must name students of the report, {list(students)}. Received: "
                    f"{name!r}"
                )
            found += [(name, inner, path) for inner, path in one.items()]
        elif len(students) == 1:
            found.append((*students, name, one))
        else:
            raise ValueError(
                "With several students, exports must say whose each file is: {student: {name: "
                f"path}}, with the students {list(students)}. Received: {name!r}: {one!r}"
            )
    return found
