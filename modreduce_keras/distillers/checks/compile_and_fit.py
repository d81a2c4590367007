"""What `fit` and its siblings are given, checked on the host before a step is compiled or run."""

import contextlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from modreduce_keras.arguments import is_number, require_bool, require_choice, require_integer
from modreduce_keras.batches import INDEX, require_end, split_index
from modreduce_keras.calls import listed, stacklevel_of_user
from modreduce_keras.copying import lora_weights
from modreduce_keras.data.index import require_batches
from modreduce_keras.distillers.backend import tensorflow as backend
from modreduce_keras.distillers.checks.class_weights import require_class_weight
from modreduce_keras.distillers.checks.probabilities import require_probabilities
from modreduce_keras.distillers.gradients.guard import SKIP, STOP
from modreduce_keras.distillers.metrics.metrics_of_logits import metric_named
from modreduce_keras.distillers.step.sample_weights import require_alike
from modreduce_keras.distillers.step.supervision import LabelRule
from modreduce_keras.distribute import require_in_scope, require_sample_index
from modreduce_keras.keras_internals import flatten_layers
from modreduce_keras.knowledge import Knowledge
from modreduce_keras.labels import require_in_range

# Names of terms and values that distillers log by themselves.
_LOGGED = ("loss", "online", "consistency")
_NO_CLASS = re.compile(
    r"Received a label value of (-?\d+) which is outside the valid range of \[0, (\d+)\)"
)
_OWN_CHECK = re.compile(
    r"assertion failed: \[([^]]* must (?:lie|have labels) [^]]+)\]"
    r"(?: \[Received:\] (\[[^]]*\]))?"
)


def require_compile(given: Mapping[str, Any]) -> None:
    """Raises if arguments of `compile` are not what a distiller can be compiled with."""
    if given["loss_weights"] is not None:
        by_output = (
            "; that of one output is part of its loss, such as def half(y, z): return 0.5 * "
            "keras.losses.mean_squared_error(y, z) in loss={'NAME': half, ...}"
        ) * isinstance(given["loss_weights"], Mapping)
        raise ValueError(
            "Terms are weighted where they are made: supervised_weight=, and weight= of each "
            f"knowledge{by_output}. Received: loss_weights"
        )
    if given["optimizer"] is None:
        raise ValueError(
            "optimizer must be an optimizer, its name, or a dict by group. Received: optimizer=None"
        )
    require_integer("steps_per_execution", given["steps_per_execution"])
    if given["on_nonfinite"] is not None:
        require_choice("on_nonfinite", given["on_nonfinite"], (STOP, SKIP))
    require_bool("fused_normalization", given["fused_normalization"])


def require_trainable(students: Mapping[str, keras.Model]) -> None:
    """Raises if a student is frozen as a whole."""
    for name, student in students.items():
        if student.weights and not student.trainable_weights:
            given = f"distiller.students[{name!r}]"
            loop = f"for layer in {given}.layers: layer.trainable = True"
            # That of the model does nothing where it is set.
            remedy = loop if student.trainable else f"{given}.trainable = True"
            raise ValueError(
                f"The student {name!r} has no trainable weights. Unfreeze it before compile: "
                f"{remedy}. Received: the model {student.name!r}, all of whose "
                f"{len(student.weights)} weights are frozen"
            )
        _warn_of_quantized(name, student)


def _warn_of_quantized(name: str, student: keras.Model) -> None:
    """Warns of kernels in integers, which no optimizer changes."""
    found = [
        layer.name
        for layer in flatten_layers(student)
        if getattr(layer.dtype_policy, "quantization_mode", None)
        and not getattr(layer, "lora_enabled", False)
        and not any(inner is not layer for inner in flatten_layers(layer))
    ]
    if found:
        warnings.warn(
            f"The student {name!r} is quantized by Keras, so the kernels of {listed(found, 8)} do "
            "not train. Distil the model from before quantize(...), and quantize it afterwards; "
            "mr.quantize_aware(model) is a copy that trains while it is rounded.",
            stacklevel=stacklevel_of_user(),
        )


def trainable_paths(students: Mapping[str, keras.Model]) -> frozenset[str]:
    """Returns the paths of the students' trainable weights, each after the student's name."""
    return frozenset(
        f"{name}: {variable.path}"
        for name, student in students.items()
        for variable in student.trainable_variables
    )


