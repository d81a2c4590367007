"""Columns of the matrix: what an architecture is asked for, and when it holds."""

import functools
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import modreduce_keras as mr
from benchmarks.matrix import yardsticks
from benchmarks.matrix.architectures import Architecture
from benchmarks.matrix.inputs import Data, calibrate, data_for, read, teacher_for
from modreduce_keras.models.stages import Places
from modreduce_keras.models.structure import paths_of

TRAIN, TEST, REPRESENTATIVE, BATCH = 160, 60, 48, 16
TEMPERATURE = 4.0


class Cell(NamedTuple):
    """What was found.

    Attributes:
        figure: A difference, or an agreement.
        unit: `"difference"`, as a part of the largest, or `"agreement"`, a share.
        holds: Whether that is good enough.
        note: What it took beside the defaults.
        beside: What a lower agreement is compared with, and that one's agreement; see `yardsticks`.
    """

    figure: float
    unit: str
    holds: bool
    note: str = ""
    beside: str = ""


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
        """The student of quantization-aware training, in the ranges that it has seen.

        Of the model that the message of a refusal names, as for files.
        """
        given = self.some(REPRESENTATIVE)
        try:
            return mr.models.quantize_aware(self.model, representative=given)
        except ValueError as error:
            if "give inputs known sizes" not in str(error):
                raise
            known = _of_known_sizes(self, self.model)
            return mr.models.quantize_aware(known, representative=given)

    @functools.cached_property
    def taught(self) -> dict[str, Cell] | None:
        """The cells of all knowledge by one distiller, which takes one trace, or `None`."""
        try:
            return _taught(self, list(_TERMS))
        except Exception:
            return None  # Each by itself tells which one it is.

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
    """Returns a model's outputs. Most models are asked once, which takes less than a trace."""
    outputs = []
    for start in range(0, len(keras.tree.flatten(inputs)[0]), BATCH):
        batch = keras.tree.map_structure(lambda array, a=start: array[a : a + BATCH], inputs)
        outputs.append(keras.ops.convert_to_numpy(model(batch, training=False)))
    return np.concatenate(outputs).astype("float64")


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
    same = _agreement(predicted(folded, case.data.test), case.logits)
    return Cell(same, "agreement", same >= 0.9)


def _taught(case: Case, names: Collection[str]) -> dict[str, Cell]:
    """Returns the cells of some knowledge, from one distiller that a step is made of as well.

    What is logged of a batch in inference is compared with the equation, in float64.
    """
    student = case.fresh()
    inputs = tuple(student.input) if isinstance(student.input, dict) else ()
    teacher = teacher_for(case.architecture, inputs)
    knowledge = [mr.Response(mr.losses.KD(temperature=TEMPERATURE))] if "KD" in names else []
    others = {_TERMS[name]: 1.0 for name in names if name != "KD"}
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[*knowledge, others])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.01), loss, evaluate_knowledge=True)
    batch, classes = case.some(BATCH), case.data.train_classes[:BATCH]
    logs = distiller.evaluate(batch, classes, batch_size=BATCH, verbose=0, return_dict=True)
    cells = {}
    for name, one in zip(names, distiller.knowledge["student"], strict=True):
        wanted = _EQUATIONS[name](one, student, teacher, batch)
        error = float(abs(logs[_TERMS[name]] - wanted) / wanted)
        note = "" if name == "KD" else f"at {one.taps('student')[0]}"
        cells[name] = Cell(error, "difference", error <= 1e-3, note)
    before = [np.array(variable) for variable in student.trainable_variables]
    logs = distiller.train_on_batch(batch, classes, return_dict=True)
    if not all(np.isfinite(float(value)) for value in logs.values()):
        raise FloatingPointError(f"The logs of a training step are not finite: {logs}")
    pairs = zip(before, student.trainable_variables, strict=True)
    moved = np.mean([not np.array_equal(one, np.array(variable)) for one, variable in pairs])
    if "KD" in cells and moved < 1:
        note = f"{100 * moved:.0f} % of the variables change"
        cells["KD"] = cells["KD"]._replace(holds=cells["KD"].holds and moved > 0.9, note=note)
    return cells


def _kd(_: Any, student: keras.Model, teacher: keras.Model, batch: Any) -> float:
    one, other = (_softmax(predicted(m, batch) / TEMPERATURE) for m in (teacher, student))
    return float(TEMPERATURE**2 * np.mean(np.sum(one * (np.log(one) - np.log(other)), -1)))


def _hint(knowledge: Any, student: keras.Model, teacher: keras.Model, batch: Any) -> float:
    own, wanted = knowledge.adapter(*_features(knowledge, student, teacher, batch))
    own, wanted = (keras.ops.convert_to_numpy(x).astype("float64") for x in (own, wanted))
    return float(np.mean((own - wanted) ** 2))


