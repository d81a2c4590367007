"""Tensor helpers that losses and aggregators share, in `keras.ops` only."""

from modreduce_keras.ops.maps import adaptive_average_pool, averaged_to, mask_at, pooled_to_match
from modreduce_keras.ops.positions import (
    along_positions,
    filled,
    masked_mean,
    mean_over_places,
    per_sample_mean,
    reduced,
    spread,
    zeroed,
)
from modreduce_keras.ops.probabilities import (
    bernoulli_divergence,
    kl_divergence,
    log_bernoulli,
    log_mixture,
    log_softmax_of_kept,
    tempered_divergence,
    tempered_log_softmax,
)
from modreduce_keras.ops.safe import safe_reciprocal, safe_sqrt, smooth_l1
from modreduce_keras.ops.tensors import as_list, flatten, float32, scale_gradient
from modreduce_keras.ops.vectors import (
    centred,
    directions,
    pairwise_squared_distances,
    standardized,
    unit,
)

__all__ = [
    "adaptive_average_pool",
    "along_positions",
    "as_list",
    "averaged_to",
    "centred",
    "directions",
    "filled",
    "flatten",
    "float32",
    "kl_divergence",
    "bernoulli_divergence",
    "log_bernoulli",
    "log_mixture",
    "log_softmax_of_kept",
    "mask_at",
    "masked_mean",
    "mean_over_places",
    "pairwise_squared_distances",
    "per_sample_mean",
    "pooled_to_match",
    "reduced",
    "safe_reciprocal",
    "safe_sqrt",
    "scale_gradient",
    "smooth_l1",
    "spread",
    "standardized",
    "tempered_divergence",
    "tempered_log_softmax",
    "unit",
    "zeroed",
]
