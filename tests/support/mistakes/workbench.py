"""A workbench for the table of mistakes: small models and data, good until a row breaks one."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

CLASSES = 3
SAMPLES = 6


class Mistake(NamedTuple):
    """What a user does wrong, and what the library answers.

    Attributes:
        what: The mistake in plain words.
        do: Makes it, given a `Workbench`.
        message: Regular expression of the message.
        error: Class of the exception.
    """

    what: str
    do: Any
    message: str
    error: type[Exception] = ValueError


class Workbench:
    """Makes what a row needs.

    Args:
        path: An empty folder.
        patch: Sets environment variables for the time of a test.
        replicas: Returns a strategy of two replicas.
    """

    def __init__(self, path: Path, patch: pytest.MonkeyPatch, replicas: Any):
        self.path, self._patch, self._replicas = path, patch, replicas
        random = np.random.default_rng(0)
        self.images = random.normal(size=(SAMPLES, 8, 8, 1)).astype("float32")
        self.labels = np.arange(SAMPLES) % CLASSES

    # Models

    def net(self, classes=CLASSES, *, size=8, channels=1, activation=None, name=None, width=4):
        """Returns a network for images, with the taps stage1, embedding and logits."""
        inputs = keras.Input((size, size, channels))
        maps = keras.layers.Conv2D(width, 3, strides=2, name="stage1")(inputs)
        maps = keras.layers.Conv2D(width, 3, strides=2, name="stage2")(maps)
        embedding = keras.layers.GlobalAveragePooling2D(name="embedding")(maps)
        head = keras.layers.Dense(classes, activation=activation, name="logits")
        return keras.Model(inputs, head(embedding), name=name)

    def net_that_scales(self):
        """Returns a network of images from 0 to 255."""
        scale = keras.layers.Rescaling(1 / 255, name="scale")
        return keras.Sequential([keras.Input((8, 8, 1)), scale, self.net()], name="scaling")

    def with_exits(self, **arguments):
        """Returns a network with an exit."""
        return mr.models.exits(self.net(**arguments), ["stage1"])

    def peers(self, number=2, **arguments):
        """Returns networks by name."""
        return {name: self.net(**arguments) for name in "abcd"[:number]}

    # Distillers

    def distiller(self, *knowledge, teacher="default", student=None, **arguments):
        """Returns a distiller, by default of KD."""
        teacher = self.net(name="teacher") if isinstance(teacher, str) else teacher
        knowledge = list(knowledge) or [mr.Response("kd")]
        return mr.Distiller(
            student=student or self.net(), teacher=teacher, knowledge=knowledge, **arguments
        )

    def group(self, number=2, **arguments):
        """Returns a distiller of peers."""
        return mr.PeerDistiller(self.peers(number), **arguments)

    def modreduce(self, **arguments):
        """Returns a ModReduce of two students, one of which the teacher teaches."""
        given = {"knowledge": {"a": [mr.Response("kd")]}, **arguments}
        return mr.ModReduce(teacher=self.net(name="teacher"), students=self.peers(), **given)

    def compiled(self, distiller=None, **arguments):
        """Returns a distiller that is compiled with the cross-entropy of logits, step by step."""
        distiller = self.distiller() if distiller is None else distiller
        given = {"optimizer": "sgd", "loss": self.cross_entropy(), "run_eagerly": True, **arguments}
        distiller.compile(**given)
        return distiller

    def cross_entropy(self, **arguments):
        """Returns the loss on labels that are class indices."""
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **arguments)

    def fit(self, x=None, y="labels", *, distiller=None, **arguments):
        """Trains a distiller on the images, or on what is given instead."""
        distiller = self.compiled() if distiller is None else distiller
        x = self.images if x is None else x
        y = self.labels if isinstance(y, str) else y
        return distiller.fit(x, y, verbose=0, **arguments)

    # Data

    def dataset(self, x=None, y=None):
        """Returns single samples of images and labels."""
        x, y = (self.images if x is None else x), (self.labels if y is None else y)
        return tf.data.Dataset.from_tensor_slices((x, y))

    def resume(self, folder):
        """Returns the callback of a run in a folder."""
        return mr.callbacks.Resume(self.path / folder)

    def file(self, name, content):
        """Returns the path of a new file."""
        path = self.path / name
        path.write_bytes(content)
        return str(path)

    # Devices

    @property
    def replicas(self):
        """A strategy of two replicas."""
        return self._replicas()

    def multi_worker(self, config):
        """Asks for several machines in an environment."""
        text = config if isinstance(config, str) else json.dumps(config)
        self._patch.setenv("TF_CONFIG", text)
        return mr.distribute.strategy("multi_worker")
