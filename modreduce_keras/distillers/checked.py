"""What `fit` and its siblings are given, checked on the host before a step is compiled or run."""

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modreduce_keras.arguments import is_number, require_integer
from modreduce_keras.batches import require_end
from modreduce_keras.data.index import INDEX, split_index
from modreduce_keras.distillers.class_weights import require_class_weight
from modreduce_keras.distillers.metrics_of_logits import metric_named
from modreduce_keras.distillers.replicated import ReplicatedModel
from modreduce_keras.distillers.sample_weights import require_alike
from modreduce_keras.distillers.supervision import LabelRule
from modreduce_keras.distribute import require_sample_index, telling_of_lost_workers
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


class CheckedModel(ReplicatedModel):
    """Base class of models whose training, evaluation and prediction say what is wrong with data.

    What arrays hold is looked at once, before the first step. Of datasets the form alone is seen;
    a label that is out of range there is found by the step, and told in the same words.
    """

    _makes_training = False

    def label_rules(self) -> list[LabelRule]:
        """Returns who takes class indices."""
        return []

    def check_labels(self, labels: Any) -> Any:
        """Returns labels, after a check where only they say what the outputs are."""
        return labels

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Configures training, as Keras does."""
        given = inspect.signature(super().compile).bind(*args, **kwargs).arguments
        if given.get("optimizer", "rmsprop") is None:
            raise ValueError(
                "optimizer must be an optimizer, its name, or a dict by group. "
                "Received: optimizer=None"
            )
        require_integer("steps_per_execution", given.get("steps_per_execution", 1))
        metrics = keras.tree.flatten([given.get("metrics"), given.get("weighted_metrics")])
        for metric in metrics:
            if isinstance(metric, str) and metric.lower() not in ("accuracy", "acc"):
                metric_named(metric)
        self._require_free_names([getattr(metric, "name", metric) for metric in metrics])
        super().compile(*args, **kwargs)

    def _require_free_names(self, metrics: list[Any]) -> None:
        """Raises if a knowledge is named as something else in the logs."""
        of_labels = getattr(self._supervision, "names", ())
        logs = getattr(getattr(self, "aggregator", None), "logs", ())
        taken = {*_LOGGED, *of_labels, *logs, *metrics}
        twice = sorted({one.name for one in self.taught()} & taken)
        if twice:
            raise ValueError(
                "A knowledge needs a name of its own in the logs, other than those of the compiled "
                f"loss {list(of_labels)}, of metrics, and {list(_LOGGED)}: give it another with "
                f"name=. Received: knowledge named {twice}"
            )

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains, as `keras.Model.fit` does, on data that have been looked at."""
        given = inspect.signature(super().fit).bind(*args, **kwargs).arguments
        require_integer("epochs", given.get("epochs", 1), least=0)
        share = given.get("validation_split") or 0.0
        if not (is_number(share) and 0 <= share < 1):
            raise ValueError(
                "validation_split must be a part of the arrays, from 0 to below 1. "
                f"Received: validation_split={share!r}"
            )
        _require_callbacks(given.get("callbacks"))
        self._require_data(given, steps="steps_per_epoch")
        validation = given.get("validation_data")
        if isinstance(validation, (tuple, list)) and 1 <= len(validation) <= 3:
            names = ("x", "y", "sample_weight")
            self._require_data(dict(zip(names, validation, strict=False)), "validation ")
        elif validation is not None:
            data = {"x": validation, "validation_steps": given.get("validation_steps")}
            self._require_data(data, "validation ", steps="validation_steps")
        lost = telling_of_lost_workers(self.distribute_strategy)
        with lost, _told(), _telling_callbacks(given.get("callbacks")):
            return super().fit(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates, as `keras.Model.evaluate` does, on data that have been looked at."""
        self._require_data(inspect.signature(super().evaluate).bind(*args, **kwargs).arguments)
        with _told():
            return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predicts, as `keras.Model.predict` does, for data that have been looked at."""
        self._require_data(inspect.signature(super().predict).bind(*args, **kwargs).arguments)
        return super().predict(*args, **kwargs)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Trains on one batch, as `keras.Model.train_on_batch` does."""
        given = inspect.signature(super().train_on_batch).bind(*args, **kwargs).arguments
        self._require_batch(given)
        with _told():
            return super().train_on_batch(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates one batch, as `keras.Model.test_on_batch` does."""
        given = inspect.signature(super().test_on_batch).bind(*args, **kwargs).arguments
        self._require_batch(given)
        with _told():
            return super().test_on_batch(*args, **kwargs)

    def make_train_function(self, force: bool = False) -> Any:
        """Makes the compiled training step, as Keras does."""
        self._makes_training = True  # of what evaluation and prediction read, no labels are checked
        try:
            return super().make_train_function(force=force)
        finally:
            self._makes_training = False

    def _autoconvert_optionals(self, step_func: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Checks batches before a step that XLA compiles, which leaves its checks out."""
        step = super()._autoconvert_optionals(step_func)
        if self.run_eagerly or not self.jit_compile:
            return step
        owners = [one for one in self._flatten_layers() if getattr(one, "needs_index", False)]
        check_labels = self.check_labels if self._makes_training else lambda labels: labels
        return lambda data: step(_checked(data, owners, check_labels))

    def _require_data(self, given: Mapping[str, Any], role: str = "", steps: str = "steps") -> None:
        """Raises if arrays or a dataset are not what a distiller can be run on."""
        x, y, weight = (given.get(name) for name in ("x", "y", "sample_weight"))
        if x is None:
            raise ValueError(f"{role}x must be arrays or a dataset of batches. Received: x=None")
        if isinstance(x, tf.data.Dataset):
            _require_batches(x, role)
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
        self._require_arrays(x if is_arrays else None, y, weight, role)
        require_class_weight(given.get("class_weight"), self._student_output(), given.get("y"))

    def _require_batch(self, given: Mapping[str, Any]) -> None:
        x, y, weight = (given.get(name) for name in ("x", "y", "sample_weight"))
        require_class_weight(given.get("class_weight"), self._student_output(), y)
        sizes = {name: _sizes(v) for name, v in (("x", x), ("y", y), ("sample_weight", weight))}
        if len(set().union(*sizes.values())) > 1:
            raise ValueError(
                "x, y and sample_weight must have one entry for each sample of the batch. "
                f"Received: { ({name: sorted(own) for name, own in sizes.items()}) } samples"
            )
        if not any(tf.is_tensor(leaf) for leaf in keras.tree.flatten([x, y, weight])):
            self._require_arrays(x, y, weight, "")

    def _require_arrays(self, x: Any, y: Any, weight: Any, role: str) -> None:
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
            self.check_labels(y)
        for rule in self.label_rules():
            labels = y.get(rule.output) if rule.output and isinstance(y, Mapping) else y
            if hasattr(labels, "shape"):
                _require_labels(np.asarray(labels), rule)


def _checked(data: Any, owners: list[Any], check_labels: Callable[[Any], Any]) -> Any:
    """Returns a batch after checks of its labels, and of its index by who remembers samples."""
    x, *rest = data if isinstance(data, (tuple, list)) else (data,)
    if rest:
        rest[0] = check_labels(rest[0])
    _, index = split_index(x)
    if isinstance(index, (tf.Tensor, np.ndarray)):  # else there is none, or parts for replicas
        for one in owners:
            index = require_sample_index(index, one.samples, type(one).__name__)
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
    """Raises if arrays hold something else than numbers, or are lists of numbers."""
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


def _require_batches(dataset: tf.data.Dataset, role: str) -> None:
    spec = dataset.element_spec
    shapes = [one.shape for one in tf.nest.flatten(spec) if isinstance(one, tf.TensorSpec)]
    if any(shape.rank == 0 for shape in shapes):
        raise ValueError(
            f"{role}x must be a dataset of batches: dataset.batch(64). Received: single samples, "
            f"{spec}"
        )
    if int(dataset.cardinality()) == 0:
        raise ValueError(f"{role}x must hold at least one batch. Received: an empty dataset")


def _require_callbacks(given: Any) -> None:
    if isinstance(given, keras.callbacks.CallbackList):
        return
    several = [] if given is None else keras.tree.flatten(given)
    wrong = [one for one in several if not isinstance(one, keras.callbacks.Callback)]
    if wrong:
        raise TypeError(f"callbacks must be a list of Keras callbacks. Received: {wrong}")


@contextlib.contextmanager
def _telling_callbacks(given: Any) -> Iterator[None]:
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
def _told() -> Iterator[None]:
    """Tells what a step found in the data as the checks on the host do."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        label, own = _NO_CLASS.search(error.message), _OWN_CHECK.search(error.message)
        if label:
            raise ValueError(
                "The compiled loss needs labels y that are class indices from 0 to "
                f"{int(label[2]) - 1}. Received: y with [{label[1]}]"
            ) from error
        if own:
            message = own[1].replace("\\'", "'")  # TensorFlow escapes it
            raise ValueError(f"{message} Received: {own[2]}") from error
        raise
