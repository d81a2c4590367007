"""Columns of the matrix: what an architecture is asked for, and when it holds."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import modreduce_keras as mr
from benchmarks.matrix.architectures import Architecture
from benchmarks.matrix.inputs import Data, calibrate, data_for, read, teacher_for
from modreduce_keras.taps import paths_of

TRAIN, TEST, REPRESENTATIVE, BATCH = 160, 60, 48, 16
TEMPERATURE = 4.0


class Cell(NamedTuple):
    """What was found.

    Attributes:
        figure: A difference, or an agreement.
        unit: `"difference"`, as a part of the largest, or `"agreement"`, a share.
        holds: Whether that is good enough.
        note: What it took beside the defaults.
    """

    figure: float
    unit: str
    holds: bool
    note: str = ""


class Case:
    """An architecture, built once, with what the columns share."""

    def __init__(self, name: str, architecture: Architecture) -> None:
        self.name, self.architecture = name, architecture
        keras.utils.set_random_seed(0)
        self.model = architecture.build(None)
        self.data: Data = data_for(architecture, self.model, TRAIN, TEST)
        calibrate(self.model, self.data)

    @functools.cached_property
    def logits(self) -> np.ndarray:
        """Of the test inputs."""
        return predicted(self.model, self.data.test)

    @functools.cached_property
    def quantized(self) -> keras.Model:
        """The student of quantization-aware training, in the ranges that it has seen."""
        return mr.models.quantize_aware(self.model, representative=self.some(REPRESENTATIVE))

    def some(self, several: int) -> Any:
        """Returns the first training inputs."""
        return keras.tree.map_structure(lambda array: array[:several], self.data.train)

    def fresh(self) -> keras.Model:
        """Returns a copy of the model that may be trained."""
        keras.utils.set_random_seed(0)
        model = self.architecture.build(None)
        model.set_weights(self.model.get_weights())
        return model


def predicted(model: keras.Model, inputs: Any) -> np.ndarray:
    return np.asarray(model.predict(inputs, batch_size=20, verbose=0), "float64")


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.max(np.abs(one - other)) / np.max(np.abs(one)))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def teacher_logits(case: Case) -> Cell:
    """`as_logits` of the model with a softmax: its softmax is the old output."""
    keras.utils.set_random_seed(0)
    probabilities = case.architecture.build("softmax")
    probabilities.set_weights(case.model.get_weights())
    logits = mr.models.as_logits(probabilities)
    old = predicted(probabilities, case.data.test)
    error = float(np.max(np.abs(_softmax(predicted(logits, case.data.test)) - old)))
    return Cell(error, "difference", error <= 1e-6 and old.max() > 0.2)


def teacher_folded(case: Case) -> Cell:
    """`fold`: the outputs of the model."""
    folded = mr.models.fold(case.model)
    error = _difference(case.logits, predicted(folded, case.data.test))
    return Cell(error, "difference", error <= 1e-4)


def teacher_in_half(case: Case) -> Cell:
    """`fold` in bfloat16: the classes of the model."""
    folded = mr.models.fold(case.model, dtype="bfloat16")
    same = predicted(folded, case.data.test).argmax(-1) == case.logits.argmax(-1)
    return Cell(float(same.mean()), "agreement", same.mean() >= 0.9)


def _distiller(case: Case, knowledge: Any) -> tuple[Any, keras.Model, keras.Model]:
    student = case.fresh()
    names = tuple(student.input) if isinstance(student.input, dict) else ()
    teacher = teacher_for(case.architecture, names)
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=knowledge)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.01), loss, evaluate_knowledge=True)
    return distiller, student, teacher


def _logged(distiller: Any, case: Case) -> tuple[dict[str, float], Any]:
    """Returns what is logged of one batch in inference, and that batch."""
    batch = case.some(BATCH)
    logs = distiller.evaluate(
        batch, case.data.train_classes[:BATCH], batch_size=BATCH, verbose=0, return_dict=True
    )
    return logs, batch


def _trained(distiller: Any, student: keras.Model, case: Case) -> float:
    """Returns the share of a student's trainable variables that a training step changes."""
    wanted = student.trainable_variables
    before = [np.array(variable) for variable in wanted]
    logs = distiller.train_on_batch(
        case.some(BATCH), case.data.train_classes[:BATCH], return_dict=True
    )
    if not all(np.isfinite(float(value)) for value in logs.values()):
        raise FloatingPointError(f"The logs of a training step are not finite: {logs}")
    changed = [not np.array_equal(one, np.array(v)) for one, v in zip(before, wanted, strict=True)]
    return float(np.mean(changed))


def student_kd(case: Case) -> Cell:
    """KD: what is logged is the equation, and a step changes all weights."""
    distiller, student, teacher = _distiller(
        case, mr.Response(mr.losses.KD(temperature=TEMPERATURE))
    )
    logs, batch = _logged(distiller, case)
    one, other = (_softmax(predicted(m, batch) / TEMPERATURE) for m in (teacher, student))
    wanted = TEMPERATURE**2 * np.mean(np.sum(one * (np.log(one) - np.log(other)), -1))
    error = abs(logs["kd"] - wanted) / wanted
    moved = _trained(distiller, student, case)
    note = "" if moved == 1.0 else f"{100 * moved:.0f} % of the variables change"
    return Cell(float(error), "difference", error <= 1e-4 and moved >= 0.9, note)


