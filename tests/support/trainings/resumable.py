"""Small trainings with every kind of state, which tests interrupt and start again."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.callbacks.checkpoints import Folder

SAMPLES, BATCH, EPOCHS = 13, 5, 3
STEPS = -(-SAMPLES // BATCH)


class StoppedError(Exception):
    """What stops a training in the middle."""


class Interrupt(keras.callbacks.Callback):
    """Stops training after a batch (`step` counted from 1 in the epoch)."""

    def __init__(self, epoch, step):
        super().__init__()
        self.at = epoch, step

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch + 1) == self.at:
            raise StoppedError


def net(name, width=4):
    """A network with augmentation, BatchNorm and dropout."""
    layers = keras.layers
    inputs = keras.Input((6, 6, 1))
    hidden = layers.RandomTranslation(0.2, 0.2)(inputs)
    hidden = layers.Dense(width, name="embedding")(layers.Flatten()(hidden))
    hidden = layers.Dropout(0.3)(layers.BatchNormalization()(hidden))
    return keras.Model(inputs, layers.Dense(3, name="logits")(hidden), name=name)


def teacher():
    """The same trained model in every process; it leaves the random state as it was for others."""
    keras.utils.set_random_seed(1234)
    return net("teacher", width=6)


def images():
    random = np.random.default_rng(0)
    return random.normal(size=(SAMPLES, 6, 6, 1)).astype("float32"), np.arange(SAMPLES) % 3


def brighter(seed, x, y):
    return {**x, "inputs": x["inputs"] + tf.random.stateless_normal((), seed)}, y


def data():
    """Indexed samples in an order by the epoch, augmented by a seed of their place in it."""
    dataset = mr.data.with_index(tf.data.Dataset.from_tensor_slices(images()))
    return mr.data.epoch_shuffle(dataset, seed=7, augment=brighter).batch(BATCH).prefetch(2)


def plain_data():
    """The same without an index, for models that are no distillers."""
    return data().map(lambda x, y: (x["inputs"], y))


def light_data(batch=BATCH):
    """What is quickest to begin."""
    dataset = tf.data.Dataset.from_tensor_slices(images())
    return mr.data.epoch_shuffle(dataset, seed=7).batch(batch)


def crd():
    memory = mr.adapters.get("contrastive_memory", samples=SAMPLES, negatives=6, units=4)
    return mr.Relation("crd", at="embedding", adapter=memory, weight=0.5)


def compiled(model, optimizer, eager, metrics=("accuracy",)):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=list(metrics), run_eagerly=eager)
    return model


def distiller(seed, eager):
    taught = teacher()
    keras.utils.set_random_seed(seed)
    schedule = mr.schedules.Linear(0.2, 1.0, steps=12)
    knowledge = [mr.Response("kd", weight=schedule), crd()]
    model = mr.Distiller(student=net("student"), teacher=taught, knowledge=knowledge)
    return compiled(model, keras.optimizers.Adam(0.01), eager)


def modreduce(seed, eager):
    taught = teacher()
    keras.utils.set_random_seed(seed)
    knowledge = {
        "response": [mr.Response("kd")],
        "feature": [
            mr.Response("kd"),
            mr.Feature("hint", at="embedding", adapter="linear_embedding", weight=1.0),
        ],
        "relation": [mr.Response("kd"), crd()],
    }
    students = {name: net(name) for name in knowledge}
    model = mr.ModReduce(
        teacher=taught, students=students, knowledge=knowledge, aggregator="weighted_average"
    )
    adam, momentum = keras.optimizers.Adam, keras.optimizers.SGD(0.05, momentum=0.9)
    optimizer = {"response": adam(0.01), "feature": momentum, "relation": adam(0.01)}
    return compiled(model, {**optimizer, "aggregator": keras.optimizers.SGD(0.1)}, eager)


def pcl(seed, eager):
    keras.utils.set_random_seed(seed)
    model = mr.PeerDistiller({name: net(name) for name in "ab"}, aggregator="pcl")
    return compiled(model, keras.optimizers.SGD(0.05, momentum=0.9), eager)


def plain(seed, eager):
    keras.utils.set_random_seed(seed)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=8.0)
    return compiled(net("plain"), optimizer, eager)


def light(seed, eager, units=3, optimizer="adam", **arguments):
    """As little as has weights, slots of an optimizer and random numbers."""
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(units)]
    return compiled(
        keras.Sequential([keras.Input((6, 6, 1)), *layers]), optimizer, eager, **arguments
    )


TRAININGS = {
    "light": (light, light_data),
    "distiller": (distiller, data),
    "modreduce": (modreduce, data),
    "pcl": (pcl, data),
    "plain": (plain, plain_data),
}


def train(kind, seed, folder, epochs, *others, eager=True, **resume):
    """Builds a training with random weights by a seed and runs it; returns model and history."""
    build, batches = TRAININGS[kind]
    model = build(seed, eager)
    callbacks = [*others, *([mr.callbacks.Resume(folder, **resume)] if folder else [])]
    arguments = {"validation_data": images(), "shuffle": False, "verbose": 0}
    history = model.fit(batches(), epochs=epochs, callbacks=callbacks, **arguments)
    return model, history.history


def state(model):
    """Returns every variable of a model and of its optimizers, as arrays."""
    several = model.variables + model.optimizer.variables
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in several]


def different(one, other):
    """Returns the places of the arrays that are not equal, bit by bit."""
    assert len(one) == len(other)
    pairs = zip(one, other, strict=True)
    return [place for place, (a, b) in enumerate(pairs) if a.tobytes() != b.tobytes()]


@functools.cache
def uninterrupted(kind):
    """Trains to the end without `Resume`, once for each kind; returns state and history."""
    model, history = train(kind, 1, None, EPOCHS)
    return state(model), history


def interrupt(folder, epoch, step, kind="light", **arguments):
    """Trains up to a step whose end `Resume` does not see, as when it is killed."""
    with pytest.raises(StoppedError):
        train(kind, 1, folder, EPOCHS, Interrupt(epoch, step), **arguments)


def stored(folder):
    """Returns of which positions there are checkpoints."""
    return Folder(folder, 3).positions()
