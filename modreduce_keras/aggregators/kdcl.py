"""KDCL: every peer learns from the best target that the peers' logits and the labels give."""

import math
from typing import Any

import numpy as np
from keras import ops

from modreduce_keras.aggregators.base import Aggregator
from modreduce_keras.arguments import require_choice
from modreduce_keras.labels import distributions, in_range
from modreduce_keras.output_kind import CLASSES
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor

# The barrier falls from 1 to this in as many steps: for P peers the loss is then about P times
# this above the smallest.
_BARRIER = 1e-7
_STEPS = 35
# Of a Newton step; the last is where it stands, so that no step makes it worse.
_LENGTHS = np.append(0.5 ** np.arange(12), 0.0)


@register("aggregator", "kdcl")
class KDCL(Aggregator):
    """Collaborative learning: the best target that the peers give for each labelled example.

    - naive: t = z_k with k = argmin_i CE(z_i, y)
    - linear: t = Σ_i α_i z_i with α = argmin CE(Σ_i α_i z_i, y) over α_i ≥ 0, Σ_i α_i = 1
    - min logit: t_c = min_i (z_ic - z_iy)

    Naive and linear also take labels that are probabilities of the classes (mixed, smoothed), with
    the cross-entropy CE(z, y) = log Σ_c exp(z_c) - Σ_c y_c z_c; min logit needs one class for each
    example.

    All peers learn from the same target. There is no ensemble: because the target depends on the
    labels, its accuracy would be meaningless. In the paper each peer sees its own augmented view
    (`student_inputs` of `mr.PeerDistiller`).

    Args:
        rule: `"naive"`, `"linear"` or `"min_logit"`, the default.
        name: See `Aggregator`.
        dtype: See `Aggregator`.
        trainable: See `Aggregator`.

    Call arguments:
        logits: (batch, peers, classes).
        labels: Class indices, (batch,), int; or probabilities, (batch, classes), but for min logit.

    Returns:
        `targets` (batch, peers, classes).

    Raises:
        ValueError: If the rule is unknown, or no labels come or one that is not a class. In a
            graph, where values are not known, the targets of such an example are NaN.

    Example:
        >>> import numpy as np
        >>> logits = np.array([[[5.0, 1.0, 4.5], [3.0, 2.0, 0.0]]])
        >>> for rule in ("naive", "min_logit"):
        ...     KDCL(rule=rule)(logits, labels=np.array([0]))["targets"][0, 0].numpy().tolist()
        [3.0, 2.0, 0.0]
        [0.0, -4.0, -3.0]

    Reference:
        Guo et al., Online Knowledge Distillation via Collaborative Learning, 2020. Its rule
        "general", weights from the errors on held-out data after each epoch, is not here.
        "linear" is solved by Newton's method with a logarithmic barrier; the paper does not say
        how.
    """

    needs = ("labels",)
    output_kinds = (CLASSES,)

    def __init__(
        self,
        *,
        rule: str = "min_logit",
        name: str | None = None,
        dtype: Any = "float32",
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.rule = require_choice("rule", rule, RULES)
        # The cross-entropy is defined for them, a margin to the labelled class is not.
        self.takes_soft_labels = rule != "min_logit"

    def call(self, logits: Tensor, labels: Tensor | None = None) -> Tensor:
        labels = ops.convert_to_tensor(self.required("labels", labels))
        if len(labels.shape) == 2 and self.takes_soft_labels:
            labels = distributions(labels, type(self).__name__)
            valid = ops.logical_not(ops.isnan(labels[:, 0]))
            labelled = ops.einsum("bc,bpc->bp", ops.where(valid[:, None], labels, 0.0), logits)
            above = logits - ops.expand_dims(labelled, -1)
        else:
            labels = ops.cast(labels, "int32")
            labels, valid = in_range(labels, logits.shape[-1], type(self).__name__)
            # Above the labelled class: its own logit is zero.
            above = logits - ops.take_along_axis(logits, labels[:, None, None], axis=2)
        target = RULES[self.rule](above, logits)
        if valid is not None:
            target = ops.where(ops.expand_dims(valid, 1), target, math.nan)
        return {"targets": self.same_for_all(target, logits)["targets"]}


def _best_peer(above: Tensor, logits: Tensor) -> Tensor:
    """Returns the logits of the peer of the smallest cross-entropy."""
    best = ops.argmin(ops.logsumexp(ops.stop_gradient(above), axis=2), axis=1)
    return _mixed(ops.one_hot(best, above.shape[1]), logits)


def _best_mixture(above: Tensor, logits: Tensor) -> Tensor:
    """Returns the mixture of the peers' logits of the smallest cross-entropy."""
    return _mixed(smallest_loss(ops.stop_gradient(above)), logits)


def _mixed(shares: Tensor, logits: Tensor) -> Tensor:
    return ops.einsum("bp,bpc->bc", shares, logits)


def _smallest_margins(above: Tensor, logits: Tensor) -> Tensor:
    """Returns the smallest of the peers' logits above the labelled class, class by class."""
    return ops.min(above, axis=1)


RULES = {"naive": _best_peer, "linear": _best_mixture, "min_logit": _smallest_margins}


def smallest_loss(above: Tensor) -> Tensor:
    """Returns the α that minimizes log Σ_c exp(Σ_i α_i above_ic) where α ≥ 0 and Σ_i α_i = 1.

    The problem is convex. Newton's method with a logarithmic barrier that vanishes, and of all
    step lengths tried the best one, so that it also holds where the loss has kinks. In float64:
    near a corner of the simplex, the barrier curves far more than the loss.

    Args:
        above: (batch, peers, classes).

    Returns:
        (batch, peers), of the dtype of `above`.
    """
    dtype, peers = above.dtype, above.shape[1]
    above = ops.cast(above, "float64")

    def barred(shares: Tensor, barrier: Any) -> Tensor:
        # (trials, batch, peers) -> (trials, batch)
        loss = ops.logsumexp(ops.einsum("tbp,bpc->tbc", shares, above), axis=-1)
        return loss - barrier * ops.sum(ops.log(shares), axis=-1)

    def improve(step: Tensor, shares: Tensor) -> Tensor:
        barrier = _BARRIER ** (ops.cast(step, "float64") / (_STEPS - 1))
        probabilities = ops.softmax(ops.einsum("bp,bpc->bc", shares, above))
        slope = ops.einsum("bc,bpc->bp", probabilities, above)
        # In units of the shares themselves, where the barrier's curvature is the same for all.
        scaled = ops.expand_dims(shares, 2) * (above - ops.expand_dims(slope, 2))
        curvature = ops.einsum("bc,bpc,bqc->bpq", probabilities, scaled, scaled)
        curvature = curvature + barrier * ops.eye(peers, dtype="float64")
        sides = ops.stack([shares * slope - barrier, shares], axis=2)
        solved = ops.solve(curvature, sides)
        free, along = solved[:, :, 0], solved[:, :, 1]
        excess = ops.sum(shares * free, axis=1, keepdims=True)
        relative = excess / ops.sum(shares * along, axis=1, keepdims=True) * along - free
        steepest = ops.max(-relative, axis=1, keepdims=True)
        # Up to 0.99 of the way on which the first share would vanish.
        longest = 0.99 / ops.maximum(steepest, 0.99)
        lengths = ops.expand_dims(longest, 0) * _LENGTHS[:, None, None]
        tried = shares * (1.0 + lengths * relative)
        best = ops.argmin(barred(tried, barrier), axis=0)
        chosen = ops.take_along_axis(tried, best[None, :, None], axis=0)[0]
        return chosen / ops.sum(chosen, axis=1, keepdims=True)

    start = ops.ones_like(above[:, :, 0]) / peers
    return ops.cast(ops.fori_loop(0, _STEPS, improve, start), dtype)
