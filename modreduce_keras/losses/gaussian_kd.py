"""Gaussian distillation: of a regression that predicts a mean and a variance."""

from typing import Any

from keras import ops

from modreduce_keras.arguments import require_choice, require_number
from modreduce_keras.losses.response_base import ResponseLoss
from modreduce_keras.output_kind import REGRESSION
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor

LOG, SOFTPLUS = "log", "softplus"


@register("loss", "gaussian_kd")
class GaussianKD(ResponseLoss):
    """Distillation of a heteroscedastic regression: the divergence of two normal distributions.

    KL(N(m_t, v_t) ‖ N(m_s, v_s)) = ½ Σ_d [log v_s - log v_t + (v_t + (m_t - m_s)²) / v_s - 1]

    The first half of the outputs are the means m of the numbers, and the second half what their
    variances v are made of: v = exp(r) + ε, or softplus(r) + ε. Both networks are trained on the
    labels by the Gaussian negative log likelihood, ½ Σ_d [log v + (y - m)² / v].

    Where the teacher is unsure of itself, the student learns so, instead of its mean exactly. Of
    several teachers, the outputs are averaged: the means m, and what the variances are made of.

    Args:
        variance: `"log"`, the default: r is the log variance; or `"softplus"`.
        least_variance: ε, a positive number, below which no variance falls. Defaults to 1e-6.
        name: Name of the loss. Defaults to `"gaussian_kd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Outputs of teacher and student, (batch, ..., 2 · numbers); see
            `ResponseLoss`.

    Returns:
        (batch,), float32; 0 where both give the same distribution.

    Raises:
        ValueError: If an argument is out of range, the shapes differ, or the outputs are of an odd
            number.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 0.0]]), np.array([[3.0, 0.0]])  # variances of 1
        >>> round(float(GaussianKD()(teacher, student)), 4)
        2.0

    Reference:
        Nix and Weigend, Estimating the Mean and Variance of the Target Probability Distribution,
        1994, for the network; Kendall and Gal, What Uncertainties Do We Need in Bayesian Deep
        Learning for Computer Vision?, 2017, for the log variance, and Lakshminarayanan, Pritzel and
        Blundell, Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, 2017,
        for softplus and ε. The divergence is the knowledge distillation of Hinton et al., 2015,
        of normal distributions instead of classes; the weight is ours.
    """

    least_classes = 1
    output_kinds = (REGRESSION,)
    independent_positions = True

    def __init__(
        self,
        *,
        variance: str = LOG,
        least_variance: float = 1e-6,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.variance = require_choice("variance", variance, (LOG, SOFTPLUS))
        self.least_variance = require_number("least_variance", least_variance, above=0)

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        self.require(
            student.shape[-1] % 2 == 0,
            "as many variances as means, (batch, ..., 2 · numbers)",
            teacher,
            student,
        )
        (mean_t, variance_t), (mean_s, variance_s) = map(self._moments, (teacher, student))
        difference = ops.log(variance_t) - ops.log(variance_s)
        far = ops.square(mean_t - mean_s) / variance_s
        return 0.5 * ops.sum(ops.expm1(difference) - difference + far, axis=-1)

    def _moments(self, outputs: Tensor) -> tuple[Any, Any]:
        """Returns the means and the variances."""
        mean, raw = ops.split(outputs, 2, axis=-1)
        positive = ops.exp(raw) if self.variance == LOG else ops.softplus(raw)
        return mean, positive + self.least_variance
