"""Tests of the tensor helpers against direct float64 NumPy, at the edges above all."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, rel_entr, softmax

from modreduce_keras import ops


def direct_squared_distances(rows):
    rows = rows.astype("float64")
    return ((rows[:, None] - rows[None]) ** 2).sum(axis=-1)


@pytest.mark.parametrize(
    ("function", "values", "expected", "slopes"),
    [
        (ops.safe_sqrt, [4.0, 0.25, 0.0, -1.0], [2.0, 0.5, 0.0, 0.0], [0.25, 1.0, 0.0, 0.0]),
        (ops.safe_reciprocal, [4.0, -0.5, 0.0], [0.25, -2.0, 0.0], [-0.0625, -4.0, 0.0]),
        (
            ops.smooth_l1,
            [-2.0, -0.5, 0.0, 1.0, 3.0],
            [1.5, 0.125, 0, 0.5, 2.5],
            [-1, -0.5, 0, 1, 1],
        ),
    ],
)
def test_function_and_slope_are_exact_at_the_edges(function, values, expected, slopes, gradient):
    values = np.array(values, "float32")
    np.testing.assert_array_equal(function(values), np.array(expected, "float32"))
    np.testing.assert_array_equal(gradient(function, values), np.array(slopes, "float32"))


def test_smooth_l1_equals_numpy(random):
    values = 2.0 * random.normal(size=100).astype("float32")
    magnitude = np.abs(values.astype("float64"))
    expected = np.where(magnitude < 1, 0.5 * magnitude**2, magnitude - 0.5)
    np.testing.assert_allclose(ops.smooth_l1(values), expected, rtol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("shape", [(2, 3), (8, 48), (5, 1)], ids=str)
def test_pairwise_distances_survive_an_offset(shape, offset, random):
    rows = (random.normal(size=shape) + offset).astype("float32")
    expected = direct_squared_distances(rows)
    np.testing.assert_allclose(
        ops.pairwise_squared_distances(tf.constant(rows)), expected, rtol=1e-4, atol=1e-6
    )


def test_pairwise_distances_have_the_gradient_of_the_direct_form(
    random, gradient, finite_differences
):
    rows, weights = random.normal(size=(5, 3)).astype("float32"), random.normal(size=(5, 5))
    np.testing.assert_allclose(
        gradient(lambda r: ops.pairwise_squared_distances(r) * weights.astype("float32"), rows),
        finite_differences(lambda r: (direct_squared_distances(r) * weights).sum(), rows),
        rtol=1e-4,
        atol=1e-4,
    )


def test_pairwise_distances_of_equal_rows_are_exactly_zero(random):
    rows = np.repeat(random.normal(size=(3, 20)) * 100 + 7, 2, axis=0).astype("float32")
    squared = np.array(ops.pairwise_squared_distances(tf.constant(rows)))
    same = np.kron(np.eye(3), np.ones((2, 2))) > 0
    np.testing.assert_array_equal(squared[same], 0.0)
    assert squared[~same].min() > 1.0
    np.testing.assert_array_equal(ops.pairwise_squared_distances(tf.constant(rows[:1])), [[0.0]])


@pytest.mark.parametrize(
    ("size", "target"), [((4, 4), (2, 2)), ((7, 5), (3, 2)), ((8, 6), (3, 6)), ((5, 5), (1, 4))]
)
def test_adaptive_pooling_equals_the_mean_of_each_window(size, target, average_pooled, random):
    maps = random.normal(size=(2, *size, 3)).astype("float32")
    pooled = ops.adaptive_average_pool(tf.constant(maps), *target)
    assert pooled.shape == (2, *target, 3)
    np.testing.assert_allclose(pooled, average_pooled(maps, *target), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "common"),
    [((4, 4), (4, 4), (4, 4)), ((8, 8), (4, 4), (4, 4)), ((3, 8), (6, 4), (3, 4))],
)
def test_maps_are_pooled_to_the_smaller_height_and_width(
    first, second, common, average_pooled, random
):
    maps = [tf.constant(random.normal(size=(2, *size, 3)), "float32") for size in (first, second)]
    pooled = ops.pooled_to_match(*maps)
    for before, after in zip(maps, pooled, strict=True):
        assert after.shape == (2, *common, 3)
        if before.shape == after.shape:
            assert after is before
        expected = average_pooled(before.numpy(), *common)
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)


def test_tempered_log_softmax_stays_finite_for_huge_logits():
    logits = np.array([[500.0, -500.0, 500.0]], "float32")
    expected = [[-np.log(2), -250 - np.log(2), -np.log(2)]]
    np.testing.assert_allclose(ops.tempered_log_softmax(logits, 4.0), expected, rtol=1e-6)


def test_divergence_counts_a_target_probability_of_zero_as_nothing():
    target = np.array([[0.0, -1e4]], "float32")
    prediction = np.log(np.array([[0.25, 0.75]], "float32"))
    np.testing.assert_allclose(ops.kl_divergence(target, prediction), [np.log(4.0)], rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 10, 1000, 2000])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0, 50.0])
def test_divergence_is_exact_however_close_the_two_are(classes, temperature, random, gradient):
    target, prediction = random.normal(size=(2, 8, classes)).astype("float32")
    p, q = (softmax(z / np.float64(temperature), axis=1) for z in (target, prediction))
    log_target = ops.tempered_log_softmax(target, temperature)

    def divergence(logits):
        return ops.kl_divergence(log_target, ops.tempered_log_softmax(logits, temperature))

    expected = rel_entr(p, q).sum(axis=1)
    np.testing.assert_allclose(divergence(tf.constant(prediction)), expected, rtol=3e-5)
    slopes = (q - p) / temperature
    np.testing.assert_allclose(
        gradient(divergence, prediction), slopes, atol=1e-5 * np.abs(slopes).max()
    )
    np.testing.assert_array_equal(divergence(tf.constant(target)), np.zeros(8))


@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.5])
def test_tempered_divergence_equals_numpy(temperature, random):
    target, prediction = 3.0 * random.normal(size=(2, 4, 2, 5))
    p, q = (softmax(logits / temperature, axis=-1) for logits in (target, prediction))
    expected = temperature**2 * rel_entr(p, q).sum(axis=-1)
    sides = tf.constant(target, "float32"), tf.constant(prediction, "float32")
    np.testing.assert_allclose(ops.tempered_divergence(*sides, temperature), expected, rtol=1e-5)
    given = keras.Variable(temperature)
    np.testing.assert_allclose(ops.tempered_divergence(*sides, given), expected, rtol=1e-5)


def test_a_small_divergence_of_many_classes_equals_numpy(random):
    target = random.normal(size=(16, 5000)).astype("float32")
    prediction = target + random.normal(size=target.shape, scale=1e-2).astype("float32")
    p, q = (softmax(logits.astype("float64"), axis=-1) for logits in (target, prediction))
    result = ops.tempered_divergence(target, prediction, 1.0)
    np.testing.assert_allclose(result, rel_entr(p, q).sum(axis=-1), atol=2e-7)


def test_tempered_divergence_takes_a_temperature_for_each_vector(random):
    target, prediction = 3.0 * random.normal(size=(2, 4, 2, 5)).astype("float32")
    temperatures = random.uniform(0.5, 5.0, size=(4, 2, 1)).astype("float32")
    result = np.array(ops.tempered_divergence(target, prediction, temperatures))
    assert result.shape == (4, 2)
    for index in np.ndindex(4, 2):
        one = ops.tempered_divergence(target[index], prediction[index], temperatures[index][0])
        np.testing.assert_allclose(result[index], one, rtol=1e-5)


@pytest.mark.parametrize("classes", [9, 1300])
@pytest.mark.parametrize("run", [lambda function: function, tf.function], ids=["eager", "graph"])
def test_gradients_of_a_tempered_divergence_equal_numpy(run, classes, random):
    target, prediction = random.normal(scale=3.0, size=(2, 4, classes)).astype("float32")
    temperature = random.uniform(1.0, 4.0, size=(4, 1)).astype("float32")
    weights = random.normal(size=4).astype("float32")

    @run
    def results(*given):
        with tf.GradientTape() as tape:
            tape.watch(given)
            values = ops.tempered_divergence(*given)
            total = tf.reduce_sum(weights * values)
        return values, *tape.gradient(total, given)

    values, *gradients = results(*map(tf.constant, (target, prediction, temperature)))

    exact = (x.astype("float64") for x in (target, prediction, temperature, weights[:, None]))
    t, s, tau, w = exact
    log_p, log_q = log_softmax(t / tau, axis=-1), log_softmax(s / tau, axis=-1)
    p, q = np.exp(log_p), np.exp(log_q)
    apart = log_p - log_q
    kl = np.sum(p * apart, axis=-1, keepdims=True)
    slope_t, slope_s = p * (apart - kl), q - p
    by_temperature = 2 * tau * kl - np.sum(t * slope_t + s * slope_s, axis=-1, keepdims=True)
    expected = [w * tau * slope_t, w * tau * slope_s, w * by_temperature]
    np.testing.assert_allclose(values, (tau**2 * kl)[:, 0], rtol=1e-6)
    # The last is a sum whose terms cancel.
    terms = np.abs(w * t * slope_t).sum(axis=-1, keepdims=True)
    for made, wanted, size in zip(gradients, expected, [*expected[:2], terms], strict=True):
        np.testing.assert_allclose(made, wanted, atol=1e-6 * np.abs(size).max(), rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 4), (3, 2, 5, 4)], ids=str)
def test_mean_over_places_keeps_batch_and_channels_in_float32(shape, random):
    feature = random.normal(size=shape)
    expected = feature.reshape(3, -1, 4).mean(axis=1)
    result = ops.mean_over_places(tf.constant(feature))
    assert result.dtype == tf.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_as_list_tells_one_from_several():
    one, other = np.ones(2), np.zeros(3)
    assert [[id(part) for part in ops.as_list(given)] for given in (one, (one, other))] == [
        [id(one)],
        [id(one), id(other)],
    ]
    assert ops.as_list("name") == ["name"]
    assert ops.as_list([]) == []


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 5, 2)], ids=str)
def test_per_sample_mean_keeps_the_batch(shape, random):
    values = random.normal(size=shape).astype("float32")
    expected = values.reshape(3, -1).mean(axis=1)
    np.testing.assert_allclose(ops.per_sample_mean(values), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["bool", "int32", "float32"])
@pytest.mark.parametrize("shape", [(9,), (4, 3), (4, 3, 2)], ids=str)
def test_masked_mean_averages_over_the_batch_to_the_mean_of_what_is_kept(shape, kind, random):
    values = random.normal(size=shape).astype("float32")
    kept = random.random(shape) < 0.6
    result = ops.masked_mean(values, kept.astype(kind)).numpy()
    share = kept.sum() / kept.size
    expected = [v[k].sum() / v.size / share for v, k in zip(values, kept, strict=True)]
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.mean(), values[kept].mean(), rtol=1e-5)


def test_masked_mean_without_a_mask_or_with_all_kept_is_the_mean(random):
    values = random.normal(size=(3, 4, 2)).astype("float32")
    expected = values.reshape(3, -1).mean(axis=1)
    np.testing.assert_allclose(ops.masked_mean(values), expected, rtol=1e-5, atol=1e-7)
    full = np.ones((3, 4, 1), "bool")
    np.testing.assert_allclose(ops.masked_mean(values, full), expected, rtol=1e-5, atol=1e-7)


def test_masked_mean_of_nothing_kept_is_zero_whatever_stands_there(gradient):
    values = np.array([[np.nan, np.inf], [1.0, -np.inf]], "float32")
    mask = np.zeros((2, 2), "bool")
    np.testing.assert_array_equal(ops.masked_mean(values, mask), [0.0, 0.0])
    slopes = gradient(lambda v: ops.masked_mean(v, mask), values)
    np.testing.assert_array_equal(slopes, np.zeros((2, 2)))


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 7)], ids=str)
def test_standardized_equals_numpy(shape, offset, random, gradient, finite_differences):
    values = (2.0 * random.normal(size=shape) + offset).astype("float32")
    weights = random.normal(size=shape).astype("float32")

    def formula(v):
        return (v - v.mean(axis=-1, keepdims=True)) / v.std(axis=-1, keepdims=True)

    np.testing.assert_allclose(
        ops.standardized(tf.constant(values)), formula(values.astype("float64")), atol=1e-4
    )
    expected = finite_differences(lambda v: (weights * formula(v)).sum(), values, step=1e-5)
    actual = gradient(lambda v: weights * ops.standardized(v), values)
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("constant", [0.0, 0.1, -7.3, 1e5])
def test_standardized_of_a_constant_row_is_zero_with_slope_zero(constant, gradient):
    values = np.full((2, 7), constant, "float32")
    np.testing.assert_array_equal(ops.standardized(values), np.zeros((2, 7)))
    slopes = gradient(lambda v: ops.standardized(v)[:, 0], values)
    np.testing.assert_array_equal(slopes, np.zeros((2, 7)))


def test_directions_are_unit_vectors_and_zero_where_rounding_is_left():
    vectors = np.array([[3.0, 4.0], [3e-4, 4e-4], [0.0, 0.0]], "float32")
    result, varies = ops.directions(vectors, np.array([[25.0], [1e6], [0.0]], "float32"))
    np.testing.assert_allclose(result, [[0.6, 0.8], [0.0, 0.0], [0.0, 0.0]], rtol=1e-6)
    np.testing.assert_array_equal(varies, [1.0, 0.0, 0.0])


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 5), (3, 2, 2, 5)], ids=str)
def test_flatten_keeps_the_batch_and_the_order(shape, random):
    values = random.normal(size=shape).astype("float32")
    np.testing.assert_array_equal(ops.flatten(values), values.reshape(3, -1))


def test_float32_casts_a_whole_structure():
    cast = ops.float32({"a": [tf.constant(1.5, "float16")], "b": tf.constant(2, "int32")})
    assert (cast["a"][0].dtype, cast["b"].dtype) == (tf.float32, tf.float32)
    assert (float(cast["a"][0]), float(cast["b"])) == (1.5, 2.0)


def test_maps_of_unknown_size_are_not_compared():
    known, unknown = keras.KerasTensor((None, 4, 4, 3)), keras.KerasTensor((None, None, 4, 3))
    for pair in ((known, unknown), (unknown, known)):
        with pytest.raises(ValueError, match=r"at a known height and width: .* Received: maps of"):
            ops.pooled_to_match(*pair)
