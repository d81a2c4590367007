"""The distillation steps that the benchmarks compare with, as one writes them without a library.

Each is one `tf.function` of plain TensorFlow around the Keras models and the Keras optimizer:
the teacher's forward pass, the students' forward and backward pass, the update, and the running
means that a progress line shows. The losses follow the published code of their methods.
"""

from collections.abc import Callable, Mapping, Sequence
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
        return terms, {"accuracy": logits}

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
        return terms, {"accuracy": logits}

    return _compile(
        lambda images: tapped_teacher(images, training=False),
        compute_terms,
        {"ce": 1.0, "kd": 1.0, "hint": 100.0, "rkd_distance": 25.0, "rkd_angle": 50.0},
        student.trainable_variables + regressor.trainable_variables,
        optimizer,
        jit_compile,
    )


def branch_step(
    trunk: keras.Model,
    heads: Mapping[str, keras.Model],
    gate: keras.Model | None,
    optimizer: keras.Optimizer,
    jit_compile: bool = False,
) -> Step:
    """Returns the step of heads on one trunk that learn from their ensemble, at temperature 3.

    With a gate it is ONE's: the ensemble is weighted by the gate, which sees the trunk's output
    averaged over positions, and learns from the labels. Without one it is the heads' mean.
    """

    def compute_terms(images, labels, _):
        maps = trunk(images, training=True)
        logits = {name: head(maps, training=True) for name, head in heads.items()}
        stacked, terms = tf.stack(list(logits.values()), axis=1), {}
        if gate is None:
            ensemble = tf.reduce_mean(stacked, axis=1)
        else:
            scores = gate(tf.reduce_mean(maps, axis=[1, 2]), training=True)
            gates = tf.nn.softmax(tf.nn.relu(scores))
            ensemble = tf.einsum("bp,bpc->bc", gates, stacked)
            shares = tf.unstack(tf.reduce_mean(gates, axis=0))
            terms |= {f"{n}/ensemble_weight": s for n, s in zip(heads, shares, strict=True)}
        terms |= _peer_terms(labels, logits, ensemble, 3.0)
        return terms, _accuracies(logits, ensemble)

    variables = [v for part in (trunk, *heads.values()) for v in part.trainable_variables]
    weights = {f"{name}/{term}": 1.0 for name in heads for term in ("ce", "online")}
    weights["ensemble/ce"] = None if gate is None else 1.0
    if gate is not None:
        variables += gate.trainable_variables
        weights |= {f"{name}/ensemble_weight": None for name in heads}
    accuracies = [f"{name}/accuracy" for name in (*heads, "ensemble")]
    return _compile(
        lambda _: (), compute_terms, weights, variables, optimizer, jit_compile, accuracies
    )


def modreduce_step(
    students: Mapping[str, keras.Model],
    teacher: keras.Model,
    shares: keras.Variable,
    optimizer: keras.Optimizer,
    jit_compile: bool = False,
    online_weight: float = 0.5,
) -> Step:
    """Returns ModReduce's step with KD for every student and the weighted average of all.

    `shares` holds the weights of the average before their softmax, one for each student.
    """

    def compute_terms(images, labels, teacher_logits):
        logits = {name: student(images, training=True) for name, student in students.items()}
        stacked = tf.stop_gradient(tf.stack(list(logits.values()), axis=1))
        parts = tf.nn.softmax(tf.convert_to_tensor(shares))
        ensemble = tf.einsum("p,bpc->bc", parts, stacked)
        terms = _peer_terms(labels, logits, ensemble, 4.0)
        for name, part in zip(students, tf.unstack(parts), strict=True):
            terms[f"{name}/kd"] = kd(teacher_logits, logits[name])
            terms[f"{name}/ensemble_weight"] = part
        return terms, _accuracies(logits, ensemble)

    weights = {"ensemble/ce": 1.0}
    for name in students:
        weights |= {f"{name}/ce": 1.0 - online_weight, f"{name}/kd": 1.0 - online_weight}
        weights |= {f"{name}/online": online_weight, f"{name}/ensemble_weight": None}
    return _compile(
        lambda images: teacher(images, training=False),
        compute_terms,
        weights,
        [v for student in students.values() for v in student.trainable_variables] + [shares],
        optimizer,
        jit_compile,
        [f"{name}/accuracy" for name in (*students, "ensemble")],
    )


def _peer_terms(labels, logits, ensemble, temperature):
    """Returns what all peers have: the loss on labels, and that on the ensemble, a constant."""
    terms, target = {"ensemble/ce": cross_entropy(labels, ensemble)}, tf.stop_gradient(ensemble)
    for name, own in logits.items():
        terms[f"{name}/ce"] = cross_entropy(labels, own)
        terms[f"{name}/online"] = kd(target, own, temperature)
    return terms


def _accuracies(logits, ensemble):
    return {f"{name}/accuracy": own for name, own in {**logits, "ensemble": ensemble}.items()}


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
    compute_terms: Callable[..., tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]],
    weights: Mapping[str, float | None],
    variables: list[keras.Variable],
    optimizer: keras.Optimizer,
    jit_compile: bool,
    accuracies: Sequence[str] = ("accuracy",),
) -> Step:
    """Returns the step. A term whose weight is `None` is only logged."""
    means = {name: keras.metrics.Mean(name=name) for name in ("loss", *weights)}
    right = {name: keras.metrics.SparseCategoricalAccuracy(name=name) for name in accuracies}
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile)
    def step(images, labels):
        lesson = tf.nest.map_structure(tf.stop_gradient, run_teacher(images))
        with tf.GradientTape() as tape:
            terms, logits = compute_terms(images, labels, lesson)
            loss = tf.add_n([w * terms[name] for name, w in weights.items() if w is not None])
        optimizer.apply(tape.gradient(loss, variables), variables)
        for name, value in {"loss": loss, **terms}.items():
            means[name].update_state(value)
        for name, own in logits.items():
            right[name].update_state(labels, own)
        return {metric.name: metric.result() for metric in (*means.values(), *right.values())}

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
