"""The base of the losses on attention maps, and of what is computed like one."""

import functools
from typing import Any

from keras import ops

from modreduce_keras.losses.base import Loss, fits
from modreduce_keras.ops import kl_divergence, log_softmax_of_kept
from modreduce_keras.typing import Mask, Tensor


class AttentionLoss(Loss):
    """Base class of the losses on attention maps, (batch, heads, queries, keys).

    They are read by taps such as `"encoder_2/attention_logits"`; see `mr.TapReader`. Queries and
    keys are the same tokens for both models. Where the numbers of heads differ, both sides are
    averaged over their heads, so that one map is compared with one; this is ours, as the papers
    have equal numbers.

    Pairs of a query and a key that a model hides by its own mask do not count: those with padded
    tokens, and with later ones in a language model. A mask that is given is of the tokens,
    (batch, tokens), for queries and, where there are as many, for keys; or of the pairs,
    (batch, queries, keys), as cross-attention of texts of one length needs it. It holds beside the
    models' own.

    Raises:
        ValueError: If a feature is not an attention map, or the queries or keys are not as many.
    """

    one_feature = True
    over_positions = "mean"

    @staticmethod
    def positions(shape: Any) -> tuple:
        return tuple(shape)[2:]

    @staticmethod
    def given_with_own(given: Tensor, own: Any, feature: Tensor) -> Tensor:
        several = [given, *(mask for mask in own if mask is not None)]
        if len(feature.shape) != 4 or not all(_is_of(mask, feature) for mask in several):
            return given  # what does not fit is told where it is used
        return functools.reduce(ops.logical_and, [_pairs(mask, feature) for mask in several])

    def _require_mask(self, mask: Tensor, student: Tensor) -> None:
        shape = tuple(student.shape)
        if len(shape) != 4 or not _is_of(mask, student):
            raise ValueError(
                f"{type(self).__name__} needs a mask with one value for each token, (batch, "
                "queries), or for each pair, (batch, queries, keys). Received: a mask of shape "
                f"{tuple(mask.shape)} and a student of shape {shape} (batch, heads, queries, keys)"
            )

    def _masked(self, teacher: Tensor, student: Tensor, mask: Mask) -> Any:
        mask = ops.cast(ops.convert_to_tensor(mask), "bool")
        self._require_mask(mask, student)
        pairs = _pairs(mask, student)
        teacher, student = (ops.where(pairs[:, None], side, 0.0) for side in (teacher, student))
        return teacher, student, pairs

    def maps(self, teacher: Tensor, student: Tensor) -> None:
        """Raises unless both sides are attention maps of the same tokens."""
        self.require(
            len(teacher.shape) == len(student.shape) == 4
            and fits(tuple(teacher.shape)[2:], tuple(student.shape)[2:]),
            "attention maps (batch, heads, queries, keys) of the same tokens, by a tap such as "
            "'encoder_2/attention_logits'",
            teacher,
            student,
        )


def _is_of(mask: Tensor, feature: Tensor) -> bool:
    """Returns whether a mask is of the queries of an attention map, or of its pairs."""
    batch, _, queries, keys = feature.shape
    return fits(mask.shape, (batch, queries)) or fits(mask.shape, (batch, queries, keys))


def _pairs(mask: Tensor, feature: Tensor) -> Tensor:
    """Returns the mask of the pairs, (batch, queries, keys), from one of pairs or of tokens."""
    if len(mask.shape) == 3:
        return mask
    queries, keys = feature.shape[2:]
    every = ops.ones_like(feature[:, 0], dtype="bool")
    other = mask[:, None, :] if queries == keys else every
    return ops.logical_and(mask[:, :, None], other)


def distributions_apart(teacher: Tensor, student: Tensor, kept: Tensor | None = None) -> Tensor:
    """Returns the divergence of the student's distributions over keys, averaged over heads.

    Args:
        teacher: Logits, (batch, heads, queries, keys).
        student: Logits. Where it has another number of heads, the averages of the distributions
            over heads are compared.
        kept: Mask that broadcasts to (batch, queries, keys), of the keys that count.

    Returns:
        KL(teacher ‖ student), (batch, queries).
    """
    kept = None if kept is None else kept[:, None]
    logs = [log_softmax_of_kept(logits, kept) for logits in (teacher, student)]
    if teacher.shape[1] != student.shape[1]:
        logs = [
            ops.logsumexp(log, axis=1, keepdims=True) - ops.log(1.0 * log.shape[1]) for log in logs
        ]
    return ops.mean(kl_divergence(*logs), axis=1)