def student_hint(case: Case) -> Cell:
    """A hint where it finds the layers itself: what is logged is the equation."""
    distiller, student, teacher = _distiller(case, {"hint": 1.0})
    logs, batch = _logged(distiller, case)
    taps = [
        tap[0] if isinstance(tap, list) else tap
        for tap in (
            distiller.knowledge["student"][0].taps("student"),
            distiller.knowledge["student"][0].taps("teacher"),
        )
    ]
    features = [_feature(m, tap, batch) for m, tap in zip((student, teacher), taps, strict=True)]
    own, wanted = distiller.knowledge["student"][0].adapter(*features)
    own, wanted = (keras.ops.convert_to_numpy(x).astype("float64") for x in (own, wanted))
    value = np.mean((own - wanted) ** 2)
    error = abs(logs["hint"] - value) / value
    _trained(distiller, student, case)
    return Cell(float(error), "difference", error <= 1e-4, f"at {taps[0]}")


def student_relation(case: Case) -> Cell:
    """RKD at the embedding: what is logged is the equation."""
    distiller, student, teacher = _distiller(case, {"rkd_distance": 1.0})
    logs, batch = _logged(distiller, case)
    taps = (
        distiller.knowledge["student"][0].taps("student")[0],
        distiller.knowledge["student"][0].taps("teacher")[0],
    )
    own, wanted = (
        _relative_distances(keras.ops.convert_to_numpy(_feature(m, tap, batch)))
        for m, tap in zip((student, teacher), taps, strict=True)
    )
    gap = np.abs(own - wanted)
    value = np.mean(np.where(gap < 1, 0.5 * gap**2, gap - 0.5))
    error = abs(logs["rkd_distance"] - value) / value
    _trained(distiller, student, case)
    return Cell(float(error), "difference", error <= 1e-3, f"at {taps[0]}")


def _relative_distances(rows: np.ndarray) -> np.ndarray:
    rows = rows.reshape(len(rows), -1).astype("float64")
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    return distances / distances[distances > 0].mean()


def _feature(model: keras.Model, tap: str, batch: Any) -> Any:
    return read(model, dict(paths_of(model))[tap], batch)


def quantization_aware(case: Case) -> Cell:
    """`quantize_aware`: the file computes what the model computes."""
    figures = _verified(case, case.quantized, "tflite", quantization="int8")
    same = predicted(case.quantized, case.data.test).argmax(-1) == case.logits.argmax(-1)
    note = f"with the float model {100 * same.mean():.0f} %"
    return Cell(figures.agreement, "agreement", figures.agreement >= 0.97, note)


def _verified(case: Case, model: keras.Model, form: str, **arguments: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"student.{form}"
        to = {
            "tflite": mr.export.to_tflite,
            "onnx": mr.export.to_onnx,
            "saved": mr.export.to_saved_model,
        }[form]
        to(model, path, **arguments)
        test = case.data.test, case.data.test_classes
        return mr.export.verify(
            path, model, test, kind="classes", least_agreement=0.0, batch_size=20, repeats=2
        )


def _file(form: str, least: float, **arguments: Any) -> Callable[[Case], Cell]:
    def column(case: Case) -> Cell:
        figures = _verified(case, case.model, form, **arguments)
        error = figures.largest_difference / float(np.abs(case.logits).max())
        if least == 1.0:
            holds = figures.agreement >= 0.98 and error <= 1e-3
            return Cell(error, "difference", holds, f"agreement {100 * figures.agreement:.0f} %")
        return Cell(figures.agreement, "agreement", figures.agreement >= least)

    return column


def tflite_int8(case: Case) -> Cell:
    """int8; where it is refused, with the layers in float that the message names."""
    given = {"quantization": "int8", "representative": case.some(REPRESENTATIVE)}
    note = ""
    try:
        figures = _verified(case, case.model, "tflite", **given)
    except ValueError as error:
        if "allow_float=" not in str(error):
            raise
        figures = _verified(case, case.model, "tflite", **given, allow_float=True)
        note = "allow_float=True"
    return Cell(figures.agreement, "agreement", figures.agreement >= 0.9, note)


COLUMNS: dict[str, Callable[[Case], Cell]] = {
    "logits": teacher_logits,
    "fold": teacher_folded,
    "bfloat16": teacher_in_half,
    "KD": student_kd,
    "hint": student_hint,
    "relation": student_relation,
    "quantization-aware": quantization_aware,
    "TFLite float32": _file("tflite", 1.0),
    "TFLite float16": _file("tflite", 0.97, quantization="float16"),
    "TFLite dynamic": _file("tflite", 0.9, quantization="dynamic"),
    "TFLite int8": tflite_int8,
    "ONNX": _file("onnx", 1.0),
    "SavedModel": _file("saved", 1.0),
}