def _require_compiled_for(distiller: Any) -> None:
    """Raises if layers were frozen or unfrozen since `compile`, which builds the optimizers."""
    before, now = distiller.compilation.trainable, trainable_paths(distiller.students)
    if distiller.compiled and before != now:
        raise ValueError(
            "Layers are frozen and unfrozen before compile: call distiller.compile(...) again. "
            f"Received, since then: frozen {sorted(before - now)[:3]}, unfrozen "
            f"{sorted(now - before)[:3]}"
        )


def require_apart(students: Mapping[str, keras.Model], teachers: Iterable[keras.Model]) -> None:
    """Raises if a student trains layers that are also a teacher's, which must not change."""
    for teacher in teachers:
        constant = {id(variable) for variable in teacher.variables}
        for student in students.values():
            shared = [
                layer.name
                for layer in flatten_layers(student)
                if not isinstance(layer, keras.Model)
                and layer.trainable
                and constant & {id(variable) for variable in _changed(layer)}
            ]
            if shared:
                raise ValueError(
                    f"The student {student.name!r} shares layers with the teacher "
                    f"{teacher.name!r}, which training would change. Give it layers of its own, "
                    f"student = mr.models.copy_model(student), or freeze what is to stay as it is: "
                    f"trainable = False of the layer, before compile. Received: the shared layers "
                    f"{shared[:8]}"
                )


def _changed(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns the variables that a training step of a layer changes."""
    statistics = isinstance(layer, keras.layers.BatchNormalization)
    return layer.variables if statistics else layer.trainable_variables


def require_parts_in_scope(distiller: Any, *more: tuple[str, list[keras.Variable]]) -> None:
    """Raises if something that a step trains was made outside of the distiller's strategy.

    Args:
        distiller: The distiller.
        *more: Further variables, and whose they are.
    """
    students = [(f"Student {n!r}", one.variables) for n, one in distiller.students.items()]
    own = ("The distiller", distiller.variables)
    require_in_scope(distiller.distribute_strategy, [*students, own, *more])


def require_jit(jit_compile: Any, teachers: Iterable[keras.Model]) -> None:
    """Raises if XLA is to compile teachers that it cannot; Keras would go on without it."""
    for teacher in teachers if jit_compile is True else ():
        for one in flatten_layers(teacher):
            # Keras says so of recurrent layers where there is a GPU; it warns.
            if not (one.supports_jit or isinstance(one, keras.layers.RNN)):
                inside = "" if one is teacher else f" with its layer {one.name!r}"
                raise ValueError(
                    f"XLA cannot compile the teacher {teacher.name!r}{inside}, because it "
                    "runs on the host, like a Python function. Leave out jit_compile=True, or "
                    "store the outputs: mr.data.TeacherOutputs(logits=ARRAY). Received: "
                    "jit_compile=True"
                )


def require_metrics(metrics: Any, knowledge: list[Knowledge], logged: list[str]) -> None:
    """Raises if metrics have unknown names, or a knowledge is named as something else in the logs.

    Args:
        metrics: As `compile` hands them to Keras, those with weights among them.
        knowledge: All knowledge.
        logged: Further names in the logs.
    """
    metrics = keras.tree.flatten(metrics)
    for metric in metrics:
        if isinstance(metric, str) and metric.lower() not in ("accuracy", "acc"):
            metric_named(metric)
    names = [getattr(metric, "name", metric) for metric in metrics]
    taken = {*_LOGGED, *logged, *names}
    twice = sorted({one.name for one in knowledge} & taken)
    if twice:
        raise ValueError(
            "A knowledge needs its own name in the logs, other than those of the compiled "
            f"loss {logged}, of metrics, and {list(_LOGGED)}: give it another with "
            f"name=. Received: knowledge named {twice}"
        )


def require_fit(distiller: Any, given: Mapping[str, Any]) -> None:
    """Raises if arguments of `fit` are not what a distiller can be trained on."""
    require_integer("epochs", given.get("epochs", 1), least=0)
    share = given.get("validation_split") or 0.0
    if not (is_number(share) and 0 <= share < 1):
        raise ValueError(
            "validation_split must be a part of the arrays, from 0 to below 1. "
            f"Received: validation_split={share!r}"
        )
    _require_callbacks(given.get("callbacks"))
    _require_compiled_for(distiller)
    _warn_of_idle_lora(distiller.students.values())
    require_data(distiller, given, steps="steps_per_epoch")
    validation = given.get("validation_data")
    if isinstance(validation, (tuple, list)) and 1 <= len(validation) <= 3:
        names = ("x", "y", "sample_weight")
        require_data(distiller, dict(zip(names, validation, strict=False)), "validation ")
    elif validation is not None:
        data = {"x": validation, "validation_steps": given.get("validation_steps")}
        require_data(distiller, data, "validation ", steps="validation_steps")


def require_data(
    distiller: Any, given: Mapping[str, Any], role: str = "", steps: str = "steps"
) -> None:
    """Raises if arrays or a dataset are not what a distiller can be run on."""
    x, y, weight = (given.get(name) for name in ("x", "y", "sample_weight"))
    if x is None:
        raise ValueError(f"{role}x must be arrays or a dataset of batches. Received: x=None")
    require_batches(x, f"{role}x")
    if given.get(steps) is None:
        require_end(f"{role}x", x, f", and {steps}=n reads as many")
    is_arrays = all(hasattr(leaf, "shape") for leaf in keras.tree.flatten(x))
    if given.get("batch_size") is not None:
        require_integer("batch_size", given["batch_size"])
        if not is_arrays:
            raise ValueError(
                f"batch_size is for arrays; batch a dataset by .batch({given['batch_size']}). "
                f"Received: batch_size={given['batch_size']} with x of type {type(x).__name__}"
            )
    _require_arrays(distiller, x if is_arrays else None, y, weight, role)
    require_class_weight(given.get("class_weight"), distiller.student_output(), given.get("y"))


def require_batch(distiller: Any, given: Mapping[str, Any]) -> None:
    """Raises if arguments of `train_on_batch` or `test_on_batch` are not a batch."""
    x, y, weight = (given.get(name) for name in ("x", "y", "sample_weight"))
    require_class_weight(given.get("class_weight"), distiller.student_output(), y)
    sizes = {name: _sizes(v) for name, v in (("x", x), ("y", y), ("sample_weight", weight))}
    if len(set().union(*sizes.values())) > 1:
        raise ValueError(
            "x, y and sample_weight must have one entry for each sample of the batch. "
            f"Received: { ({name: sorted(own) for name, own in sizes.items()}) } samples"
        )
    if not any(keras.ops.is_tensor(leaf) for leaf in keras.tree.flatten([x, y, weight])):
        _require_arrays(distiller, x, y, weight, "")


def _require_arrays(distiller: Any, x: Any, y: Any, weight: Any, role: str) -> None:
    for name, values in (("x", x), ("y", y), ("sample_weight", weight)):
        _require_numbers(f"{role}{name}", values)
    if x is not None and 0 in _sizes(x):
        raise ValueError(f"{role}x must hold at least one sample. Received: arrays of length 0")
    for leaf in [] if weight is None else keras.tree.flatten(weight):
        values = np.asarray(leaf)
        if values.ndim == 0 or not np.isfinite(values).all():
            raise ValueError(
                f"{role}sample_weight must be an array of finite numbers, one for each "
                f"sample. Received: {leaf if values.ndim == 0 else 'NaN or infinity in it'}"
            )
    require_alike(y, weight)
    if all(isinstance(leaf, np.ndarray) for leaf in keras.tree.flatten(y)):
        distiller.check_labels(y)
    if weight is None:
        loss, output = distiller.compilation.arguments.get("loss"), distiller.student_output()
        require_probabilities(loss, y, output, f"{role}y")
    for rule in distiller.label_rules():
        labels = y.get(rule.output) if rule.output and isinstance(y, Mapping) else y
        if hasattr(labels, "shape"):
            _require_labels(np.asarray(labels), rule)


def checked_batch(data: Any, owners: list[Any], check_labels: Callable[[Any], Any]) -> Any:
    """Returns a batch after checks of its labels, and of its index by who remembers samples.

    For steps that XLA compiles, which leaves checks out.
    """
    x, *rest = data if isinstance(data, (tuple, list)) else (data,)
    if rest:
        rest[0] = check_labels(rest[0])
    _, index = split_index(x)
    parts = [] if index is None else keras.tree.flatten(index)  # one, or one for each student
    if parts and all(isinstance(one, np.ndarray) or keras.ops.is_tensor(one) for one in parts):
        for one in owners:
            index = keras.tree.map_structure(
                lambda own, one=one: require_sample_index(own, one.samples, type(one).__name__),
                index,
            )
        x = {**x, INDEX: index}
    return (x, *rest)


def _sizes(values: Any) -> set[int]:
    leaves = [] if values is None else keras.tree.flatten(values)
    return {leaf.shape[0] for leaf in leaves if getattr(leaf, "shape", ())}


def _require_labels(labels: np.ndarray, rule: LabelRule) -> None:
    if labels.dtype.kind not in "iufb":
        return
    in_rows = labels.ndim > 1 and labels.shape[-1] == rule.classes > 1
    if not in_rows:
        require_in_range(labels, rule.classes, rule.owner, rule.ignored)
    elif rule.rows is not None:
        rule.rows(labels, rule.owner)


def _require_numbers(name: str, values: Any) -> None:
    """Raises if arrays hold something other than numbers, or are lists of numbers."""
    if values is None:
        return
    leaves = keras.tree.flatten(values)
    if isinstance(values, (list, tuple)) and leaves and all(is_number(leaf) for leaf in leaves):
        raise ValueError(
            f"{name} must be an array: np.asarray({name}). Received: a {type(values).__name__} of "
            f"{len(leaves)} numbers"
        )
    for leaf in leaves:
        dtype = getattr(leaf, "dtype", None)
        if isinstance(dtype, np.dtype) and dtype.kind not in "iufbcV":
            is_text = leaf.size and isinstance(leaf.flat[0], (str, bytes))
            strings = f", or tensors of strings: tf.constant({name})" if is_text else ""
            raise ValueError(
                f"{name} must be arrays of numbers, all samples of one shape{strings}. Received: "
                f"an array of dtype {dtype}"
            )


def _warn_of_idle_lora(students: Iterable[keras.Model]) -> None:
    """Warns of low-rank weights that cannot train, because all of them are zero."""
    for student in students:
        for layer in flatten_layers(student):
            found = [v for v in lora_weights(layer) if v.name.startswith("lora_")]
            if found and not any(np.any(keras.ops.convert_to_numpy(v)) for v in found):
                first = f"layer.{found[0].name}"
                warnings.warn(
                    f"The LoRA weights of layer {layer.name!r} of {student.name!r} are all zero, "
                    "as Keras leaves them in a model from a file, where it adds them to the "
                    f"kernel: they get no gradient. To train them, draw one anew: {first}.assign("
                    f"keras.initializers.HeUniform()({first}.shape)).",
                    stacklevel=stacklevel_of_user(),
                )


def _require_callbacks(given: Any) -> None:
    if isinstance(given, keras.callbacks.CallbackList):
        return
    several = [] if given is None else keras.tree.flatten(given)
    wrong = [one for one in several if not isinstance(one, keras.callbacks.Callback)]
    if wrong:
        raise TypeError(f"callbacks must be a list of Keras callbacks. Received: {wrong}")
    for one in several:
        if isinstance(one, keras.callbacks.ModelCheckpoint):
            whole = "adapters and optimizer" if one.save_weights_only else "teacher and adapters"
            warnings.warn(
                f"ModelCheckpoint writes the whole distiller, with its {whole}, which is more than "
                "is deployed: mr.callbacks.StudentCheckpoint('best.keras', save_best_only=True) "
                "writes the student alone, and mr.callbacks.Resume('run') what training goes on "
                "from.",
                stacklevel=stacklevel_of_user(),
            )


@contextlib.contextmanager
def telling_callbacks(given: Any) -> Iterator[None]:
    """Tells the callbacks that want to know where `fit` is broken off, which Keras does not."""
    try:
        yield
    except BaseException:
        several = getattr(given, "callbacks", given)
        for callback in keras.tree.flatten([] if several is None else several):
            tell = getattr(callback, "on_train_error", None)
            if tell is not None:
                tell()
        raise


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Raises what a step found in the data as the same errors as the checks on the host."""
    try:
        yield
    except backend.step_errors() as error:
        message = getattr(error, "message", str(error))
        label, own = _NO_CLASS.search(message), _OWN_CHECK.search(message)
        if label:
            raise ValueError(
                "The compiled loss needs labels y that are class indices from 0 to "
                f"{int(label[2]) - 1}. Received: y with [{label[1]}]"
            ) from error
        if own:
            found = own[1].replace("\\'", "'")  # TensorFlow escapes it
            raise ValueError(f"{found} Received: {own[2]}") from error
        raise
