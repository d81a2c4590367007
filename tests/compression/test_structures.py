"""Which weights a structure prunes, against loops in NumPy."""

import numpy as np
import pytest
from keras import layers

from modreduce_keras.compression.structures import Structure

LAYERS = {
    "dense": (lambda: layers.Dense(6), (None, 8)),
    "conv": (lambda: layers.Conv2D(6, (1, 2)), (None, 4, 4, 8)),
    "transposed": (lambda: layers.Conv2DTranspose(6, (1, 2)), (None, 4, 4, 8)),
    "separable": (lambda: layers.SeparableConv2D(6, 3), (None, 4, 4, 8)),
    "depthwise": (lambda: layers.DepthwiseConv2D(3), (None, 4, 4, 8)),
}
ROWS_FIRST = {"transposed": (0, 1, 3, 2)}
"""Axes of a kernel with its outputs last, where they are not."""


def built(kind):
    make, shape = LAYERS[kind]
    layer = make()
    layer.build(shape)
    return layer


def as_matrix(kernel, kind):
    kernel = kernel.transpose(ROWS_FIRST.get(kind, range(kernel.ndim)))
    columns = kernel.shape[-1] * (kernel.shape[-2] if kind == "depthwise" else 1)
    return kernel.reshape(-1, columns)


def scores_for(kind, random):
    kernel = getattr(built(kind), "pointwise_kernel", None)
    kernel = built(kind).kernel if kernel is None else kernel
    return random.permutation(np.prod(kernel.shape)).reshape(kernel.shape).astype("float32")


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.75, 0.99])
def test_alone_the_smallest_are_pruned(kind, sparsity, random):
    scores = scores_for(kind, random)
    kept = np.asarray(Structure("unstructured", built(kind), (1, 4)).kept(scores, sparsity))
    np.testing.assert_array_equal(kept, scores >= np.rint(sparsity * scores.size))


def test_of_equals_exactly_as_many_are_pruned():
    scores = np.array([[1, 1, 1, 0, 1, 2]] * 8, "float32")
    kept = np.asarray(Structure("unstructured", built("dense"), (1, 4)).kept(scores, 0.5))
    assert (~kept).sum() == 24
    assert not kept[scores == 0].any()
    assert kept[scores == 2].all()


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.98])
def test_scores_of_any_sign_and_size_are_sorted(sparsity, random):
    scores = random.normal(size=(8, 6)) * 10.0 ** random.integers(-36, 38, (8, 6))
    scores = scores.astype("float32")
    scores[0, :4] = [0.0, -0.0, np.inf, 1e-37]
    kept = np.asarray(Structure("unstructured", built("dense"), (1, 4)).kept(scores, sparsity))
    expected = np.ones(48, bool)
    order = np.argsort(scores, axis=None, kind="stable")
    expected[order[: int(np.rint(sparsity * 48))]] = False
    np.testing.assert_array_equal(kept.ravel(), expected)


@pytest.mark.parametrize("kind", ["dense", "conv", "transposed", "separable"])
@pytest.mark.parametrize("sparsity", [0.2, 0.5])
def test_two_of_four_inputs_are_pruned_those_of_the_smallest_first(kind, sparsity, random):
    scores = scores_for(kind, random)
    kept = np.asarray(Structure("2:4", built(kind), (1, 4)).kept(scores, sparsity))
    matrix, kept = as_matrix(scores, kind), as_matrix(kept, kind)
    candidates = np.zeros(matrix.shape, bool)
    for column in range(matrix.shape[1]):
        for first in range(0, len(matrix), 4):
            group = matrix[first : first + 4, column]
            candidates[first + np.argsort(group)[:2], column] = True
    limit = np.sort(matrix[candidates])[int(np.rint(sparsity * matrix.size)) - 1]
    np.testing.assert_array_equal(kept, ~(candidates & (matrix <= limit)))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("size", [(1, 4), (3, 2), (5, 4)])
def test_blocks_of_the_smallest_mean_are_pruned_those_at_the_edge_too(kind, size, random):
    scores = scores_for(kind, random)
    kept = np.asarray(Structure("block", built(kind), size).kept(scores, 0.4))
    matrix, kept = as_matrix(scores.astype("float64"), kind), as_matrix(kept, kind)
    places = [
        (slice(row, row + size[0]), slice(column, column + size[1]))
        for row in range(0, matrix.shape[0], size[0])
        for column in range(0, matrix.shape[1], size[1])
    ]
    order = np.argsort([matrix[place].mean() for place in places], kind="stable")
    expected = np.ones(matrix.shape, bool)
    for index in order[: int(np.rint(0.4 * len(places)))]:
        expected[places[index]] = False
    np.testing.assert_array_equal(kept, expected)
