"""Tests of the linear embedding: shapes, values, normalization and errors."""

import numpy as np
import pytest

import modreduce_keras as mr


@pytest.fixture
def features(random):
    """A student's map and a teacher's vector."""
    shapes = (3, 4, 4, 2), (3, 10)
    return [random.normal(size=shape).astype("float32") for shape in shapes]


def test_without_units_the_student_is_embedded_to_the_teachers_width(features):
    student, teacher = features
    adapter = mr.adapters.LinearEmbedding()
    embedded, same = adapter(student, teacher)
    kernel, bias = adapter.get_weights()
    assert (kernel.shape, bias.shape) == ((32, 10), (10,))
    np.testing.assert_allclose(embedded, student.reshape(3, 32) @ kernel + bias, atol=1e-5)
    np.testing.assert_array_equal(same, teacher)


def test_with_units_both_are_embedded_by_weights_of_their_own(features):
    adapter = mr.adapters.LinearEmbedding(units=5)
    embedded = adapter(*features)
    weights = adapter.get_weights()
    assert [weight.shape for weight in weights] == [(32, 5), (5,), (10, 5), (5,)]
    for index, (value, feature) in enumerate(zip(embedded, features, strict=True)):
        kernel, bias = weights[2 * index : 2 * index + 2]
        np.testing.assert_allclose(value, feature.reshape(3, -1) @ kernel + bias, atol=1e-5)


@pytest.mark.parametrize("units", [None, 5])
def test_normalized_embeddings_have_unit_length_and_the_same_direction(units, features):
    plain = mr.adapters.LinearEmbedding(units=units)
    normalized = mr.adapters.LinearEmbedding(units=units, normalize=True)
    expected = plain(*features)
    normalized(*features)
    normalized.set_weights(plain.get_weights())
    for value, raw in zip(normalized(*features), expected, strict=True):
        length = np.linalg.norm(raw, axis=1, keepdims=True)
        np.testing.assert_allclose(value, raw / length, rtol=1e-5, atol=1e-6)


def test_config_gives_units_and_normalize():
    config = mr.adapters.LinearEmbedding(units=5, normalize=True).get_config()
    assert (config["units"], config["normalize"]) == (5, True)


@pytest.mark.parametrize("units", [0, -3])
def test_units_that_are_not_positive_are_refused(units):
    message = f"units must be None or a positive integer. Received: units={units}"
    with pytest.raises(ValueError, match=message):
        mr.adapters.LinearEmbedding(units=units)


@pytest.mark.parametrize("shapes", [((None, 8, None, 3), (None, 4)), ((None, 4), (None, None))])
def test_features_of_unknown_size_are_refused(shapes):
    with pytest.raises(ValueError, match="needs features of known size"):
        mr.adapters.LinearEmbedding().build(*shapes)
