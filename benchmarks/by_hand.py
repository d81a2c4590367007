"""The distillation steps that the benchmarks compare with, as one writes them without a library.

Each is one `tf.function` of plain TensorFlow around the Keras models and the Keras optimizer:
the teacher's forward pass, the student's forward and backward pass, the update, and the running
means that a progress line shows. The losses follow the published code of their methods.
"""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

Step = Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]


def kd_step(
    student: keras.Model,
    teacher: keras.Model,
    optimizer: keras.Optimizer,
    jit_compile: bool = False,
) -> Step:
    """Returns the step of Hinton's distillation: cross-entropy plus KD at temperature 4."""

    def compute_terms(images, labels, teacher_logits):
        logits = student(images, training=True)
        terms = {"ce": cross_entropy(labels, logits), "kd": kd(teacher_logits, logits)}
        return terms, logits

    return _compile(
        lambda images: teacher(images, training=False),
        compute_terms,
        {"ce": 1.0, "kd": 1.0},
        student.trainable_variables,
        optimizer,
        jit_compile,
    )


def kd_hint_rkd_step(
    student: keras.Model,
    teacher: keras.Model,
    regressor: keras.Model,
    optimizer: keras.Optimizer,
    jit_compile: bool = False,
) -> Step:
    """Returns the step of KD with FitNets' hint at `"stage2"` and both RKD losses."""
    tapped_student, tapped_teacher = (
        keras.Model(
            model.input,
            [model.output, model.get_layer("stage2").output, model.get_layer("embedding").output],
        )
        for model in (student, teacher)
    )

    def compute_terms(images, labels, teacher_outputs):
        teacher_logits, teacher_maps, teacher_embedding = teacher_outputs
        logits, maps, embedding = tapped_student(images, training=True)
        regressed = regressor(maps, training=True)
        terms = {
            "ce": cross_entropy(labels, logits),
            "kd": kd(teacher_logits, logits),
            "hint": tf.reduce_mean(tf.square(regressed - teacher_maps)),
            "rkd_distance": rkd_distance(teacher_embedding, embedding),
            "rkd_angle": rkd_angle(teacher_embedding, embedding),
        }
        return terms, logits

    return _compile(
        lambda images: tapped_teacher(images, training=False),
        compute_terms,
        {"ce": 1.0, "kd": 1.0, "hint": 100.0, "rkd_distance": 25.0, "rkd_angle": 50.0},
        student.trainable_variables + regressor.trainable_variables,
        optimizer,
        jit_compile,
    )


def hint_regressor(channels_in: int, channels_out: int) -> keras.Model:
    """Returns FitNets' regressor between maps of equal size: 1×1 convolution, norm, ReLU."""
    return keras.Sequential(
        [
            keras.Input((None, None, channels_in)),
            keras.layers.Conv2D(channels_out, 1),
            keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
            keras.layers.ReLU(),
        ]
    )


def _compile(
    run_teacher: Callable[[tf.Tensor], Any],
    compute_terms: Callable[..., tuple[dict[str, tf.Tensor], tf.Tensor]],
    weights: Mapping[str, float],
    variables: list[keras.Variable],
    optimizer: keras.Optimizer,
    jit_compile: bool,
) -> Step:
    means = {name: keras.metrics.Mean(name=name) for name in ("loss", *weights)}
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile)
    def step(images, labels):
        lesson = tf.nest.map_structure(tf.stop_gradient, run_teacher(images))
        with tf.GradientTape() as tape:
            terms, logits = compute_terms(images, labels, lesson)
            loss = tf.add_n([weights[name] * terms[name] for name in weights])
        optimizer.apply(tape.gradient(loss, variables), variables)
        for name, value in {"loss": loss, **terms}.items():
            means[name].update_state(value)
        accuracy.update_state(labels, logits)
        return {metric.name: metric.result() for metric in (*means.values(), accuracy)}

    return step


def cross_entropy(labels, logits):
    """Returns the mean cross-entropy of logits and integer labels."""
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    )


def kd(teacher, student, temperature=4.0):
    """Returns T² KL(teacher ‖ student) of the softened probabilities, averaged over the batch."""
    log_teacher = tf.nn.log_softmax(teacher / temperature)
    log_student = tf.nn.log_softmax(student / temperature)
    divergence = tf.reduce_sum(tf.exp(log_teacher) * (log_teacher - log_student), axis=-1)
    return temperature**2 * tf.reduce_mean(divergence)


def rkd_distance(teacher, student):
    """Returns RKD's loss on the distances, each divided by the mean distance."""

    def relations(embeddings):
        distances = pairwise_distances(embeddings)
        apart = tf.cast(distances > 0, "float32")
        return distances * tf.reduce_sum(apart) / tf.reduce_sum(distances)

    return tf.reduce_mean(smooth_l1(relations(student) - relations(teacher)))


def pairwise_distances(embeddings, epsilon=1e-12):
    """Returns the Euclidean distances of all pairs of rows, (batch, batch), by the Gram matrix."""
    gram = tf.matmul(embeddings, embeddings, transpose_b=True)
    norms = tf.reduce_sum(tf.square(embeddings), axis=1)
    squared = tf.maximum(norms[:, None] + norms[None, :] - 2 * gram, epsilon)
    return tf.sqrt(squared) * (1 - tf.eye(tf.shape(embeddings)[0]))


def rkd_angle(teacher, student):
    """Returns RKD's loss on the angles of all triplets, as published.

    It normalizes the (batch, batch, features) differences; ours needs no such tensor.
    """

    def relations(embeddings):
        differences = embeddings[None, :, :] - embeddings[:, None, :]
        norms = tf.sqrt(tf.reduce_sum(tf.square(differences), axis=2, keepdims=True) + 1e-24)
        directions = differences / tf.maximum(norms, 1e-12)
        return tf.matmul(directions, directions, transpose_b=True)

    return tf.reduce_mean(smooth_l1(relations(student) - relations(teacher)))


def smooth_l1(difference):
    """Returns ½ d² where |d| < 1 and |d| - ½ elsewhere."""
    magnitude = tf.abs(difference)
    return tf.where(magnitude < 1, 0.5 * tf.square(difference), magnitude - 0.5)
