"""TeacherOutputs: a teacher given only by its outputs, stored or computed by a function."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modreduce_keras.arguments import require_bool, require_integer, require_number, require_sizes
from modreduce_keras.batches import INDEX, INPUTS, TEACHER_OUTPUTS, is_indexed
from modreduce_keras.calls import by_name, stacklevel_of_user
from modreduce_keras.data import output_rows
from modreduce_keras.data.index import as_index, indexed_inputs, with_outputs
from modreduce_keras.data.stored_rows import StoredRows
from modreduce_keras.distribute.host_functions import beside_one_thread
from modreduce_keras.models.function_model import FunctionModel
from modreduce_keras.output_kind import CLASSES, LABELS, LOGIT

_AT_ONCE = 1024
"""Samples of arrays that a function is given at a time."""
_SHAPE = "be the shape of the outputs of one sample, such as (10,)"
_FORMS = (
    "TeacherOutputs takes either logits= or probabilities=: an array (samples, ..., classes), the "
    "path of a .npy or .parquet file, a function of a batch, or a list of those for several "
    "teachers; or shape= alone, where the outputs come with the data"
)


@keras.saving.register_keras_serializable(package="modreduce_keras")
class TeacherOutputs:
    """A teacher given only by its outputs: predictions in a file, an API or another library.

    Pass it to a distiller as its teacher. `attach` adds stored outputs to the batches, and finds
    the row of a sample by its index:

        teacher = mr.data.TeacherOutputs(probabilities="probabilities.npy")
        distiller = mr.Distiller(student=student, teacher=teacher, knowledge="kd")
        distiller.compile(...)
        distiller.fit(teacher.attach(images), labels)                  # arrays in the same order
        train = mr.data.with_index(samples).shuffle(1000).batch(64)    # or a dataset
        distiller.fit(teacher.attach(train))

    A function is called on the inputs of each batch, inside the step:

        teacher = mr.data.TeacherOutputs(probabilities=forest.predict_proba, shape=(3,))
        distiller.fit(features, labels)

    `attach` calls it beforehand: on arrays once for all epochs, on a dataset in its pipeline.
    Without `attach`, it also runs in evaluation, if that evaluates knowledge (`compile(loss=None)`,
    `evaluate_knowledge=True`). To evaluate knowledge with stored outputs, attach those of the
    validation data with a second `TeacherOutputs`. `attach` uses the inputs as they are in the
    data, so `teacher_input=` and `student_inputs=` work only for functions that run inside the
    step.

    Probabilities p are turned into logits: z = log max(p, clip). Their softmax at any temperature
    equals that of the original logits, because softmax(z / T) does not depend on a constant added
    to z. Only clipping loses information. Probabilities that are exactly 0, as of a random forest,
    become `clip`: at T = 4 and the default clip, a class with probability 0 has 1.8 % of the weight
    of a certain one.

    Knowledge of features and relations needs layers, so it raises an error. A saved distiller
    contains the paths of files and the shape of the outputs, but neither arrays nor functions. It
    continues training with the outputs that are attached to the data.

    Args:
        logits: The teacher's logits: an array (samples, ..., classes); the path of a `.npy` file,
            which is memory-mapped, or of a `.parquet` file with a column for each class; a function
            of the inputs of a batch, which are NumPy arrays, that returns (batch, ..., classes). A
            list of those for several teachers, which `mr.Response` averages (`list(array)` for an
            array with an axis of teachers before the samples). For regression, plain numbers, with
            `mr.Response("logit_mse")`.
        probabilities: The same as probabilities, instead of `logits`: those of classes sum to one.
        index: The index of the sample of each row, (samples,), different whole numbers; or the name
            of a column of a Parquet file. Defaults to `None`: row i belongs to sample i. Sample i
            of arrays is `x[i]`.
        shape: Shape of the outputs of one sample, `(classes,)`. Needed for functions and for
            outputs that are only in the data.
        teachers: Number of teachers. Defaults to `None`: that of the given outputs, or 1.
        independent: Whether the probabilities are of independent labels, or of one binary label,
            instead of exclusive classes: z = log max(p, clip) - log max(1 - p, clip), for
            `"binary_kd"`. A single column is always binary. A distiller raises an error for losses
            of the other kind. Defaults to `False`.
        clip: Smallest probability, above 0 and below 0.1. Defaults to 1e-7.

    Raises:
        FileNotFoundError: If there is no file at a path.
        ImportError: If a Parquet file is given and the package pyarrow is missing.
        ValueError: If an argument is none of these; if outputs in memory, or the first rows of a
            file, are not finite, are not probabilities, or are probabilities given as `logits`; if
            several teachers differ in shape; or if an index does not fit. In later rows of a file,
            and in what a function returns, these are an error of the pipeline or of the step,
            `tf.errors.InvalidArgumentError`, with the same message.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> x, labels = np.ones((8, 4), "float32"), np.arange(8) % 3
        >>> teacher = mr.data.TeacherOutputs(probabilities=np.full((8, 3), 1 / 3))
        >>> student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> distiller = mr.Distiller(student=student, teacher=teacher, knowledge="kd")
        >>> distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> sorted(distiller.fit(teacher.attach(x), labels, verbose=0).history)
        ['ce', 'kd', 'loss']
    """

    name = "outputs"

    @by_name(
        "mr.data.TeacherOutputs(logits=...), or probabilities=...",
        why="as an array does not say which of the two it holds",
    )
    def __init__(
        self,
        *,
        logits: Any = None,
        probabilities: Any = None,
        index: Any = None,
        shape: Sequence[int] | None = None,
        teachers: int | None = None,
        independent: bool = False,
        clip: float = 1e-7,
    ) -> None:
        given = {"logits": logits, "probabilities": probabilities}
        given = {name: source for name, source in given.items() if source is not None}
        if len(given) > 1 or not (given or shape is not None):
            raise ValueError(f"{_FORMS}. Received: {list(given) or 'none of them'}")
        self.argument, source = next(iter(given.items()), ("logits", None))
        if require_number("clip", clip, above=0.0) >= 0.1:
            raise ValueError(f"clip must be above 0 and below 0.1. Received: {clip=}")
        self.clip = clip
        self.independent = require_bool("independent", independent)
        require_integer("teachers", teachers, optional=True)
        self.sources = output_rows.of_each_teacher(source, self.argument)
        if source is None:
            self.sources *= teachers or 1
        if teachers is not None and teachers != len(self.sources):
            raise ValueError(
                f"teachers must be the number of outputs that are given, {len(self.sources)}. "
                f"Received: {teachers=}"
            )
        self.index = index
        self._open(None if shape is None else require_sizes("shape", shape, _SHAPE))
        self.models = [
            FunctionModel(partial(self._computed, number), self.shape, name=name, gives_logits=True)
            for number, name in enumerate(self._names())
        ]
        for model in self.models:
            model.supports_jit = not self.runs

    def _open(self, shape: tuple[int, ...] | None) -> None:
        """Opens what is stored, and sets the shape of a sample's outputs."""
        self._stored: StoredRows | None = None
        stored = [one for one in self.sources if one is not None and not callable(one)]
        if len(stored) not in (0, len(self.sources)):
            raise ValueError(f"{_FORMS}. Received: a list of functions and of stored outputs")
        if not stored:
            if shape is None:
                raise ValueError(
                    "A function does not say what it returns: give the shape of the outputs of one "
                    "sample, such as shape=(10,) for 10 classes. Received: shape=None"
                )
            if self.index is not None:
                raise ValueError(
                    f"index is of stored outputs. Received: index={self.index!r} without any"
                )
            self.shape = shape
            self._settle_independent()
            return
        self._stored = StoredRows(stored, self.index, self.argument)
        self.shape = self._stored.shape
        if shape not in (None, self.shape):
            raise ValueError(
                f"shape must be that of a sample's outputs, {self.shape}. Received: {shape=}"
            )
        self._settle_independent()
        self._stored.require(self.independent)

    def _settle_independent(self) -> None:
        of_probabilities = self.argument == "probabilities"
        if self.independent and not of_probabilities and self.sources[0] is not None:
            raise ValueError(
                "independent is of probabilities; logits are logits. Received: independent=True "
                "with logits="
            )
        self.independent |= of_probabilities and self.shape[-1] == 1

    def _names(self) -> list[str]:
        several = len(self.sources) > 1
        return [f"teacher_{i}" for i in range(len(self.sources))] if several else [self.name]

    @property
    def runs(self) -> bool:
        """Whether the outputs are computed by a function."""
        return callable(self.sources[0])

    @property
    def kind(self) -> str | None:
        """The kind of probabilities, see `modreduce_keras.output_kind`; of logits `None`."""
        if self.independent:
            return LOGIT if self.shape[-1] == 1 else LABELS
        return CLASSES if self.argument == "probabilities" else None

    @property
    def holds_rows(self) -> bool:
        """Whether stored outputs are here."""
        return self._stored is not None

    @property
    def teacher(self) -> Any:
        """What stands for the teacher: a model, or a list of several."""
        return self.models if len(self.models) > 1 else self.models[0]

    @property
    def taps(self) -> list[str]:
        """Names of several teachers, by which `mr.Response(teacher=)` reads one."""
        return [model.name for model in self.models] if len(self.models) > 1 else []

    def fingerprint(self) -> str:
        """Returns the key of the outputs in a batch: other outputs of the same kind have it too."""
        # A column of numbers are logits, whatever they came from.
        independent = self.independent and self.shape[-1] > 1
        return f"outputs_{len(self.sources)}x{self.shape[-1]}" + "_independent" * independent

    def rows(self, samples: Any) -> list[np.ndarray]:
        """Returns the stored logits of samples, (samples, ..., classes), of each teacher.

        Args:
            samples: The index of each sample, (samples,).

        Raises:
            ValueError: If there is no row of a sample, or a row is not what it is called.
        """
        if self._stored is None:
            raise ValueError(self._without_rows())
        return [self._logits(own) for own in self._stored.of(as_index(np.asarray(samples)))]

    def attach(self, data: Any) -> Any:
        """Returns data whose inputs carry the teacher's outputs, to train or validate on.

        Args:
            data: Arrays of inputs (an array, or several in a list or dict), which hold the samples
                0, 1, 2, ..., one for each row; or a `tf.data.Dataset` of batches with an index
                (`mr.data.with_index(samples).batch(64)`), shuffled or augmented as you like.

        Returns:
            For arrays a dict of arrays, in place of `x`. For a dataset a dataset.

        Raises:
            ValueError: If there are not as many rows as samples, the dataset has no index, labels
                came along, data have outputs already, or there is nothing to attach. A sample of
                a dataset without a row is an error of the pipeline,
                `tf.errors.InvalidArgumentError`.
        """
        if not (self.runs or self.holds_rows):
            raise ValueError(self._without_rows())
        if isinstance(data, tf.data.Dataset):
            return self._attached_to_dataset(data)
        leaves = keras.tree.flatten(data)
        if isinstance(data, tuple) or is_indexed(data):
            raise ValueError(
                "attach takes the inputs x alone, several in a list or dict, and is applied once: "
                "fit(outputs.attach(x), y, sample_weight=w). Received: "
                + ("a tuple" if isinstance(data, tuple) else f"data with an index, {list(data)}")
            )
        if not leaves or not all(getattr(leaf, "shape", ()) for leaf in leaves):
            raise ValueError(
                "attach takes the inputs x as arrays, without labels, or a tf.data.Dataset of "
                f"batches with an index. Received: {type(data).__name__}"
            )
        sizes = {len(leaf) for leaf in leaves}
        stored = self._stored
        if len(sizes) > 1 or (stored is not None and sizes != {len(stored)}):
            raise ValueError(
                "attach needs one sample for each row of outputs"
                + ("" if stored is None else f" ({len(stored)} rows)")
                + "; a tf.data.Dataset with an index may have others. Received: arrays of "
                f"{sorted(sizes)} samples"
            )
        return self._attached_to_arrays(data, sizes.pop())

    def _attached_to_arrays(self, data: Any, size: int) -> dict[str, Any]:
        index = None if self._stored is None else self._stored.index
        if index is not None and index.max() >= size:
            raise ValueError(
                f"Arrays hold the samples 0 to {size - 1}, and index= has others: attach a "
                "tf.data.Dataset with the same index, or leave out index= where rows and arrays "
                f"are in one order. Received: an index up to {index.max()}"
            )
        samples = np.arange(size)
        if self.holds_rows:
            logits = self.rows(samples)
        else:
            parts = [self._all_computed(data, begin) for begin in range(0, size, _AT_ONCE)]
            logits = [np.concatenate(own) for own in zip(*parts, strict=True)]
        return {INPUTS: data, INDEX: samples, TEACHER_OUTPUTS: self._packed(logits)}

    def _all_computed(self, data: Any, begin: int) -> list[np.ndarray]:
        cut = slice(begin, begin + _AT_ONCE)
        inputs = keras.tree.map_structure(lambda leaf: np.asarray(leaf[cut]), data)
        return [model.outputs_of(inputs) for model in self.models]

    def _attached_to_dataset(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        specs = indexed_inputs(dataset, "attach", owner="outputs")
        several = [tf.float32] * len(self.models)

        @beside_one_thread()
        def computed(*leaves: np.ndarray) -> list[np.ndarray]:
            inputs = tf.nest.pack_sequence_as(specs, leaves)
            return [model.outputs_of(inputs) for model in self.models]

        def read(inputs: Any, samples: Any) -> dict[str, Any]:
            of_function = computed, tf.nest.flatten(inputs)
            given = of_function if self.runs else (self.rows, [samples])
            logits = tf.numpy_function(*given, several)
            shape = (*samples.shape[:1], *self.shape)
            return self._packed([tf.ensure_shape(one, shape) for one in logits])

        return with_outputs(dataset, read, in_parallel=not self.runs)

    def _packed(self, logits: Sequence[Any]) -> dict[str, Any]:
        whole = logits[0] if len(logits) == 1 else tuple(logits)
        return {self.fingerprint(): {"logits": whole, "features": {}}}

    def _computed(self, number: int, inputs: Any) -> np.ndarray:
        """Returns the logits that a function computes for a batch."""
        function: Callable[[Any], Any] | None = self.sources[number] if self.runs else None
        if function is None:
            raise ValueError(not_attached())
        return self._logits(np.asarray(function(inputs)))

    def _logits(self, rows: np.ndarray) -> np.ndarray:
        if rows.ndim == 1 and self.shape == (1,):
            rows = rows[:, np.newaxis]
        rows = np.asarray(rows, "float32")
        output_rows.require(rows, self.argument, self.independent)
        if self.argument == "logits":
            return rows
        return output_rows.as_logits(rows, self.independent, self.clip)

    def _without_rows(self) -> str:
        what = "are computed by a function: attach(data) calls it" if self.runs else "are not here"
        return (
            f"These outputs {what}. A file holds neither arrays nor functions, and only the paths "
            "of files: make TeacherOutputs(logits=...) or (probabilities=...) anew and attach its "
            f"outputs to the data. Received: outputs of shape {self.shape} without rows"
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments; of arrays and functions the shape alone."""
        by_path = all(map(output_rows.is_path, self.sources)) and isinstance(self.index, str | None)
        source = [str(one) for one in self.sources] if by_path else None
        return {
            "logits": source if self.argument == "logits" else None,
            "probabilities": source if self.argument == "probabilities" else None,
            "index": self.index if by_path else None,
            "shape": list(self.shape),
            "teachers": len(self.sources),
            "independent": bool(self.independent),
            "clip": self.clip,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TeacherOutputs":
        """Returns the outputs that `get_config` describes.

        Files that are gone are left out, and with a warning those that cannot be read or have other
        content than they had.
        """
        paths = config["logits"] or config["probabilities"] or []
        if all(Path(path).is_file() for path in paths):
            try:
                return cls(**config)
            except (ValueError, OSError, EOFError, ImportError) as error:
                if not paths:
                    raise
                text = f"Files of a teacher's outputs are not used: {error}"
                warnings.warn(text, stacklevel=stacklevel_of_user())
        return cls(**{**config, "logits": None, "probabilities": None, "index": None})


def not_attached() -> str:
    """Returns the message of a batch that has no outputs of a teacher that cannot run."""
    return (
        "The batch has no outputs of the teacher, and stored ones are found by attach: fit on "
        "outputs.attach(x), labels, or on outputs.attach(dataset). Data on which knowledge is "
        "validated need the teacher's outputs as well: "
        "mr.data.TeacherOutputs(logits=...).attach(x_val)"
    )
