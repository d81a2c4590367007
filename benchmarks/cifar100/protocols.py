"""How the CIFAR-100 trainings go: images, epochs, rates. The papers' protocol, and shorter ones."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

import modreduce_keras as mr

IMAGES = 50_000
"""Number of CIFAR-100's training images, those held out among them."""

SLOW_LEARNERS = ("mobilenet", "shufflenet")
"""How networks are called that begin with a fifth of the learning rate, as published."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How students are trained, independent of the method.

    Attributes:
        epochs: Number of epochs.
        held_out: Training images set apart, the last of each class.
        validation: How many of those are looked at, in the order of the files.
        labelled: Training images that have labels, the first of each class; `None` for all. The
            others have the label -1, which the loss ignores.
        augmentations: Crops and flips of an image in all, whose teacher's outputs are kept on the
            disk; `None` for always new ones and a teacher that runs.
        validate_every: Epochs from one validation to the next. The last epoch has one.
        batch: Images in a batch.
        rate: Learning rate at the start, a fifth of it for `SLOW_LEARNERS`.
        milestones: Parts of the training after which the learning rate falls to a tenth.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of all weights, in the gradient.
        negatives: Negative samples of CRD.
        crossed: How many of each network's last stages SemCKD compares; `None` for all.
        arguments: Arguments of networks, by identifier.
    """

    epochs: int
    held_out: int
    validation: int
    labelled: int | None = None
    augmentations: int | None = None
    validate_every: int = 1
    batch: int = 64
    rate: float = 0.05
    milestones: tuple[float, ...] = (150 / 240, 180 / 240, 210 / 240)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    negatives: int = 16384
    crossed: int | None = None
    arguments: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Number of training images."""
        return IMAGES - self.held_out

    @property
    def loss(self) -> keras.losses.Loss:
        """What students learn from the labels by."""
        ignored = None if self.labelled is None else -1
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignored)

    @property
    def steps(self) -> int:
        """Number of training steps."""
        return self.epochs * -(-self.samples // self.batch)

    def network(self, identifier: str, name: str) -> keras.Model:
        """Returns an untrained network of the protocol."""
        arguments = {"input_shape": (32, 32, 3), **self.arguments.get(identifier, {})}
        return mr.models.get(identifier, num_classes=100, name=name, **arguments)

    def optimizer(
        self, identifier: str, ema_momentum: float | None = None
    ) -> keras.optimizers.Optimizer:
        """Returns what trains a network of that identifier, and averages its weights if asked."""
        rate = self.rate / 5 if identifier.startswith(SLOW_LEARNERS) else self.rate
        falls = [max(1, round(part * self.steps)) for part in self.milestones]
        rates = [rate / 10**fall for fall in range(len(falls) + 1)]
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay(falls, rates)
        averages = {} if ema_momentum is None else {"use_ema": True, "ema_momentum": ema_momentum}
        return CoupledSGD(schedule, momentum=self.momentum, decay=self.weight_decay, **averages)

    def aggregator_optimizer(self) -> keras.optimizers.Optimizer:
        """Returns ModReduce's optimizer of the aggregator, whose rate does not fall."""
        return CoupledSGD(0.1, momentum=self.momentum, decay=self.weight_decay)


TWO_CORES = {
    "validate_every": 2,
    "crossed": 2,  # all nine pairs of stages would be the work of four students
    "arguments": {"convnet": {"widths": (32, 64, 128)}},
}

PROTOCOLS = {
    "paper": Protocol(epochs=240, held_out=5000, validation=5000),
    "middle": Protocol(
        epochs=30,
        held_out=5000,
        validation=5000,
        augmentations=4,  # 10.4 GB of a resnet56's outputs
        negatives=4096,  # the published 16,384 would cost ten times the student
        **TWO_CORES,
    ),
    "small": Protocol(
        epochs=20,
        held_out=40_000,
        validation=2500,
        augmentations=6,
        negatives=3277,  # as many of the images as in the papers
        **TWO_CORES,
    ),
}
PROTOCOLS["few_labels"] = dataclasses.replace(PROTOCOLS["small"], labelled=1000)


@keras.saving.register_keras_serializable(package="benchmarks")
class CoupledSGD(keras.optimizers.SGD):
    """SGD with the weight decay in the gradient, and so in the momentum, as PyTorch has it.

    gradient + decay · weight takes the place of the gradient. Keras' own `weight_decay` is beside
    the momentum, and with a momentum of 0.9 a tenth as strong.

    Args:
        learning_rate: Number or schedule.
        decay: The factor of the weights, biases and normalizations among them.
        **kwargs: What `keras.optimizers.SGD` takes.
    """

    def __init__(self, learning_rate: Any = 0.01, *, decay: float = 0.0, **kwargs: Any):
        super().__init__(learning_rate, **kwargs)
        self.decay = decay

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable."""
        decayed = keras.ops.add(gradient, self.decay * keras.ops.cast(variable, gradient.dtype))
        super().update_step(decayed, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "decay": self.decay}
