"""Low rank: splits large kernels into two thin ones by their SVD."""

from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.arguments import require_integer, require_number
from modreduce_keras.copying import copy_state
from modreduce_keras.models.choosing import chosen, require_plain
from modreduce_keras.models.clones import draws_kept, rebuilt, unfrozen
from modreduce_keras.models.kernels import LOW_RANK
from modreduce_keras.models.splitting import Part, Splitter

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D)
_ROUNDING = 1e-10
"""Part of the energy that is noise of float32."""


def low_rank(
    model: keras.Model,
    *,
    energy: float | None = None,
    rank: int | None = None,
    layers: Any = None,
) -> keras.Model:
    """Builds a copy of a model in which large kernels are products of two thin ones.

    The kernel of a dense layer, and of a convolution as a matrix of (positions · inputs, outputs),
    is cut to its r largest singular values:

        W = U S Vᵀ ≈ (U_r √S_r) (√S_r V_rᵀ)

    A dense layer becomes one of r units, without a bias, and one with the second factor; a
    convolution becomes one of r filters of its size, and one of size 1. The second layer has the
    name, the bias and the activation of the original one, and the first layer has that name with
    `_low`. If the classifier is split, the tap `"embedding"` is the input of its first layer.
    Layers that would not need fewer multiply-adds stay as they are.

    Train the result further with the model as its teacher. All of its layers are trainable, also
    those that are frozen in the model.

    Args:
        model: A functional or a built Sequential model; others in it may be nested.
        energy: Share of the sum of squared singular values to keep, above 0 and at most 1; r is the
            smallest number that does.
        rank: Instead of `energy`: the number r for all layers.
        layers: Which layers: a list of names, paths, patterns (`"stage*"`) and classes. Defaults
            to all of `Dense`, `Conv1D` and `Conv2D`. Those with groups, LoRA or a constraint on
            the kernel stay as they are, and those inside of other layers; a warning names
            subclassed layers and models around kernels, and layers with LoRA.

    Returns:
        A functional model, which is loaded without this library.

    Raises:
        TypeError: If the model is not a Keras model.
        ValueError: If its layers cannot be rebuilt, or it is pruned, clustered or
            quantization-aware; if no layer would need fewer multiply-adds; or if an argument is out
            of range.

    Example:
        >>> import modreduce_keras as mr
        >>> teacher = mr.models.get("convnet", num_classes=3, widths=(16, 32))
        >>> student = mr.models.low_rank(teacher, rank=8)
        >>> [layer.name for layer in student.layers if "conv" in layer.name]
        ['stage1_conv', 'stage2_conv_low', 'stage2_conv']
        >>> 3 * mr.evaluation.multiply_adds(student) < 2 * mr.evaluation.multiply_adds(teacher)
        True

    Reference:
        Denton et al., Exploiting Linear Structure Within Convolutional Networks for Efficient
        Evaluation, 2014; Zhang et al., Accelerating Very Deep Convolutional Networks for
        Classification and Detection, 2016 (k × k, then 1 × 1; there the factors also make up for
        the errors of earlier layers).
    """
    require_plain(model, "model")
    _require_one(energy, rank)
    given = [layer for layer in chosen(model, layers, "model") if _can_be_split(layer)]
    factors = {id(layer): found for layer in given if (found := _saving(layer, energy, rank))}
    if not factors:
        raise ValueError(
            "model must have layers that take fewer multiply-adds as two thin ones: take a lower "
            f"energy or rank, or name others. Received: {model.name!r}, {energy=}, {rank=}, "
            f"{layers=}"
        )
    with draws_kept():
        return unfrozen(_Splitter(factors).split(model))


