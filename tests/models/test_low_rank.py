"""Low rank: factors against NumPy, models of low rank that stay what they are, and refusals."""

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr
from modreduce_keras.models.low_rank import factors_of, low_rank, rank_of

MAKERS = {
    "dense": (lambda: layers.Dense(12, "relu", name="wide"), (None, 10)),
    "dense on maps": (lambda: layers.Dense(12, name="wide"), (None, 4, 4, 10)),
    "conv": (
        lambda: layers.Conv2D(12, 3, strides=2, padding="same", activation="relu", name="wide"),
        (None, 7, 7, 4),
    ),
    "dilated": (
        lambda: layers.Conv2D(12, (1, 3), dilation_rate=2, use_bias=False, name="wide"),
        (None, 7, 7, 4),
    ),
    "causal": (lambda: layers.Conv1D(12, 3, padding="causal", name="wide"), (None, 7, 4)),
}


def model_of(make, shape):
    return keras.Sequential([keras.Input(shape[1:]), make(), layers.ReLU()], name="net")


@pytest.fixture
def matrix(random):
    return random.normal(size=(20, 6)) * 2.0 ** -np.arange(6)


def test_all_singular_values_give_the_matrix_and_fewer_the_nearest_one(matrix):
    first, second = factors_of(matrix, 6)
    np.testing.assert_allclose(first @ second, matrix, atol=1e-12)
    first, second = factors_of(matrix, 2)
    assert (first.shape, second.shape) == ((20, 2), (2, 6))
    left = np.linalg.svd(matrix, compute_uv=False)[2:]
    np.testing.assert_allclose(np.linalg.norm(first @ second - matrix), np.linalg.norm(left))


def test_the_rank_is_the_smallest_with_the_energy(matrix):
    squares = np.linalg.svd(matrix, compute_uv=False) ** 2
    for energy in (0.3, 0.9, 0.99, 1.0):
        rank = rank_of(matrix, energy)
        assert squares[: rank - 1].sum() < energy * squares.sum()
        assert squares[:rank].sum() >= energy * squares.sum() * (1 - 1e-9)
    assert rank_of(matrix[:, :3] @ matrix[:3].astype("float32"), 1.0) == 3


@pytest.mark.parametrize(("make", "shape"), MAKERS.values(), ids=MAKERS)
def test_a_layer_of_low_rank_stays_what_it_is(make, shape, random, settled):
    model = settled(model_of(make, shape))
    kernel = model.get_layer("wide").kernel
    matrices = random.normal(size=(int(np.prod(kernel.shape[:-1])), 3)), random.normal(size=(3, 12))
    kernel.assign((matrices[0] @ matrices[1]).reshape(kernel.shape))
    thin = low_rank(model, energy=1.0)
    names = [layer.name for layer in thin.layers if "wide" in layer.name]
    assert names == ["wide_low", "wide"]
    assert thin.get_layer("wide_low").kernel.shape[-1] == 3
    x = random.normal(size=(2, *shape[1:])).astype("float32")
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(
        thin.predict(x, verbose=0), expected, atol=1e-5 * max(1.0, expected.max())
    )
    assert thin.count_params() < model.count_params()
    assert "modreduce" not in thin.to_json()


def test_only_what_saves_multiply_adds_is_split(random, settled):
    inner = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(16, 3, name="inside")])
    inputs = keras.Input((8, 8, 4))
    maps = layers.BatchNormalization(name="norm")(inner(inputs))
    maps = layers.Conv2D(16, 3, groups=2, name="grouped")(maps)
    head = layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(maps))
    model = settled(keras.Model(inputs, head))
    thin = low_rank(model, rank=5)
    # 36 · 16 = 576 entries become 5 · (36 + 16); the classifier would have 5 · (16 + 3) of 48.
    whole, counted = mr.evaluation.multiply_adds(model), mr.evaluation.multiply_adds(thin)
    assert whole - counted == 6 * 6 * (576 - 260)
    assert [layer.name for layer in thin.layers[1].layers][1:] == ["inside_low", "inside"]
    np.testing.assert_array_equal(
        thin.get_layer("grouped").kernel, model.get_layer("grouped").kernel
    )
    variance = model.get_layer("norm").moving_variance
    np.testing.assert_array_equal(thin.get_layer("norm").moving_variance, variance)


CHANGES = {"low rank": lambda thin: thin, "pruned": mr.prune}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_embedding_is_what_a_classifier_of_low_rank_reads(change, random):
    stack = [layers.Dense(64, "relu"), layers.Dropout(0.5), layers.Dense(40, name="logits")]
    thin = change(low_rank(keras.Sequential([keras.Input((8,)), *stack]), rank=3))
    assert thin.get_layer("logits_low").output.shape == (None, 3)
    x = random.normal(size=(16, 8)).astype("float32")
    taps = mr.TapReader(thin, ["embedding"])(x)[1]
    assert taps["embedding"].shape == (16, 64)


def wide():
    return model_of(*MAKERS["dense"])


MISTAKES = {
    "neither": (lambda: low_rank(wide()), "Give one of energy=.*rank="),
    "both": (lambda: low_rank(wide(), energy=0.5, rank=2), "Give one of energy="),
    "no rank": (lambda: low_rank(wide(), rank=0), "rank must be None or a positive integer"),
    "no energy": (lambda: low_rank(wide(), energy=0.0), "energy must be a finite number above 0"),
    "more": (lambda: low_rank(wide(), energy=1.5), "energy must be at most 1"),
    "nothing saved": (
        lambda: low_rank(wide(), energy=1.0),
        "must have layers that take fewer multiply-adds as two thin ones.*energy=1.0",
    ),
    "a name": (lambda: low_rank(wide(), rank=2, layers=["wid"]), "Did you mean 'wide'"),
    "pruned": (lambda: low_rank(mr.prune(wide()), rank=2), r"mr.strip\(model\)"),
    "not built": (lambda: low_rank(keras.Sequential(), rank=2), "must be a functional or a built"),
}


@pytest.mark.parametrize(("call", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_refused_with_what_was_meant(call, message):
    with pytest.raises(ValueError, match=message):
        call()
