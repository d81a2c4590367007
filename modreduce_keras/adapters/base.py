"""What every adapter shares: it makes a student's and a teacher's feature comparable."""

from typing import Any, ClassVar

import keras

from modreduce_keras import arguments, knobs
from modreduce_keras.typing import Tensor

_RANDOM = "random_"


class Adapter(keras.layers.Layer):
    """Base class of all adapters: a layer that owns every weight and state a method needs.

    `adapter(student, teacher)` takes the features that the taps read, tensors or lists of them,
    and returns the pair that the loss compares. Its weights train with the student's and are
    thrown away with the distiller.

    To add one, write `build(student_shape, teacher_shape)` and
    `call(student, teacher, training=None)`, and register the class.
    Numbers that a user may want to change while training are declared with `Knob`.
    """

    identifier: ClassVar[str]
    needs_index: ClassVar[bool] = False
    """Whether `call` has a further argument `index`, the samples' places in the training data
    (batch,), int; `None` only while the distiller is being built."""
    one_feature: ClassVar[bool] = False
    """Whether it takes one feature of each model, and so refuses lists of them."""
    takes_mask: bool = False
    """Whether positions that a mask leaves out count for nothing. They come as zeros, and `call`
    has a further argument `kept=None`: the masks of the `"student"`'s and the `"teacher"`'s
    positions by name, (batch, ...) and bool, where they have positions. Only statistics and means
    over positions have to look at them.
    An adapter that mixes positions, or can be masked for some shapes only, says so in `build`."""
    keeps_positions: ClassVar[bool] = True
    """Whether what comes out has the positions of what came in, for which the masks hold."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True  # by `kept`, not by Keras' propagation

    def compute_mask(self, *args: Any, **kwargs: Any) -> None:
        """Returns `None`: the distiller hands masks on."""

    def adopt(self, student: keras.Model, teacher: keras.Model) -> None:
        """Takes what the adapter reuses of the two models (a classifier), before it is built.

        What it keeps must not be an attribute that Keras tracks: the models' weights are theirs.
        """

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        """Creates the weights from the shapes of both features, batch included."""

    def call(self, student: Tensor, teacher: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Returns the comparable pair (student, teacher)."""
        raise NotImplementedError

    def pretraining_loss(self, student: Tensor, teacher: Tensor) -> Any:
        """Returns the values per sample, (batch,), of the adapter's own stage before training.

        `None`, the default, where the adapter has none. `pretraining_variables` are trained.
        """
        return

    def pretraining_variables(self) -> list[keras.Variable]:
        """Returns the variables that the adapter's own stage trains, and only that stage."""
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
        for place, state in enumerate(self._random_states()):
            store[f"{_RANDOM}{place}"] = state

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved."""
        states = self._random_states()
        for place, state in enumerate(states):
            state.assign(store[f"{_RANDOM}{place}"])
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
