"""EMA weights: moving averages of students' weights, or copies refreshed from time to time."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from modreduce_keras.copying import adapted_variables, copy_state, finalize, parts
from modreduce_keras.held import Held
from modreduce_keras.models.same_outputs import require_same_outputs


class EMAWeights(keras.layers.Layer):
    """Holds the moving average of every weight of some models, and runs the models with them.

    ema = decay · ema + (1 - decay) · weights

    BatchNorm's statistics are averaged like the weights. Statistics that layers were adapted to
    (`Normalization`), and integers such as the states of random generators, are copied. Weights
    that models share are stored once.

    Args:
        models: Built models, by name.
        decay: Update count -> EMA decay, from 0 to 1.
        name: Name of the layer.

    Call arguments:
        inputs: The inputs of a model.
        model: Its name.

    Reference:
        Tarvainen and Valpola, Mean Teachers are Better Role Models, 2017 (averages); Anil et al.,
        Large Scale Distributed Neural Network Training through Online Distillation, 2018 (copies).
    """

    def __init__(
        self,
        models: Mapping[str, keras.Model],
        decay: Callable[[Any], Any],
        name: str = "past_selves",
    ):
        super().__init__(name=name, dtype="float32", trainable=False, autocast=False)
        self._models = Held(dict(models))
        self.decay = decay
        present = {id(v): v for model in models.values() for v in model.variables}
        self._index = {key: index for index, key in enumerate(present)}
        self.copies = [
            self.add_weight(
                shape=variable.shape,
                dtype=variable.dtype,
                initializer="zeros",
                trainable=False,
                name=f"past_{index}",
            )
            for index, variable in enumerate(present.values())
        ]
        # The weight keeps its old name, by which checkpoints know it.
        self.updates = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="moves"
        )
        self._present = Held(list(present.values()))
        self._adapted = {id(v) for model in models.values() for v in adapted_variables(model)}
        for copy, variable in zip(self.copies, self._present(), strict=True):
            copy.assign(variable)
        self.built = True

    def call(self, inputs: Any, model: str) -> Any:
        """Returns the output of a model's EMA in inference, (batch, ...), constant."""
        network = self._models()[model]
        given = [[self._copy_of(v) for v in part] for part in _parts(network)]
        outputs, _ = network.stateless_call(*given, inputs, training=False)
        return keras.tree.map_structure(ops.stop_gradient, outputs)

    def _copy_of(self, variable: keras.Variable) -> keras.Variable:
        return self.copies[self._index[id(variable)]]

    def update(self) -> None:
        """Updates the EMA weights with the current weights."""
        decay = ops.cast(self.decay(self.updates), "float32")
        for copy, variable in zip(self.copies, self._present(), strict=True):
            value = ops.convert_to_tensor(variable)
            if keras.backend.is_float_dtype(copy.dtype) and id(variable) not in self._adapted:
                kept = ops.cast(decay, copy.dtype)
                value = kept * copy + (1.0 - kept) * value
            copy.assign(value)
        self.updates.assign_add(1)

    def assign_to(self, name: str, model: keras.Model) -> None:
        """Writes a model's EMA weights into another one of the same architecture.

        Raises:
            ValueError: If the weights do not fit, or the two models give other outputs with the
                same weights.
        """
        present = self._models()[name]
        own = present.variables
        if [tuple(v.shape) for v in own] != [tuple(v.shape) for v in model.variables]:
            raise ValueError(
                f"The EMA weights of {name!r} go into a model of the same architecture. "
                f"Received: {model.name!r} with {len(model.variables)} weights for {len(own)}"
            )
        # Other state comes from the current model, with which its EMA runs as well.
        copy_state(present, model)
        require_same_outputs(present, model)
        for variable, target in zip(own, model.variables, strict=True):
            if id(variable) not in self._adapted:
                target.assign(ops.convert_to_numpy(self._copy_of(variable)))
        for layer in reversed(parts(model)):
            finalize(layer)


# Keras finds a layer in a file by the name of its class, which was this in earlier versions.
EMAWeights.__name__ = "PastSelves"


def _parts(model: keras.Model) -> tuple[list[keras.Variable], list[keras.Variable]]:
    return model.trainable_variables, model.non_trainable_variables
