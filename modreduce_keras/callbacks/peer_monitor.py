"""PeerMonitor: measures how students differ from one another and from their teacher."""

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modreduce_keras.arguments import require_bool, require_integer
from modreduce_keras.batches import Batches, unpack
from modreduce_keras.callbacks import plots as pictures
from modreduce_keras.callbacks.comparison import compare, teacher_classes
from modreduce_keras.distillers import BaseDistiller


class PeerMonitor(keras.callbacks.Callback):
    """Measures during training how students differ and how often they agree with their teacher.

    At the end of an epoch it runs all students of a distiller on given data, in inference, and
    adds to the logs:

    - `diversity`: the mean distance of two students' probabilities (`mr.metrics.PeerDiversity`).
    - `agreement`: the share of pairs of students with the same top class.
    - `STUDENT/teacher_agreement`: the share of samples where a student, or the ensemble if there
      is one, has the teacher's top class; `teacher_agreement` where there is one student. Several
      teachers are averaged by their probabilities.

    Where the compiled loss is for one logit or independent labels, each label is treated as two
    classes with the logits 0 and z, and the values are means over the labels.

    The values are in the history, and later callbacks in the list (`CSVLogger`, `EarlyStopping`,
    `ProgressBar`) see them too. Values that do not exist are left out: the first two with one
    student, the last without a teacher or if its classes differ from the student's. The callback
    does not change the training.

    Args:
        data: Data to measure on, as `validation_data` of `fit`: `x`, `(x, y)` or
            `(x, y, sample_weight)` as arrays, or a finite `tf.data.Dataset`,
            `keras.utils.PyDataset` or list of such batches. Sample weights weight the samples.
            Labels are only used by aggregators that need them.
        every: Measure after the first epoch, then every `every` epochs, and after the last.
            Defaults to 1: after each epoch.
        batch_size: Batch size for arrays. Defaults to 256.
        fixed_order: Whether the data come in the same order each time, so that the teacher needs
            to run only once. Defaults to `True` for arrays and to `False` for datasets, which may
            shuffle.
        log_dir: Folder for TensorBoard logs of the measured values and those of the aggregator
            (`PEER/ensemble_weight`). Defaults to `None`: no logs.
        plots: Folder for plots at the end of training: learning curves of all students and the
            ensemble, diversity, agreement, and the values of the aggregator. Needs matplotlib.
            Defaults to `None`: no plots.
        plot_every: Plot also every `plot_every` epochs. Defaults to `None`: at the end only.

    Raises:
        TypeError: If the data have another type, or are an iterator, which can be read only once;
            when training begins, if the model is not a distiller.
        ValueError: If the data are infinite, a number is not a positive integer, a folder is not a
            valid path or is a file, or `plot_every` is given without `plots`; when training begins,
            if there are no samples, labels that the aggregator needs are missing, or there is
            nothing to measure.
        ImportError: If pictures are asked for and matplotlib is missing.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> images, labels = np.ones((8, 28, 28, 1), "float32"), np.arange(8) % 3
        >>> students = {n: mr.models.get("convnet", num_classes=3, widths=(4,)) for n in "ab"}
        >>> peers = mr.PeerDistiller(students)
        >>> peers.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> monitor = mr.callbacks.PeerMonitor(images)
        >>> logs = peers.fit(images, labels, callbacks=[monitor], verbose=0).history
        >>> "diversity" in logs, logs["agreement"][0] in (0.0, 1.0)
        (True, True)

    Reference:
        Chen et al., Online Knowledge Distillation with Diverse Peers, 2020, for the diversity.
    """

    def __init__(
        self,
        data: Any,
        *,
        every: int = 1,
        batch_size: int = 256,
        fixed_order: bool | None = None,
        log_dir: str | Path | None = None,
        plots: str | Path | None = None,
        plot_every: int | None = None,
    ) -> None:
        super().__init__()
        require_integer("batch_size", batch_size)
        if plots is None and plot_every is not None:
            raise ValueError(
                f"plot_every needs plots=, a folder for the pictures. Received: {plot_every=}"
            )
        if plots is not None:
            pictures.require_matplotlib()
        self.batches = Batches("data", data, batch_size, again=True)
        self.every = require_integer("every", every)
        self.fixed_order = self.batches.is_array if fixed_order is None else fixed_order
        require_bool("fixed_order", self.fixed_order)
        self.log_dir = pictures.require_folder("log_dir", log_dir)
        self.plots: Any = pictures.require_folder("plots", plots)
        self.plot_every = require_integer("plot_every", plot_every, optional=True)
        self._writer: Any = None
        self._epochs: dict[int, dict[str, float]] = {}

    # What Keras calls

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Compiles the comparison and tries it on one batch, so that errors are raised at once."""
        if not isinstance(self.model, BaseDistiller):
            raise TypeError(
                "PeerMonitor watches the students of a distiller, such as mr.PeerDistiller. "
                f"Received: a model of type {type(self.model).__name__}"
            )
        # Two functions: one of both would be traced anew once the teacher's classes are known.
        self._compare, self._teach = (
            tf.function(partial(function, self.model), reduce_retracing=True, autograph=False)
            for function in (compare, teacher_classes)
        )
        self._teacher_classes: list[Any] | None = None
        first = next(iter(self.batches), None)
        if first is None:
            raise ValueError("data must hold at least one sample. Received: none")
        if not self._compared(first, None)[0]:
            without = self.model.teacher is None
            raise ValueError(
                "PeerMonitor compares several students, or a student and a teacher of the same "
                "classes. Received: one student and "
                + ("no teacher" if without else "a teacher of other classes")
            )
        if self.log_dir is not None:
            self._writer = tf.summary.create_file_writer(str(self.log_dir))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures if it is time to, and adds the values to the logs."""
        logs = {} if logs is None else logs
        is_last = epoch + 1 == self.params.get("epochs")
        measured = self.measure() if epoch % self.every == 0 or is_last else {}
        logs.update(measured)
        # A later `fit` that begins again at some epoch replaces what was noted from there on.
        self._epochs = {number: own for number, own in self._epochs.items() if number <= epoch}
        self._epochs[epoch + 1] = dict(logs)
        if self._writer is not None:
            own = self._aggregator_logs()
            given = {name: value for name, value in logs.items() if name.split("/")[-1] in own}
            self._write({**measured, **given}, epoch)
        if self.plot_every is not None and (epoch + 1) % self.plot_every == 0:
            self._draw()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Draws the pictures and closes TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self.plots is not None:
            self._draw()

    def get_state(self) -> dict[int, dict[str, float]]:
        """Returns what `Resume(callbacks=[...])` keeps: the logs of each epoch."""
        return self._epochs

    def set_state(self, state: dict[int, dict[str, float]]) -> None:
        """Takes what `get_state` returned."""
        self._epochs = state

    # What is measured

    def measure(self) -> dict[str, float]:
        """Returns the current values by their names in the logs; works once training has begun.

        Raises:
            ValueError: If data in a fixed order gave another number of batches than before.
        """
        known = self._teacher_classes
        seen: list[Any] = []
        sums: defaultdict[str, float] = defaultdict(float)
        total = 0.0
        for batch in self.batches:
            classes: Any = None if known is None else known[len(seen) : len(seen) + 1]
            self._require_same(classes != [])
            values, classes = self._compared(batch, classes and classes[0])
            seen.append(classes)
            weight = _weights(batch, next(iter(values.values())))
            total += weight.sum()
            for name, each in values.items():
                sums[name] += weight @ np.asarray(each, "float64")
        self._require_same(known is None or len(seen) == len(known))
        if self.fixed_order:
            self._teacher_classes = seen
        return {name: float(value / total) if total else 0.0 for name, value in sums.items()}

    def _require_same(self, is_same: bool) -> None:
        if not is_same:
            raise ValueError(
                "data gave another number of batches than the first time, so the teacher's "
                "classes are not theirs. Received: fixed_order=True"
            )

    def _compared(self, batch: Any, classes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        x, y, _ = unpack(batch)
        aggregator: Any = getattr(self.model, "aggregator", None)
        if y is None and "labels" in getattr(aggregator, "needs", ()):
            raise ValueError(
                f"The aggregator {aggregator.identifier!r} needs labels: PeerMonitor((x, y)). "
                "Received: data without labels"
            )
        if classes is None:
            classes = self._teach(x, y)
        return self._compare(x, y, classes), classes

    # Where it goes

    def _write(self, values: Mapping[str, float], epoch: int) -> None:
        # As tf.summary.scalar does, which works only where TensorBoard is installed.
        metadata = tf.compat.v1.SummaryMetadata(data_class=1)
        metadata.plugin_data.plugin_name = "scalars"
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.write(name, tf.constant(value, "float32"), epoch, metadata)
        self._writer.flush()

    def _draw(self) -> None:
        students = list(self.model.students)
        charts = pictures.charts(
            self._epochs,
            students if len(students) == 1 else [*students, pictures.ENSEMBLE],
            self.model.log_name,
            getattr(getattr(self.model, "selection", None), "criterion", None) or "accuracy",
            self._aggregator_logs(),
        )
        pictures.draw(charts, self._epochs, Path(self.plots))

    def _aggregator_logs(self) -> tuple[str, ...]:
        return getattr(getattr(self.model, "aggregator", None), "logs", ())


def _weights(batch: Any, values: Any) -> np.ndarray:
    """Returns the samples' weights, (batch,), float64."""
    weight = unpack(batch)[2]
    if weight is None:
        return np.ones(values.shape[0])
    return np.asarray(weight, "float64").reshape(values.shape[0])
