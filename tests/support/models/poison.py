"""Networks whose gradient is infinite for marked images."""

import keras
import numpy as np
import tensorflow as tf

HARMLESS, MARK = 4.0, 9.0


@keras.saving.register_keras_serializable(package="tests")
class Poison(keras.layers.Layer):
    """Passes features on; the gradient is infinite for images whose first value is a mark."""

    def __init__(self, mark=MARK, **arguments):
        super().__init__(**arguments)
        self.mark = mark

    def call(self, features, images):
        marked = images[:, 0, 0, 0] >= self.mark

        @tf.custom_gradient
        def identity(values):
            def gradient(upstream):
                return tf.where(marked[:, None], tf.cast(np.inf, upstream.dtype), upstream)

            return tf.identity(values), gradient

        return identity(features)

    def get_config(self):
        return {**super().get_config(), "mark": self.mark}


def poisoned_net(name: str, mark: float = MARK, width: int = 4, **arguments) -> keras.Model:
    """Returns a small network with batch normalization, whose gradient breaks at a mark."""
    images = keras.Input((8, 8, 1))
    maps = keras.layers.Conv2D(width, 3, strides=2, name="stage2", **arguments)(images)
    maps = keras.layers.ReLU()(keras.layers.BatchNormalization()(maps))
    embedding = keras.layers.GlobalAveragePooling2D(name="embedding")(maps)
    logits = keras.layers.Dense(3, name="logits")(Poison(mark, name="poison")(embedding, images))
    return keras.Model(images, logits, name=name)


def marked(images: np.ndarray, *places: int) -> np.ndarray:
    """Returns a copy of images, some of which are marked."""
    images = np.clip(images, -HARMLESS, HARMLESS)
    images[list(places), 0, 0, 0] = MARK
    return images


def values(variables) -> list[np.ndarray]:
    """Returns copies of the present values of variables."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
