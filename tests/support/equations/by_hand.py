"""Losses in plain TensorFlow, for steps that are written by hand."""

import keras
import tensorflow as tf


def cross_entropy(labels, logits):
    """Returns the mean cross-entropy of logits with class indices."""
    log_p = tf.nn.log_softmax(logits)
    return -tf.reduce_mean(tf.gather(log_p, labels, axis=1, batch_dims=1))


def kl(target, logits, temperature):
    """Returns T² KL(target ‖ softmax(z / T)), of probabilities that are the target."""
    log_ratio = tf.math.log(target) - tf.nn.log_softmax(logits / temperature)
    return temperature**2 * tf.reduce_mean(tf.reduce_sum(target * log_ratio, axis=1))


def kd(target, logits, temperature):
    """Returns the same of logits that are the target, which are constants."""
    return kl(tf.nn.softmax(tf.stop_gradient(target) / temperature), logits, temperature)


def huber(difference):
    """Returns the mean of x² / 2 near zero and of |x| - 1/2 beyond one."""
    size = tf.abs(difference)
    return tf.reduce_mean(tf.where(size < 1, difference**2 / 2, size - 0.5))


def distances(embedding):
    """Returns all pairwise distances the direct way, over their mean off the diagonal."""
    difference = embedding[:, None] - embedding[None]
    diagonal = tf.eye(len(embedding), dtype=embedding.dtype)
    squared = tf.reduce_sum(difference**2, axis=-1) + diagonal
    distance = tf.sqrt(squared) * (1.0 - diagonal)
    return distance / (tf.reduce_sum(distance) / tf.reduce_sum(1.0 - diagonal))


def copy_of(model):
    """Returns another model of the same architecture and weights."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy
