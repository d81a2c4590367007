"""TemporalEnsembling: a model agrees with its earlier predictions for each sample."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.arguments import require_integer
from modreduce_keras.calls import answering, of_model
from modreduce_keras.distillers.consistency import ConsistencyDistiller
from modreduce_keras.distribute import (
    assign_rows,
    changed_by_rows,
    gather_over_replicas,
    require_sample_index,
    take_rows,
)
from modreduce_keras.ops import safe_reciprocal
from modreduce_keras.registry import register


@register("distiller", "temporal_ensembling")
class TemporalEnsembling(ConsistencyDistiller):
    """Trains a model to agree with its own earlier predictions for each sample.

    total = CE(z, y) + consistency_weight · mean_c (p_c - target_c)² with p = softmax(z)
    target = Z / (1 - momentum^t), then Z = momentum · Z + (1 - momentum) · p

    with a Z for each training sample, initially zero, and t, how often the sample has been seen.
    When a sample is seen for the first time, it has no consistency term. Z is stored by the
    sample's index, so the data need it:
    `distiller.fit(mr.data.with_index(dataset).shuffle(...).batch(64))`. Z is a weight of the
    distiller, so checkpoints restore it.

    To include unlabelled samples, give them the label -1 and compile with
    `SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)`.

    Logs: `ce`, `consistency` and the compiled metrics. Validation has no earlier predictions, so
    `val_loss` is the loss on the labels, and `compile(evaluate_knowledge=True)` raises an error.

    Args:
        model: The model to train, with logits (batch, classes) as its output. It or the data should
            contain noise, such as dropout and augmentation.
        samples: Number of training samples; every index is smaller.
        momentum: Decay of Z whenever the sample is seen, from 0 to 1, or a schedule. Defaults to
            0.6.
        consistency_weight: Weight of the consistency term, a number that is not negative, or a
            schedule. Defaults to 1; the paper ramps up to 30 times the labelled share of the
            samples over 80 epochs, as in `mr.schedules.SigmoidRampUp(30.0, steps=...)`.
        supervised_weight: Weight of the compiled loss on the labels. Defaults to 1.
        kind: What the outputs are: `"classes"`, `"labels"` (several independent labels, or one
            logit) or `"regression"`. Defaults to `None`: told from the compiled loss, or
            `"classes"` if the loss is your own. An error is raised if the labels do not fit:
            one-hot labels beside the loss of a regression, or multi-hot labels beside a loss of
            your own.
        name: Name of the model. Defaults to the name of the class.
        dtype: Dtype policy of the distiller itself. Defaults to the global one.
        trainable: As for every Keras model. Defaults to `True`.

    Raises:
        ValueError: If the model does not end in logits (batch, classes), an argument is out of
            range, or the data have no index or one out of range.

    Example:
        >>> import keras, numpy as np, tensorflow as tf, modreduce_keras as mr
        >>> model = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> distiller = mr.TemporalEnsembling(model, samples=8, consistency_weight=10.0)
        >>> distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> images, labels = np.ones((8, 28, 28, 1), "float32"), np.arange(8) % 3
        >>> train = mr.data.with_index(tf.data.Dataset.from_tensor_slices((images, labels)))
        >>> history = distiller.fit(train.batch(4), shuffle=False, verbose=0).history
        >>> history["consistency"]
        [0.0]

    Reference:
        Laine and Aila, Temporal Ensembling for Semi-Supervised Learning, 2017. There, all Z are
        updated at the end of an epoch. Here each Z is updated when its sample is seen, after the
        target has been read, which is the same if each epoch has each sample once.
    """

    needs_index = True

    @answering(of_model("mr.TemporalEnsembling"))
    def __init__(
        self,
        model: keras.Model,
        *,
        samples: int,
        momentum: Any = 0.6,
        consistency_weight: Any = 1.0,
        supervised_weight: Any = 1.0,
        kind: str | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        super().__init__(
            model,
            momentum=momentum,
            consistency_weight=consistency_weight,
            supervised_weight=supervised_weight,
            kind=kind,
            name=name,
            dtype=dtype,
            trainable=trainable,
        )
        self.samples = require_integer("samples", samples)
        classes = self.student_output().shape[-1]
        self.predictions = changed_by_rows(_memory((self.samples, classes), "predictions"))
        # How much of Z is there: 1 - momentum^t, also where the momentum changes on the way.
        self.masses = changed_by_rows(_memory((self.samples,), "masses"))

    def past_target(self, outputs: Any, probabilities: Any) -> Any:
        """Returns the samples' mean predictions, and notes the present ones."""
        index = self._checked(outputs.batch.index)
        mass = take_rows(self.masses, index)
        target = take_rows(self.predictions, index) * safe_reciprocal(mass)[:, None]
        self._remember(gather_over_replicas(index), gather_over_replicas(probabilities))
        return target, ops.cast(mass > 0, "float32")

    def _checked(self, index: Any) -> Any:
        if index is None:
            raise ValueError(
                "TemporalEnsembling needs each sample's index in the training data, so fit on "
                "samples with one: samples = tf.data.Dataset.from_tensor_slices((x, y)), "
                "fit(mr.data.with_index(samples).batch(64)). Received: x without index"
            )
        return require_sample_index(index, self.samples, "TemporalEnsembling")

    def _remember(self, index: Any, probabilities: Any) -> None:
        momentum = ops.convert_to_tensor(self.momentum)
        for memory, new in ((self.predictions, probabilities), (self.masses, 1.0)):
            old = take_rows(memory, index)
            assign_rows(memory, index, momentum * old + (1.0 - momentum) * new)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        config = super().get_config()
        del config["teacher_input"]
        return {**config, "samples": self.samples}


def _memory(shape: tuple[int, ...], name: str) -> keras.Variable:
    """Returns a variable of zeros that every replica writes alike."""
    return keras.Variable(
        "zeros",
        shape=shape,
        dtype="float32",
        trainable=False,
        name=name,
        autocast=False,
        aggregation="only_first_replica",
    )
