"""Tests of the token projection: a matrix at each position, of sequences of any length."""

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr


@pytest.mark.parametrize("use_bias", [True, False])
def test_each_token_is_multiplied_by_the_matrix(use_bias, random):
    adapter = mr.adapters.TokenProjection(use_bias=use_bias)
    adapter.build((None, None, 4), (None, None, 6))
    adapter.set_weights([random.normal(size=weight.shape) for weight in adapter.weights])
    kernel, bias = [*adapter.get_weights(), np.zeros(6)][:2]
    for length in (3, 8):
        student, teacher = (random.normal(size=(2, length, w)).astype("float32") for w in (4, 6))
        projected, same = adapter(student, teacher)
        np.testing.assert_allclose(projected, student @ kernel + bias, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(same, teacher)


@pytest.mark.parametrize("shapes", [((None, 5, None), (None, 5, 6)), ((None,), (None, 6))])
def test_an_unknown_width_is_refused(shapes):
    with pytest.raises(ValueError, match=r"TokenProjection takes features \(batch, ..., width\)"):
        mr.adapters.TokenProjection().build(*shapes)


def tokens_to_logits(width):
    """A network on tokens of any length, whose `"hidden"` gives (batch, tokens, width)."""
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(9, width, mask_zero=True)(inputs)
    x = layers.Dense(width, activation="tanh", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("loss", ["hint", "cosine"])
def test_hidden_states_of_unequal_widths_are_compared_without_padding(loss, random):
    """TinyBERT's loss on hidden states, and DistilBERT's, end to end against NumPy."""
    teacher, student = tokens_to_logits(6), tokens_to_logits(4)
    hidden = mr.Feature(loss, at="hidden", adapter="token_projection", weight=1.0)
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[hidden])
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tokens = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8], [1, 0, 0, 0, 0]], "int32")
    features = [
        np.asarray(mr.TapReader(model, ["hidden"])(tokens).features["hidden"], "float64")
        for model in (teacher, student)
    ]
    kernel, bias = hidden.adapter.get_weights()
    one, other = features[0], features[1] @ kernel + bias
    if loss == "hint":
        values = ((other - one) ** 2).mean(-1)
    else:
        norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
        values = 1.0 - (one * other).sum(-1) / norms
    logs = distiller.train_on_batch(tokens, np.array([0, 1, 2]), return_dict=True)
    np.testing.assert_allclose(logs[loss], values[tokens != 0].mean(), rtol=1e-4)
