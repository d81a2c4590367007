"""Models of all sorts that end in logits or in probabilities."""

import keras
import numpy as np
import tensorflow as tf

L = keras.layers
INPUTS = np.zeros((1, 4), "float32")


def dense_net(activation=None, units=3, name=None):
    hidden = L.Dense(5, activation="relu", name="hidden")
    return keras.Sequential([keras.Input((4,)), hidden, L.Dense(units, activation)], name=name)


def functional(ending, units=3):
    inputs = keras.Input((4,))
    hidden = L.Dense(5, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, ending(L.Dense(units, name="logits")(hidden)))


class Subclassed(keras.Model):
    """A model of any last operation."""

    def __init__(self, ending=None, units=3, **arguments):
        super().__init__()
        self.hidden, self.last = L.Dense(5, "relu", name="hidden"), L.Dense(units, **arguments)
        self.ending = ending or (lambda z: z)

    def call(self, inputs):
        return self.ending(self.last(self.hidden(inputs)))


def called(model, inputs=INPUTS):
    model(inputs)
    return model


class Clipped(L.Layer):
    """A layer of the user's own."""

    def call(self, inputs):
        return keras.ops.clip(keras.ops.softmax(inputs), 1e-7, 1.0)


class SoftmaxDense(L.Dense):
    """A layer that is a Dense by type, and no longer linear."""

    def call(self, inputs):
        return keras.ops.softmax(super().call(inputs))


class OwnCall(keras.Model):
    """A functional model, of whose graph `call` is only a part."""

    def call(self, inputs, training=None):
        return keras.ops.softmax(super().call(inputs))


def own_call():
    inputs = keras.Input((4,))
    return OwnCall(inputs, L.Dense(3)(inputs))


def nested_own_call():
    inputs = keras.Input((4,))
    return keras.Model(inputs, own_call()(inputs))


def nested(activation):
    inputs = keras.Input((4,))
    inner = dense_net(activation, name="inner")
    return keras.Model(inputs, L.Activation("linear", dtype="float32")(inner(inputs)))


def average(activation):
    members = [dense_net(activation, name=f"{name}_{activation}") for name in "ab"]
    inputs = keras.Input((4,))
    return keras.Model(inputs, L.Average()([member(inputs) for member in members]))


def saved(model, folder):
    """A SavedModel, as a layer."""
    model.export(folder, verbose=False)
    return keras.Sequential([keras.Input((4,)), L.TFSMLayer(folder, call_endpoint="serve")])


PROBABILITIES = {
    "softmax of Keras": lambda: dense_net("softmax"),
    "sigmoid of Keras": lambda: dense_net("sigmoid"),
    "softmax of TensorFlow": lambda: dense_net(tf.nn.softmax),
    "sigmoid of TensorFlow": lambda: dense_net(tf.nn.sigmoid),
    "hard sigmoid": lambda: dense_net("hard_sigmoid"),
    "sparsemax": lambda: dense_net("sparsemax"),
    "Activation of TensorFlow": lambda: functional(L.Activation(tf.nn.softmax)),
    "Softmax": lambda: functional(L.Softmax()),
    "Lambda": lambda: functional(L.Lambda(lambda z: keras.ops.softmax(z))),
    "operation": lambda: functional(keras.ops.softmax),
    "operations": lambda: functional(
        lambda z: keras.ops.exp(z) / keras.ops.sum(keras.ops.exp(z), -1, keepdims=True)
    ),
    "clipped": lambda: functional(lambda z: keras.ops.clip(keras.ops.softmax(z), 1e-7, 1)),
    "smoothed": lambda: functional(lambda z: 0.9 * keras.ops.softmax(z) + 0.1 / 3),
    "layer of one's own": lambda: functional(Clipped()),
    "Dense of one's own": lambda: keras.Sequential([keras.Input((4,)), SoftmaxDense(3)]),
    "nested": lambda: nested("softmax"),
    "functional with a call of its own": own_call,
    "nested functional with a call of its own": nested_own_call,
    "nested sigmoid": lambda: nested("sigmoid"),
    "average of softmaxes": lambda: average("softmax"),
    "average of sigmoids": lambda: average("sigmoid"),
    "subclassed softmax": lambda: called(Subclassed(keras.ops.softmax)),
    "subclassed sigmoids": lambda: called(Subclassed(keras.ops.sigmoid)),
    "Sequential around a subclassed": lambda: keras.Sequential(
        [keras.Input((4,)), Subclassed(tf.nn.softmax)]
    ),
    "normalized before": lambda: functional(
        lambda z: keras.ops.sigmoid(1e-3 * L.LayerNormalization()(z))
    ),
}

LOGITS = {
    "Dense": dense_net,
    "Dense of TensorFlow's identity": lambda: dense_net(tf.identity),
    "log-probabilities": lambda: functional(keras.ops.log_softmax),
    "log of probabilities": lambda: functional(lambda z: keras.ops.log(keras.ops.softmax(z))),
    "ReLU": lambda: dense_net("relu"),
    "ReLU6": lambda: dense_net("relu6"),
    "tanh": lambda: dense_net("tanh"),
    "ReLU of small numbers": lambda: called(
        Subclassed(keras.ops.relu, kernel_initializer=keras.initializers.RandomUniform(0.0, 1e-7))
    ),
    "normalized ReLU": lambda: called(
        Subclassed(lambda z: keras.ops.relu(keras.ops.normalize(z)) * 1.5)
    ),
    "average of logits": lambda: average(None),
    "subclassed": lambda: called(Subclassed()),
    "subclassed of zeros": lambda: called(Subclassed(kernel_initializer="zeros")),
    "subclassed of ones": lambda: called(
        Subclassed(kernel_initializer="zeros", bias_initializer="ones")
    ),
    "subclassed of thirds": lambda: called(
        Subclassed(kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(1 / 3))
    ),
    "subclassed of small numbers": lambda: called(
        Subclassed(
            kernel_initializer=keras.initializers.RandomUniform(0.0, 1e-7),
            bias_initializer=keras.initializers.Constant(0.3),
        )
    ),
    "scaled": lambda: functional(lambda z: z / 4.0),
}
