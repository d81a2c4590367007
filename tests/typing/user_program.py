"""A program that a user may write. mypy reads it in `make lint`; it is not run."""

from collections.abc import Callable
from pathlib import Path
from typing import assert_type

import keras

import modreduce_keras as mr
from modreduce_keras.adapters import Adapter
from modreduce_keras.aggregators import Aggregator
from modreduce_keras.losses import Loss
from modreduce_keras.schedules import Schedule
from modreduce_keras.typing import Tensor


def components() -> None:
    """Every component is known by name, and `get` tells what it returns."""
    assert_type(mr.losses.KD(temperature=4.0), mr.losses.KD)
    assert_type(mr.losses.get("kd", temperature=4.0), Loss)
    assert_type(mr.adapters.get("conv_regressor"), Adapter)
    assert_type(mr.aggregators.get("one"), Aggregator)
    assert_type(mr.schedules.get("constant", constant=0.5), Schedule)
    assert_type(mr.schedules.Exponential(0.01, 0.7, steps=100), mr.schedules.Exponential)
    assert_type(dir(mr.losses), list[str])
    assert_type(mr.__version__, str)


def networks() -> None:
    """A network of a family takes the arguments of the family, without the depth."""
    student = mr.models.resnet20(num_classes=100, input_shape=(32, 32, 3))
    mr.models.get("resnet20", num_classes=100)
    mr.models.resnet8x4(num_classes=100, widths=(32, 64, 128, 256), name="student")
    mr.models.resnet20(classes=100)  # type: ignore[call-arg]
    mr.losses.NoSuchLoss()  # type: ignore[attr-defined]
    mr.models.no_such_network  # type: ignore[attr-defined]  # noqa: B018
    student.summary()


def distillation(student: keras.Model, teacher: keras.Model) -> None:
    """One student and one teacher."""
    distiller = mr.Distiller(
        student=student,
        teacher=teacher,
        knowledge=[
            mr.Response(mr.losses.KD(temperature=4.0), weight=0.9),
            mr.Feature("hint", student="stage2", teacher="stage2", weight=100.0),
            mr.Relation("rkd_distance", at="embedding", weight=25.0),
        ],
    )
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.student.save("student.keras")


def online(students: list[keras.Model]) -> None:
    """Students that teach one another."""
    peers = mr.PeerDistiller(students=students, aggregator="okddip")
    peers.best_student.save("best.keras")


@mr.register("loss", "squared")
class Squared(Loss):
    """A loss of the user's own."""

    def per_sample(self, teacher: Tensor, student: Tensor) -> Tensor:
        return keras.ops.mean(keras.ops.square(teacher - student), axis=-1)


assert_type(Squared(name="squared"), Squared)


def deployment(student: keras.Model, folder: Path, samples: Tensor) -> None:
    """Files and callbacks."""
    mr.export.to_tflite(student, folder / "student.tflite")
    assert_type(
        mr.export.verify(folder / "student.tflite", student, samples), mr.export.Verification
    )
    mr.callbacks.Resume(folder / "checkpoints")
    assert_type(mr.tuning.Search, type[mr.tuning.Search])


report: Callable[..., object] = mr.report
