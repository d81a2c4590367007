"""Base class of the adapters, which make the student's and the teacher's features comparable."""

from collections.abc import Callable
from typing import Any, ClassVar

import keras

from modreduce_keras import arguments, knobs
from modreduce_keras.typing import Tensor

_RANDOM = "random_"


class Adapter(keras.layers.Layer):
    """Base class of all adapters: layers that own the weights and the state of a method.

    `adapter(student, teacher)` takes the features that the taps read, tensors or lists of them,
    and returns the pair that the loss compares. Its weights are trained together with the
    student's and belong to the distiller, not to the student.

    To add an adapter, write `build(student_shape, teacher_shape)` and
    `call(student, teacher, training=None)`, and register the class. Declare hyperparameters that
    a user may want to change during training with `Knob`.

    Args:
        name: Name of the layer.
        dtype: Its dtype or dtype policy. Defaults to the global policy.
        trainable: Whether its weights are trained. Defaults to `True`.
        autocast: Whether inputs are cast to its dtype, as in Keras. Defaults to `True`.
    """

    identifier: ClassVar[str]
    needs_index: ClassVar[bool] = False
    """Whether `call` takes an argument `index`, the indices of the samples in the training data,
    (batch,), int; `None` only while the distiller is being built."""
    one_feature: ClassVar[bool] = False
    """Whether it takes one feature of each model, and no lists of features."""
    takes_mask: bool = False
    """Whether the adapter can leave out masked positions. These are zero in the features, and
    `call` takes an argument `kept=None`: a dict with the masks of the `"student"`'s and the
    `"teacher"`'s positions, (batch, ...) and bool, where they have positions. Only adapters that
    compute statistics or means over positions have to use it. An adapter that mixes positions, or
    supports masks for some shapes only, sets this in `build`."""
    keeps_positions: ClassVar[bool] = True
    """Whether the results have the same positions as the features, so that masks apply to them."""

    def __init__(
        self,
        *,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
        autocast: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable, autocast=autocast)
        self.supports_masking = True  # by `kept`, not by Keras' propagation

    def compute_mask(self, *args: Any, **kwargs: Any) -> None:
        """Returns `None`: the distiller passes masks on."""

    def adopt(self, student: keras.Model, teacher: keras.Model) -> None:
        """Stores parts of the two models that the adapter uses, such as a classifier.

        Called before the adapter is built. Keras must not track what is stored, because the
        weights belong to the models.
        """

    def adopt_sign(self, is_nonnegative: Callable[[], bool]) -> None:
        """Notes whether the teacher's feature is known to have no negative numbers.

        Called before the adapter is built.

        Args:
            is_nonnegative: Looks at the layers of the teacher, which takes a moment.
        """

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        """Creates the weights from the shapes of both features, batch included."""

    def call(self, student: Tensor, teacher: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Returns the comparable pair (student, teacher)."""
        raise NotImplementedError

    def pretraining_loss(self, student: Tensor, teacher: Tensor) -> Any:
        """Returns the values per sample, (batch,), of the adapter's pretraining stage.

        `None`, the default, where the adapter has none. `pretraining_variables` are trained.
        """
        return

    def pretraining_variables(self) -> list[keras.Variable]:
        """Returns the variables that only the adapter's pretraining stage trains."""
        return []

    def freeze_pretraining_variables(self) -> None:
        """Marks these variables as not trainable, for `build`.

        Only the variables: batch normalizations of a layer that does not train would ignore
        `training=True` in the stage that is theirs.
        """
        for variable in self.pretraining_variables():
            variable.trainable = False

    def save_own_variables(self, store: Any) -> None:
        """Saves the weights, and how far random numbers have been drawn, which Keras leaves out."""
        super().save_own_variables(store)
        for index, state in enumerate(self._random_states()):
            store[f"{_RANDOM}{index}"] = state

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved."""
        states = self._random_states()
        for index, state in enumerate(states):
            state.assign(store[f"{_RANDOM}{index}"])
        if states:
            names = [name for name in list(store.keys()) if not name.startswith(_RANDOM)]
            store = {name: store[name] for name in names}
        super().load_own_variables(store)

    def _random_states(self) -> list[keras.Variable]:
        held = vars(self).values()
        return [one.state for one in held if isinstance(one, keras.random.SeedGenerator)]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, those that are kept under their own names."""
        config = {**super().get_config(), **knobs.config(self)}
        return {**arguments.kept(self, Adapter, known=config), **config}
