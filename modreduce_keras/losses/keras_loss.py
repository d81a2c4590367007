"""KerasLoss: one of Keras' own losses between the student's and the teacher's tensors."""

import inspect
from typing import Any

import keras

from modreduce_keras import registry
from modreduce_keras.calls import shown
from modreduce_keras.losses.base import Loss, fits
from modreduce_keras.registry import PACKAGE
from modreduce_keras.typing import Labels, Mask, Tensor


@keras.saving.register_keras_serializable(PACKAGE)
class KerasLoss(Loss):
    """A loss of Keras, such as `keras.losses.Huber()`, from the student's to the teacher's tensor.

    `mr.Response` and `mr.Feature` make it of a Keras loss that they are given. Its reduction does
    not matter: a distiller takes the mean over all examples.

    Args:
        loss: The loss, whose `call` gives one value for each position, (batch, ...).
        name: Name of the loss. Defaults to that of the Keras loss.
        reduction: See `Loss`.
    """

    identifier = "keras"
    kind = "response"
    one_feature = True
    over_positions = "mean"
    least_classes = 1

    def __init__(
        self,
        loss: keras.losses.Loss,
        *,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name or loss.name, reduction=reduction)
        self.loss = loss

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        owner = type(self.loss).__name__
        if not fits(teacher.shape, student.shape):
            # Keras would broadcast one of the two in silence.
            raise ValueError(
                f"{owner} compares tensors of one shape; an adapter brings the student's to the "
                "teacher's, adapter='linear_embedding' for vectors and adapter='conv_regressor' "
                f"for maps. Received: teacher of shape {tuple(teacher.shape)} and student of shape "
                f"{tuple(student.shape)} (the first axis is the batch)"
            )
        values = self.loss.call(teacher, student)
        if len(getattr(values, "shape", ())) == 0:
            raise ValueError(
                f"The method call of {owner} must return one value for each sample, (batch,). "
                f"Received: {values}"
            )
        return values

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "KerasLoss":
        """Returns the loss that `get_config` describes."""
        loss = keras.saving.deserialize_keras_object(config["loss"])
        return cls(**{**config, "loss": loss})


def loss_from(given: Any) -> Loss:
    """Returns a loss from a loss of ours or of Keras, a config or an identifier."""
    if isinstance(given, dict):
        given = keras.saving.deserialize_keras_object(given)
    if inspect.isroutine(given):
        raise TypeError(of_function(given))
    is_foreign = isinstance(given, keras.losses.Loss) and not isinstance(given, Loss)
    return KerasLoss(given) if is_foreign else registry.get("loss", given, Loss)


def of_function(given: Any) -> str:
    """Returns the message of a function that is given as a loss between teacher and student."""
    name = getattr(given, "__name__", type(given).__name__)
    kind = "".join(word.title() for word in name.split("_"))
    if getattr(keras.losses, name, None) is given and hasattr(keras.losses, kind):
        remedy = f"give Keras' class of it, mr.Response(keras.losses.{kind}())"
    else:
        remedy = (
            "give a loss of Keras, class Own(keras.losses.Loss) with call(self, teacher, student) "
            "that returns one value for each sample, as mr.Response(Own(name='own'))"
        )
    return f"A function is no loss between teacher and student: {remedy}. Received: {shown(given)}"
