"""Tests of the convolutional regressor: which convolution it takes, and what it computes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr


def pair(student, teacher, random):
    return [random.normal(size=(2, *shape)).astype("float32") for shape in (student, teacher)]


@pytest.mark.parametrize(
    ("student", "teacher", "kernel"),
    [
        ((8, 8, 4), (4, 4, 6), (3, 3, 4, 6)),
        ((4, 4, 4), (8, 8, 6), (4, 4, 6, 4)),
        ((4, 4, 4), (4, 4, 6), (1, 1, 4, 6)),
        ((7, 6, 4), (5, 5, 6), (3, 2, 4, 6)),
        ((7, 7, 4), (4, 4, 6), (4, 4, 4, 6)),
        ((4, 2, 4), (8, 4, 6), (4, 4, 6, 4)),
    ],
    ids=str,
)
def test_the_ratio_of_the_sizes_chooses_the_convolution(student, teacher, kernel, random):
    adapter = mr.adapters.ConvRegressor()
    features = pair(student, teacher, random)
    regressed, same = adapter(*features)
    assert regressed.shape == same.shape == (2, *teacher)
    assert tuple(adapter.convolution.kernel.shape) == kernel
    np.testing.assert_array_equal(same, features[1])


def test_a_regressor_of_equal_sizes_is_a_matrix_then_normalization_then_relu(random):
    student, teacher = pair((3, 3, 4), (3, 3, 6), random)
    adapter = mr.adapters.ConvRegressor()
    adapter.build(student.shape, teacher.shape)
    kernel, bias, gamma, beta, mean, variance = (
        random.uniform(0.5, 1.5, size=w.shape).astype("float32") for w in adapter.weights
    )
    adapter.set_weights([kernel, bias, gamma, beta, mean, variance])
    linear = student @ kernel[0, 0] + bias
    expected = (linear - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    regressed, _ = adapter(student, teacher)
    np.testing.assert_allclose(regressed, np.maximum(expected, 0.0), rtol=1e-4, atol=1e-5)


def test_without_normalization_the_regressor_is_a_convolution(random):
    student, teacher = pair((3, 3, 4), (3, 3, 6), random)
    adapter = mr.adapters.ConvRegressor(batch_normalization=False, use_relu=False)
    regressed, _ = adapter(student, teacher, training=True)
    kernel, bias = adapter.get_weights()
    np.testing.assert_allclose(regressed, student @ kernel[0, 0] + bias, rtol=1e-4, atol=1e-5)


def test_in_training_the_batch_itself_is_normalized_and_the_statistics_move(random):
    student, teacher = pair((3, 3, 4), (3, 3, 6), random)
    adapter = mr.adapters.ConvRegressor(use_relu=False)
    regressed, _ = adapter(student, teacher, training=True)
    np.testing.assert_allclose(np.mean(regressed, axis=(0, 1, 2)), np.zeros(6), atol=1e-6)
    np.testing.assert_allclose(np.std(regressed, axis=(0, 1, 2)), np.ones(6), rtol=1e-3)
    kernel = adapter.get_weights()[0][0, 0]
    moving_mean = keras.ops.convert_to_numpy(adapter.normalization.moving_mean)
    np.testing.assert_allclose(moving_mean, 0.1 * (student @ kernel).mean((0, 1, 2)), atol=1e-6)


def test_use_relu_decides_whether_negative_values_stay(random):
    features = pair((4, 4, 4), (4, 4, 6), random)
    with_relu, without = (mr.adapters.ConvRegressor(use_relu=use) for use in (True, False))
    with_relu(*features)
    without(*features)
    without.set_weights(with_relu.get_weights())
    linear = np.array(without(*features)[0])
    assert linear.min() < -0.1
    np.testing.assert_array_equal(with_relu(*features)[0], np.maximum(linear, 0.0))
    assert without.get_config()["use_relu"] is False


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ((12,), (4, 4, 6), "needs two feature maps .*'linear_embedding' takes vectors"),
        ((4, 4, 6), (12,), "needs two feature maps .*'linear_embedding' takes vectors"),
        ((7, 6), (4, 4, 6), "needs two feature maps"),
    ],
    ids=str,
)
def test_features_that_do_not_fit_are_refused(student, teacher, message, random):
    with pytest.raises(ValueError, match=message):
        mr.adapters.ConvRegressor().build((None, *student), (None, *teacher))


@pytest.mark.parametrize("front", [0, 1, 2])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_tokens_of_patches_are_compared_with_a_map(side, front, random):
    patches = random.normal(size=(2, 4, 4, 5)).astype("float32")
    tokens = np.concatenate([random.normal(size=(2, front, 5)), patches.reshape(2, 16, 5)], axis=1)
    other = random.normal(size=(2, 2, 2, 3)).astype("float32")
    found, expected = [], []
    for given, results in ((tokens.astype("float32"), found), (patches, expected)):
        keras.utils.set_random_seed(0)
        pair = (given, other) if side == "student" else (other, given)
        results += mr.adapters.ConvRegressor()(*pair)
    for one, same in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, same)


def test_a_mask_of_tokens_is_that_of_their_patches(random):
    tokens = random.normal(size=(2, 5, 3)).astype("float32")
    mask = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0]], bool)
    teacher = random.normal(size=(2, 2, 2, 4)).astype("float32")
    results = []
    for student, kept in ((tokens, mask), (tokens[:, 1:].reshape(2, 2, 2, 3), mask[:, 1:])):
        keras.utils.set_random_seed(0)
        kept = kept if student is tokens else kept.reshape(2, 2, 2)
        adapter = mr.adapters.ConvRegressor()
        results.append(adapter(student, teacher, training=True, kept={"student": kept})[0])
    np.testing.assert_array_equal(*results)


def test_tokens_that_are_no_square_are_refused(random):
    with pytest.raises(ValueError, match=r"tokens of a square of patches.*\(2, 7, 3\)"):
        mr.adapters.ConvRegressor()(*pair((7, 3), (2, 2, 3), random))


def network(width):
    x = keras.Input((6, 6, 3))
    linear = keras.layers.Conv2D(width, 3, name="linear")(x)
    maps = keras.layers.ReLU(name="rectified")(linear)
    maps = keras.layers.GlobalAveragePooling2D(name="pooled")(maps)
    return keras.Model(x, keras.layers.Dense(3)(maps))


CACHED, SEVERAL = "a cache", "several teachers"


@pytest.mark.parametrize("kind", [None, CACHED, SEVERAL])
@pytest.mark.parametrize(
    ("tap", "given", "expected"),
    [
        ("rectified", None, True),
        ("linear", None, False),
        ("rectified", False, False),
        ("linear", True, True),
    ],
)
def test_a_relu_ends_it_if_the_teachers_feature_has_no_negative_numbers(
    tap, given, expected, kind, random, tmp_path
):
    teacher, student = network(6), network(4)
    adapter = mr.adapters.ConvRegressor(use_relu=given)
    of_teacher = tap
    if kind == SEVERAL:
        teacher.name, other = "first", network(5)
        other.name = "second"
        teacher, of_teacher = [other, teacher], f"first/{tap}"
    hint = mr.Feature("hint", student=tap, teacher=of_teacher, adapter=adapter)
    if kind == CACHED:
        teacher = mr.data.TeacherCache(tmp_path / "cache", teacher, taps=[tap])
        images = random.normal(size=(8, 6, 6, 3)).astype("float32")
        data = tf.data.Dataset.from_tensor_slices((images, np.arange(8) % 3))
        teacher.fill(mr.data.with_index(data).batch(4))
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=hint)
    again = mr.Distiller.from_config(distiller.get_config())
    for one in (distiller, again) if kind is None else (distiller,):
        regressed, _ = one.knowledge["student"][0].adapter(
            random.normal(size=(8, 4, 4, 4)), random.normal(size=(8, 4, 4, 6))
        )
        assert (float(np.min(regressed)) >= 0.0) is expected


@pytest.mark.parametrize(("tap", "expected"), [("pooled", True), ("linear", False)])
def test_the_softmax_regressor_follows_the_teachers_feature_too(tap, expected, random):
    teacher, student = network(6), network(4)
    srrl = mr.Feature("srrl", at=tap)
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=srrl)
    (feature, _), _ = distiller.knowledge["student"][0].adapter(
        *(random.normal(size=(8, *(4, 4) * (tap == "linear"), width)) for width in (4, 6))
    )
    assert (float(np.min(feature)) >= 0.0) is expected