def factors_of(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the two factors of the nearest matrix of a rank, (rows, rank) and (rank, columns).

    Args:
        matrix: (rows, columns).
        rank: At most the smaller of these.
    """
    left, values, right = np.linalg.svd(np.asarray(matrix, "float64"), full_matrices=False)
    roots = np.sqrt(values[:rank])
    return left[:, :rank] * roots, roots[:, None] * right[:rank]


def rank_of(matrix: np.ndarray, energy: float) -> int:
    """Returns how many of a matrix's largest singular values have a share of all their squares."""
    squares = np.linalg.svd(np.asarray(matrix, "float64"), compute_uv=False) ** 2
    shares = np.cumsum(squares) / max(squares.sum(), np.finfo("float64").tiny)
    return int(np.searchsorted(shares, min(energy, 1.0) - _ROUNDING) + 1)


def _can_be_split(layer: keras.layers.Layer) -> bool:
    kinds = (keras.layers.Dense, *_CONVOLUTIONS)
    plain = type(layer) in kinds and layer.kernel_constraint is None
    return plain and getattr(layer, "groups", 1) == 1


def _saving(
    layer: keras.layers.Layer, energy: float | None, rank: int | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the factors of a layer's kernel, or `None` where they save nothing."""
    kernel = ops.convert_to_numpy(layer.kernel)
    matrix = kernel.reshape(-1, kernel.shape[-1])
    wanted = rank_of(matrix, energy) if energy is not None else int(rank or 0)
    if wanted * sum(matrix.shape) >= matrix.size:
        return None
    return factors_of(matrix, wanted)


class _Splitter(Splitter):
    """Copies a model and those nested in it, with two layers in the place of some.

    Args:
        factors: The factors of kernels, by the `id` of their layer.
    """

    def __init__(self, factors: dict[int, tuple[np.ndarray, np.ndarray]]) -> None:
        super().__init__()
        self._factors = factors

    def part(self, layer: keras.Operation) -> Part:
        if isinstance(layer, keras.Model) and getattr(layer, "inputs", None):
            return self.split(layer)
        if id(layer) in self._factors:
            return self._two(layer, *self._factors[id(layer)])
        copy = rebuilt(layer)
        if isinstance(layer, keras.layers.Layer):
            self.give_states.append(lambda: copy_state(layer, copy))
        return copy

    def _two(self, layer: Any, first: np.ndarray, second: np.ndarray) -> Part:
        low = rebuilt(layer, lambda config: _first_config(layer, config, first.shape[1]))
        last = rebuilt(layer, lambda config: _second_config(layer, config))

        def give_weights() -> None:
            window = layer.kernel.shape[:-1]
            low.set_weights([first.reshape(*window, -1)])
            bias = [ops.convert_to_numpy(layer.bias)] if layer.use_bias else []
            last.set_weights([second.reshape(*last.kernel.shape), *bias])

        self.give_states.append(give_weights)
        return lambda inputs, **_: last(low(inputs))


def _first_config(layer: Any, config: dict[str, Any], rank: int) -> dict[str, Any]:
    size = "filters" if type(layer) in _CONVOLUTIONS else "units"
    without = dict.fromkeys(("activity_regularizer", "bias_regularizer", "bias_constraint"))
    own = {"name": f"{layer.name}{LOW_RANK}", "use_bias": False, "activation": "linear"}
    return {**config, **without, **own, size: rank}


def _second_config(layer: Any, config: dict[str, Any]) -> dict[str, Any]:
    if type(layer) not in _CONVOLUTIONS:
        return config
    return {**config, "kernel_size": 1, "strides": 1, "padding": "valid", "dilation_rate": 1}


def _require_one(energy: Any, rank: Any) -> None:
    if (energy is None) == (rank is None):
        raise ValueError(
            "Give one of energy=, the share of the squared singular values that is kept, and "
            f"rank=, their number. Received: {energy=}, {rank=}"
        )
    require_integer("rank", rank, optional=True)
    if energy is not None and require_number("energy", energy, above=0.0) > 1.0:
        raise ValueError(f"energy must be at most 1. Received: {energy=}")
