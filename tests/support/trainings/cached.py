"""Data with views, and a small teacher, for the tests of teacher caches."""

import keras
import numpy as np
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.data import shards
from modreduce_keras.data.epochs import in_epoch

VIEWS, SAMPLES, BATCH = 3, 12, 4
IMAGES = np.random.default_rng(0).normal(size=(SAMPLES, 8, 8, 1)).astype("float32")
LABELS = np.arange(SAMPLES) % 3


def noisy(seed, x, y):
    noise = tf.random.stateless_normal((8, 8, 1), seed)
    return {**x, "inputs": x["inputs"] + noise}, y


def data(images=IMAGES, augmentations=VIEWS, seed=5, batch=BATCH):
    samples = mr.data.with_index(tf.data.Dataset.from_tensor_slices((images, LABELS)))
    arguments = {"augment": noisy, "augmentations": augmentations} if augmentations else {}
    return mr.data.epoch_shuffle(samples, seed=seed, **arguments).batch(batch)


def net(seed=1, **arguments):
    keras.utils.set_random_seed(seed)
    sizes = {"num_classes": 3, "widths": (6, 8), "input_shape": (8, 8, 1)}
    return mr.models.get("convnet", **sizes, **arguments)


def batches(dataset, epoch):
    with in_epoch(epoch):
        return list(dataset)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lesson(batch):
    (given,) = batch[0]["teacher_outputs"].values()
    return given["logits"].numpy(), given["features"]["stage2"].numpy()


def outputs_of(shard):
    """Returns all outputs of a shard, (rows, ...) each."""
    number = len(shard.samples)
    return shards.Rows([shard], shard.view + 1).take(np.zeros(number, int), np.arange(number))
