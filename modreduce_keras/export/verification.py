"""Verification: the proof, on real data, that an exported file does what its student does."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from modreduce_keras.arguments import is_number, require_integer
from modreduce_keras.export.interpreter import TFLiteFile
from modreduce_keras.export.onnx_session import ONNXFile
from modreduce_keras.export.runnable import RunnableFile, UnusableFileError
from modreduce_keras.export.samples import batches
from modreduce_keras.export.served import SavedModelFolder, is_saved_model
from modreduce_keras.export.students import Inputs, require_student
from modreduce_keras.labels import class_indices


class Verification(NamedTuple):
    """What a file and its student gave on the same data.

    Attributes:
        agreement: Share of the samples for which both say the same class.
        accuracy: Share of the samples that the file classifies correctly; `None` without labels.
        student_accuracy: The same of the student.
        largest_difference: The largest difference of two logits, file against student.
        size: Of the file, or of all files of a SavedModel, in bytes.
        milliseconds: Median time of the file for one sample, at batch size one.
        threads: How many threads it had for that; `None` for a SavedModel, which has TensorFlow's.
        samples: How many samples were compared.
    """

    agreement: float
    accuracy: float | None
    student_accuracy: float | None
    largest_difference: float
    size: int
    milliseconds: float
    threads: int | None
    samples: int


class VerificationError(RuntimeError):
    """A file is not its student: it cannot be run as one, or says other classes too often.

    Attributes:
        verification: The figures, a `Verification`; `None` where the file could not be run.
    """

    def __init__(self, message: str, verification: Verification | None = None):
        super().__init__(message)
        self.verification = verification


def verify(
    path: str | os.PathLike,
    student: keras.Model,
    data: Any,
    *,
    least_agreement: float = 0.97,
    threads: int | None = None,
    batch_size: int = 256,
    repeats: int = 100,
) -> Verification:
    """Runs an exported file on real data, and compares it with its student.

    agreement = mean_i [argmax_c f(x_i)_c = argmax_c z(x_i)_c]

    with the logits f of the file and z of the student as it is, in inference and in the precision
    that it has: against a student in mixed precision the difference includes its own rounding.
    Where a file puts out something else than finite numbers, it does not agree.

    Files whose inputs or output are integers that stand for floats are given and read as floats, by
    their own scale and zero point.

    TFLite files are run with LiteRT, SavedModels with TensorFlow, both through the signature
    `"serving_default"` (of a file that lacks it, the first one), and files that end in `.onnx` with
    ONNX Runtime, on the processor.

    Args:
        path: What `to_tflite`, `to_saved_model` or `to_onnx` wrote, or any other file or folder of
            these kinds with one output.
        student: What it was made from: a built Keras model with one output (batch, ..., classes).
        data: Dataset of batches `(x, y)` or `x` that ends (a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a list, a generator), or arrays: `x`, or a tuple `(x, y)`.
            Several inputs come in a list or a dict, as the student takes them. Labels are classes,
            or one-hot. Sample weights do not count.
        least_agreement: Agreement from 0 to 1 below which it is an error. Defaults to 0.97.
        threads: How many threads may run an operation. Defaults to `None`: one. Not for
            SavedModels: TensorFlow's threads are the same for all that a process runs.
        batch_size: For arrays: how many samples run together. Defaults to 256.
        repeats: How many runs of one sample are timed. Defaults to 100.

    Returns:
        The figures.

    Raises:
        VerificationError: If the two agree less, or the file is damaged or is another model's.
        ImportError: If what runs the file is missing: LiteRT, which
            `pip install 'modreduce-keras[export]'` brings, or ONNX Runtime (`[onnx]`).
        TypeError: If the student or the data are something else.
        ValueError: If the student cannot be exported, the data or labels do not fit it, or an
            argument is out of range.
        FileNotFoundError: If there is no such file or folder.

    Example:
        >>> import tempfile, numpy as np, modreduce_keras as mr
        >>> student = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> path = mr.export.to_tflite(student, f"{tempfile.mkdtemp()}/student.tflite")
        >>> images = np.random.default_rng(0).random((16, 28, 28, 1))
        >>> figures = verify(path, student, images)
        >>> figures.agreement, figures.samples, figures.largest_difference < 1e-5
        (1.0, 16, True)
    """
    inputs = require_student(student)
    if not (is_number(least_agreement) and 0 <= least_agreement <= 1):
        raise ValueError(f"least_agreement must be from 0 to 1. Received: {least_agreement=}")
    numbers = {"threads": 1 if threads is None else threads}
    for name, number in {**numbers, "batch_size": batch_size, "repeats": repeats}.items():
        require_integer(name, number)
    path = _existing(path)
    try:
        file = _runnable(path, threads)
        specs = inputs.by_name
        file.bind(
            {name: tuple(spec.shape) for name, spec in specs.items()},
            {name: spec.dtype for name, spec in specs.items()},
        )
        found = _Comparison()
        for x, y in batches("data", data, inputs, batch_size):
            found.add(file.run(x), _logits(student, inputs, x), y)
            one = {name: array[:1] for name, array in x.items()}
        milliseconds = file.milliseconds(one, repeats)
    except UnusableFileError as error:
        raise VerificationError(str(error)) from error
    figures = found.figures(file, milliseconds)
    if figures.agreement < least_agreement:
        raise VerificationError(
            f"{path} agrees with the student {student.name!r} on {100 * figures.agreement:.2f} % "
            f"of {figures.samples} samples, and least_agreement is {100 * least_agreement:g} %: "
            "it is damaged, another model's or older than the student's weights, or was quantized "
            f"from data unlike these. {figures}",
            figures,
        )
    return figures


def _existing(path: str | os.PathLike) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a string or a pathlib.Path. Received: path={path!r}")
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path must be a file. Received: {str(path)!r}, and there is none")
    return path


def _runnable(path: Path, threads: int | None) -> RunnableFile:
    if path.is_file():
        kind = ONNXFile if path.suffix == ".onnx" else TFLiteFile
        return kind(path, threads or 1)
    if not is_saved_model(path):
        raise ValueError(
            "path must be what to_tflite, to_onnx or to_saved_model writes: a TFLite file, an "
            f".onnx file or a SavedModel. Received: {str(path)!r}, a folder without saved_model.pb"
        )
    if threads is not None:
        raise ValueError(
            "threads is for TFLite and ONNX files: a SavedModel runs with the threads that "
            "TensorFlow has in this process (tf.config.threading). "
            f"Received: {threads=} for {str(path)!r}"
        )
    return SavedModelFolder(path)


def _logits(student: keras.Model, inputs: Inputs, x: dict[str, np.ndarray]) -> np.ndarray:
    tensors = {name: keras.ops.convert_to_tensor(array) for name, array in x.items()}
    logits = keras.ops.cast(student(inputs.pack(tensors), training=False), "float32")
    return keras.ops.convert_to_numpy(logits)


class _Comparison:
    """Counts over batches."""

    def __init__(self):
        self._agree: list[np.ndarray] = []
        self._correct: list[np.ndarray] = []
        self._student_correct: list[np.ndarray] = []
        self._largest = 0.0
        self._samples = 0

    def add(self, logits: np.ndarray, expected: np.ndarray, labels: np.ndarray | None) -> None:
        """Compares a batch of the file with the student's."""
        if expected.ndim < 2 or expected.shape[-1] < 2:
            raise ValueError(
                "verify compares classes: the student must give logits (batch, ..., classes) of "
                f"at least two. Received: output of shape {expected.shape}"
            )
        if logits.shape != expected.shape or not np.issubdtype(logits.dtype, np.floating):
            raise UnusableFileError(
                f"The file cannot be compared: it puts out {logits.dtype} of shape {logits.shape}, "
                f"and the student float32 of shape {expected.shape}"
            )
        finite = np.isfinite(logits).all(axis=-1)
        own, students = logits.argmax(axis=-1), expected.argmax(axis=-1)
        self._agree.append(((own == students) & finite).ravel())
        self._samples += len(expected)
        # The maximum of the two would drop a NaN.
        self._largest = float(np.max([self._largest, np.abs(logits - expected).max()]))
        if labels is not None:
            classes = class_indices(labels, expected.shape, "verify")
            self._correct.append(((own == classes) & finite).ravel())
            self._student_correct.append((students == classes).ravel())

    def figures(self, file: RunnableFile, milliseconds: float) -> Verification:
        """Returns the means over all samples."""
        return Verification(
            agreement=_mean(self._agree),
            accuracy=_mean(self._correct),
            student_accuracy=_mean(self._student_correct),
            largest_difference=self._largest,
            size=file.size,
            milliseconds=milliseconds,
            threads=file.threads,
            samples=self._samples,
        )


def _mean(parts: list[np.ndarray]) -> float | None:
    return float(np.concatenate(parts).mean()) if parts else None