def _rkd(knowledge: Any, student: keras.Model, teacher: keras.Model, batch: Any) -> float:
    features = _features(knowledge, student, teacher, batch)
    own, wanted = (_relative_distances(keras.ops.convert_to_numpy(x)) for x in features)
    gap = np.abs(own - wanted)
    return float(np.mean(np.where(gap < 1, 0.5 * gap**2, gap - 0.5)))


_TERMS = {"KD": "kd", "hint": "hint", "relation": "rkd_distance"}
_EQUATIONS = {"KD": _kd, "hint": _hint, "relation": _rkd}


def _student(name: str) -> Callable[[Case], Cell]:
    return lambda case: (case.taught or _taught(case, [name]))[name]


def _relative_distances(rows: np.ndarray) -> np.ndarray:
    rows = rows.reshape(len(rows), -1).astype("float64")
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    return distances / distances[distances > 0].mean()


def _features(
    knowledge: Any, student: keras.Model, teacher: keras.Model, batch: Any
) -> tuple[Any, Any]:
    def feature(role: str, model: keras.Model) -> Any:
        (tap,) = knowledge.taps(role)
        path, _, call = tap.partition(":")
        layer = dict(paths_of(model)).get(path)
        if layer is not None:
            return read(model, layer, batch, call=int(call or -1))
        place = Places(model).find(tap)  # the result of no layer, which the next one is given
        return read(model, place.layer, batch, inputs=place.source is not None)

    return feature("student", student), feature("teacher", teacher)


def quantization_aware(case: Case) -> Cell:
    """`quantize_aware`: the file computes what the model computes.

    Or it is as near to it as TFLite's kernels are to one another.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = mr.export.to_tflite(case.quantized, Path(folder) / "a.tflite", quantization="int8")
        figures = _verify(case, path, case.quantized)
        # `verify` has traced it.
        logits = np.asarray(case.quantized.predict(case.data.test, batch_size=20, verbose=0))
        note = f"with the float model {100 * _agreement(logits, case.logits):.0f} %"
        cell = Cell(figures.agreement, "agreement", figures.agreement >= 0.97, note)
        if cell.holds:
            return cell
        off, between, among = yardsticks.of_other_kernels(path, case.data.test, logits)
    beside = f"TFLite's kernels with one another {100 * among:.0f} %"
    return cell._replace(holds=off <= between, beside=beside)


def _agreement(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.mean(one.argmax(-1) == other.argmax(-1)))


def _of_known_sizes(case: Case, model: keras.Model) -> keras.Model:
    """Returns a model whose inputs have the sizes of the data, as the message of a refusal says."""
    inputs = {
        name: keras.Input(case.data.test[name].shape[1:], dtype=one.dtype, name=name)
        for name, one in model.input.items()
    }
    return keras.Model(inputs, model(inputs), name=model.name)


def _verified(case: Case, model: keras.Model, form: str, **arguments: Any) -> Any:
    """Returns how a file compares; where that is refused, of the model that the message names."""
    try:
        return _compared(case, model, form, **arguments)
    except ValueError as error:
        if "give inputs known sizes" not in str(error):
            raise
        return _compared(case, _of_known_sizes(case, model), form, **arguments)


def _compared(case: Case, model: keras.Model, form: str, **arguments: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"student.{form}"
        to = {
            "tflite": mr.export.to_tflite,
            "onnx": mr.export.to_onnx,
            "saved": mr.export.to_saved_model,
        }[form]
        to(model, path, **arguments)
        return _verify(case, path, model)


def _verify(case: Case, path: Path, model: keras.Model) -> Any:
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
        cell = Cell(figures.agreement, "agreement", figures.agreement >= least)
        if cell.holds or arguments.get("quantization") != "float16":
            return cell
        rounded = predicted(yardsticks.rounded_to_half(case.model), case.data.test)
        alone = _agreement(rounded, case.logits)
        beside = f"weights rounded in Keras {100 * alone:.0f} %"
        return cell._replace(holds=figures.agreement >= alone, beside=beside)

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
    cell = Cell(figures.agreement, "agreement", figures.agreement >= 0.9, note)
    if cell.holds or note or case.architecture.kind != "image":
        return cell
    logits = yardsticks.of_the_converter(case.model, given["representative"], case.data.test)
    alone = _agreement(logits, case.logits)
    beside = f"TFLite's converter alone {100 * alone:.0f} %"
    return cell._replace(holds=figures.agreement >= alone, beside=beside)


COLUMNS: dict[str, Callable[[Case], Cell]] = {
    "logits": teacher_logits,
    "fold": teacher_folded,
    "bfloat16": teacher_in_half,
    "KD": _student("KD"),
    "hint": _student("hint"),
    "relation": _student("relation"),
    "quantization-aware": quantization_aware,
    "TFLite float32": _file("tflite", 1.0),
    "TFLite float16": _file("tflite", 0.97, quantization="float16"),
    "TFLite dynamic": _file("tflite", 0.9, quantization="dynamic"),
    "TFLite int8": tflite_int8,
    "ONNX": _file("onnx", 1.0),
    "SavedModel": _file("saved", 1.0),
}
