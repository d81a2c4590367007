"""Verification: compares an exported file with its student on real data."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from modreduce_keras.arguments import is_number, require_integer, require_number
from modreduce_keras.export.interpreter import TFLiteFile
from modreduce_keras.export.judging import Judge, compiled_kind, require_kind
from modreduce_keras.export.onnx_session import ONNXFile
from modreduce_keras.export.runnable import RunnableFile, UnusableFileError
from modreduce_keras.export.samples import batches
from modreduce_keras.export.served import SavedModelFolder, is_saved_model
from modreduce_keras.export.students import Inputs, require_student
from modreduce_keras.models import head_kinds
from modreduce_keras.output_kind import CLASSES, EMBEDDING, LABELS, LOGIT, REGRESSION


class Verification(NamedTuple):
    """The result of a comparison of a file with its student.

    Attributes:
        agreement: Share of the answers that are the same, see `verify`.
        accuracy: Share of the file's answers that are right; `None` without labels that are
            counted, and for numbers and embeddings.
        student_accuracy: The same for the student.
        largest_difference: The largest difference between an output of the file and the student's.
        size: Size in bytes of the file, or of all files of a SavedModel.
        milliseconds: Median time of the file for one sample, at batch size one.
        threads: The number of threads for that; `None` for a SavedModel, which uses TensorFlow's.
        samples: How many samples were compared.
        kind: What the outputs are: `"classes"`, `"logit"`, `"labels"`, `"regression"` or
            `"embedding"`.
        error: For numbers: the file's mean absolute error against the labels; else `None`.
        student_error: The same for the student.
    """

    agreement: float
    accuracy: float | None
    student_accuracy: float | None
    largest_difference: float
    size: int
    milliseconds: float
    threads: int | None
    samples: int
    kind: str
    error: float | None = None
    student_error: float | None = None


class VerificationError(RuntimeError):
    """A file does not match its student: it cannot be run, or its answers differ too often.

    Attributes:
        verification: The figures, a `Verification`; `None` if the file could not be run.
    """

    def __init__(self, message: str, verification: Verification | None = None) -> None:
        super().__init__(message)
        self.verification = verification


def verify(
    path: str | os.PathLike,
    student: keras.Model,
    data: Any,
    *,
    least_agreement: float = 0.97,
    kind: str | None = None,
    ignore_class: int | None = None,
    tolerance: float = 0.1,
    threads: int | None = None,
    batch_size: int = 256,
    repeats: int = 100,
) -> Verification:
    """Runs an exported file on real data, and compares it with its student.

    agreement = mean [answer of the file = answer of the student]

    An answer depends on the kind of the output:

    - `"classes"`: the class with the largest logit, for each sample (or position). Accuracy is the
      share of correct classes.
    - `"logit"` and `"labels"`: yes or no for each label, yes if the logit is above 0 (or the
      probability above 0.5 if the student ends in a sigmoid). All labels of all samples have equal
      weight, as in Keras' `BinaryAccuracy(threshold=0)`.
    - `"regression"`: all numbers of a sample (or position). Two answers are the same if no number
      differs by more than `tolerance` standard deviations of the student's outputs for these data.
      The figures are mean absolute errors instead of accuracies.
    - `"embedding"`: the direction of a vector. Two are the same if the vectors of unit length are
      at most `tolerance` apart. Labels are ignored.

    The student runs in inference and in its own precision: for a student in mixed precision the
    difference includes the student's rounding. Outputs of the file that are not finite never agree.

    If inputs or outputs of a file are integers that stand for floats, they are converted with the
    file's scale and zero point.

    TFLite files are run with LiteRT, SavedModels with TensorFlow, both through the signature
    `"serving_default"` (or the first one, if it is missing), and files that end in `.onnx` with
    ONNX Runtime, on the CPU.

    Args:
        path: A file or folder from `to_tflite`, `to_saved_model` or `to_onnx`, or any other of
            these formats with one output.
        student: The exported model: a built Keras model with one output (batch, ..., units).
        data: Finite dataset of batches `(x, y)` or `x` (a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a list, a generator), or arrays: `x`, or a tuple `(x, y)`.
            Several inputs are a list or a dict, as the student takes them. Labels are class
            indices or one-hot, 0 and 1 for each label, or numbers. Sample weights are ignored.
        least_agreement: Agreement from 0 to 1 below which an error is raised. Defaults to 0.97.
        kind: Kind of the outputs, one of those above. Defaults to `None`: determined by the
            student's compiled loss, or else by the labels: class indices or one-hot rows, rows of
            0 and 1 (several hot), or other numbers. Without labels, several outputs are classes,
            and a single output needs `kind`.
        ignore_class: Label of positions, such as 255, that accuracies leave out, as in Keras'
            cross-entropies: of class indices. Agreement is of all positions. Defaults to `None`.
        tolerance: Largest difference of equal numbers or directions, see above. Defaults to 0.1.
        threads: Number of threads for an operation. Defaults to `None`: one. Not for SavedModels,
            because TensorFlow uses the same threads for the whole process.
        batch_size: For arrays: number of samples in a batch. Defaults to 256.
        repeats: How many runs of one sample are timed. Defaults to 100.

    Returns:
        The figures, a `Verification`.

    Raises:
        VerificationError: If the agreement is lower, or the file is damaged or of another model.
        ImportError: If the runtime is missing: LiteRT, which
            `pip install 'modreduce-keras[export]'` installs, or ONNX Runtime (`[onnx]`).
        TypeError: If the student or the data have another type.
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
        >>> figures = verify(path, student, (images, np.eye(4)[np.arange(16) % 4, :3]))
        >>> figures.kind, figures.agreement  # a row of zeros: independent labels
        ('labels', 1.0)
    """
    inputs = require_student(student)
    require_number("tolerance", tolerance, above=0)
    if not (is_number(least_agreement) and 0 <= least_agreement <= 1):
        raise ValueError(f"least_agreement must be from 0 to 1. Received: {least_agreement=}")
    numbers = {"threads": 1 if threads is None else threads}
    _require_label(ignore_class)
    for name, number in {**numbers, "batch_size": batch_size, "repeats": repeats}.items():
        require_integer(name, number)
    path = _existing(path)
    try:
        file = _runnable(path, threads)
        found, samples, one = _judged(
            file,
            student,
            inputs,
            batches("data", data, inputs, batch_size),
            lambda shape: _judge(student, kind, shape, tolerance, ignore_class),
        )
        milliseconds = file.milliseconds(one, repeats)
    except UnusableFileError as error:
        raise VerificationError(str(error)) from error
    figures = Verification(
        agreement=found.agreement,
        accuracy=found.accuracy,
        student_accuracy=found.expected_accuracy,
        largest_difference=found.largest_difference,
        size=file.size,
        milliseconds=milliseconds,
        threads=file.threads,
        samples=samples,
        kind=found.kind,
        error=found.error,
        student_error=found.expected_error,
    )
    _require_agreement(figures, path, student, least_agreement)
    return figures


def _require_agreement(
    figures: Verification, path: Path, student: keras.Model, least_agreement: float
) -> None:
    if figures.agreement < least_agreement:
        raise VerificationError(
            f"{path} agrees with the student {student.name!r} on {100 * figures.agreement:.2f} % "
            f"of {figures.samples} samples ({_ANSWERS[figures.kind]}), and least_agreement "
            f"is {100 * least_agreement:g} %: it is damaged, another model's or older than the "
            "student's weights, or was quantized from data unlike these. If the outputs are "
            f"something else, kind= says so. {figures}",
            figures,
        )


def _judged(
    file: Any,
    student: keras.Model,
    inputs: Any,
    data: Iterable[tuple[Any, Any]],
    judge_of: Callable[[tuple[int, ...]], Any],
) -> tuple[Any, int, dict[str, Any]]:
    """Returns the judgement of a file beside its student, how many samples, and one of them.

    Args:
        file: What runs the file.
        student: The model.
        inputs: The student's.
        data: Batches.
        judge_of: Returns the judge of outputs of a shape.
    """
    specs = inputs.by_name
    file.bind(
        {name: tuple(spec.shape) for name, spec in specs.items()},
        {name: spec.dtype for name, spec in specs.items()},
    )
    judge: Any = None
    samples = 0
    for x, y in data:
        expected, outputs = _outputs(student, inputs, x), file.run(x)
        _require_alike(outputs, expected)
        judge = judge or judge_of(expected.shape)
        judge.add(outputs, expected, y)
        samples += len(expected)
        one = {name: array[:1] for name, array in x.items()}
    return judge.judgement(), samples, one


_ANSWERS = {
    CLASSES: "classes",
    LOGIT: "yes or no",
    LABELS: "yes or no for each label",
    REGRESSION: "numbers within the tolerance",
    EMBEDDING: "directions within the tolerance",
}


def _require_label(ignore_class: Any) -> None:
    if ignore_class is not None and not (is_number(ignore_class) and ignore_class % 1 == 0):
        raise ValueError(
            f"ignore_class must be an integer label or None. Received: {ignore_class=}"
        )


def _judge(
    student: keras.Model,
    kind: str | None,
    shape: tuple[int, ...],
    tolerance: float,
    ignore_class: int | None,
) -> Judge:
    kind = require_kind(kind, shape) or compiled_kind(student, shape)

    def threshold() -> float:
        # A file of a student that ends in a sigmoid returns probabilities too.
        return 0.0 if head_kinds.of_model(student) in (None, head_kinds.LOGITS) else 0.5

    return Judge("verify", kind, tolerance, threshold, ignore_class)


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


def _outputs(student: keras.Model, inputs: Inputs, x: dict[str, np.ndarray]) -> np.ndarray:
    tensors = {name: keras.ops.convert_to_tensor(array) for name, array in x.items()}
    outputs = keras.ops.cast(student(inputs.pack(tensors), training=False), "float32")
    return keras.ops.convert_to_numpy(outputs)


def _require_alike(outputs: np.ndarray, expected: np.ndarray) -> None:
    if expected.ndim < 2:
        raise ValueError(
            "verify compares outputs of each sample: the student must give (batch, ..., units). "
            f"Received: output of shape {expected.shape}"
        )
    if outputs.shape != expected.shape or not np.issubdtype(outputs.dtype, np.floating):
        raise UnusableFileError(
            f"The file cannot be compared: it returns {outputs.dtype} of shape {outputs.shape}, "
            f"and the student float32 of shape {expected.shape}"
        )
