"""Losses of generators that are trained against a teacher, without data: pure functions."""

import math

from keras import ops

from modreduce_keras.distribute import sum_over_replicas
from modreduce_keras.ops import float32, kl_divergence, tempered_log_softmax
from modreduce_keras.typing import Tensor


def adversarial_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """Returns what a generator minimizes to find where student and teacher differ (ZSKT).

        -KL(softmax(z_t) ‖ softmax(z_s))

    Args:
        teacher: Logits z_t of the teacher for the generated images, (batch, classes).
        student: Logits z_s of the student for the same.

    Returns:
        (batch,), float32.

    Reference:
        Micaelli and Storkey, Zero-shot Knowledge Transfer via Adversarial Belief Matching, 2019.
    """
    log_teacher = tempered_log_softmax(float32(teacher), 1.0)
    return -kl_divergence(log_teacher, tempered_log_softmax(float32(student), 1.0))


def one_hot_loss(logits: Tensor) -> Tensor:
    """Returns how unsure the teacher is of its own prediction (DAFL).

        -log p_c with p = softmax(z_t) and c = argmax p

    Args:
        logits: Of the teacher for the generated images, (batch, classes).

    Returns:
        (batch,), float32, not negative.
    """
    logits = float32(logits)
    return ops.logsumexp(logits, axis=-1) - ops.max(logits, axis=-1)


def activation_loss(features: Tensor, variant: str = "reference") -> Tensor:
    """Returns how little the generated images activate the teacher (DAFL).

        -mean |f|, or -Σ |f| in the paper

    Args:
        features: What the teacher's classifier reads, (batch, units).
        variant: `"reference"`: the mean over the units, as in the authors' code. `"paper"`: their
            sum.

    Returns:
        (batch,), float32, not positive.
    """
    sizes = ops.abs(float32(features))
    axes = tuple(range(1, len(sizes.shape)))
    return -(ops.sum if variant == "paper" else ops.mean)(sizes, axis=axes)


def information_loss(logits: Tensor, variant: str = "reference") -> Tensor:
    """Returns how unevenly a batch is spread over the classes (DAFL).

        Σ_c m_c log10 m_c with m = mean of softmax(z_t) over the batch;
        1 / classes · Σ_c m_c log m_c in the paper

    It is smallest where all classes are generated equally often. With several replicas, m is the
    mean over the batch of all of them.

    Args:
        logits: Of the teacher for the generated images, (batch, classes).
        variant: `"reference"`: as in the authors' code. `"paper"`: as in the equation.

    Returns:
        (batch,), float32, the same value for each.
    """
    probabilities = ops.exp(tempered_log_softmax(float32(logits), 1.0))
    count = sum_over_replicas(ops.cast(ops.shape(probabilities)[0], "float32"))
    mean = sum_over_replicas(ops.sum(probabilities, axis=0)) / ops.maximum(count, 1.0)
    # At 0 the value is 0, and the gradient is finite.
    value = ops.sum(mean * ops.log(ops.maximum(mean, 1e-30)))
    value /= mean.shape[0] if variant == "paper" else math.log(10.0)
    return value + ops.zeros_like(probabilities[:, 0])
