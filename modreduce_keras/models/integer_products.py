"""Integer products: dense layers and products along any axes as int8 files compute them."""

from typing import Any, NamedTuple

import keras
from keras import ops

from modreduce_keras.models.splitting import Part


class Projection(NamedTuple):
    """A dense layer along the last axes of its inputs.

    Attributes:
        inputs: How many axes it sums along.
        outputs: How many axes its results have instead.
    """

    inputs: int
    outputs: int


def projection_of(layer: keras.layers.EinsumDense) -> Projection | None:
    """Returns which axes a layer projects, if these are the last ones, in their order."""
    given, kernel, result = _letters(layer.equation) or ("", "", "")
    summed = [one for one in kernel if one not in result]
    made = [one for one in kernel if one in result]
    free = given[: len(given) - len(summed)]
    is_plain = (
        bool(summed)
        and given == free + "".join(summed)
        and result == free + "".join(made)
        and kernel == "".join([*summed, *made])
    )
    has_whole_bias = layer.bias_axes is None or sorted(layer.bias_axes) == sorted(made)
    return Projection(len(summed), len(made)) if is_plain and has_whole_bias else None


def _letters(equation: str) -> list[str] | None:
    """Returns the axes of two operands and of the result by letters."""
    operands, _, result = equation.replace(" ", "").partition("->")
    found = [*operands.split(","), result]
    is_known = len(found) == 3 and all(len(set(one)) == len(one) for one in found)
    return found if is_known and all(one.isalpha() for one in found) else None


def einsum_part(subscripts: str) -> Part | None:
    """Returns what computes a product of two tensors by transpositions and a matrix product.

        abc,acd->abd:  for each a, a matrix of (b, c) times one of (c, d)

    Args:
        subscripts: As for `keras.ops.einsum`.

    Returns:
        A function of two tensors, or `None` where several axes are summed along, or belong to one
        operand alone.
    """
    first, second, result = _letters(subscripts) or ("", "", "")
    shared = [one for one in result if one in first and one in second]
    summed = [one for one in first if one in second and one not in result]
    rows = [one for one in first if one in result and one not in second]
    columns = [one for one in second if one in result and one not in first]
    alone = (set(first) ^ set(second)) - set(result)
    if alone or not len(summed) == len(rows) == len(columns) == 1:
        return None
    is_turned = result.index(rows[0]) > result.index(columns[0])
    if is_turned:  # so that the result needs no transposition
        first, second, rows, columns = second, first, columns, rows

    def part(one: Any, other: Any) -> Any:
        left, right = (other, one) if is_turned else (one, other)
        left = _transposed(left, first, [*shared, *rows, *summed])
        right = _transposed(right, second, [*shared, *summed, *columns])
        return _transposed(ops.matmul(left, right), [*shared, *rows, *columns], result)

    return part


def _transposed(tensor: Any, axes: Any, wanted: Any) -> Any:
    order = [list(axes).index(one) for one in wanted]
    return tensor if order == sorted(order) else ops.transpose(tensor, order)
