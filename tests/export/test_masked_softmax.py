"""Masked softmaxes in int8 files: in integers where Keras' own layer masks, else in float."""

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr
from modreduce_keras.export.integer_forms import measure
from modreduce_keras.export.masked_softmax import masked_softmaxes
from tests.export.test_allow_float import operations


class OwnSoftmax(layers.Softmax):
    """It might compute anything."""

    def call(self, inputs, mask=None):
        return super().call(inputs, mask=mask)


def masked(softmax):
    scores, mask = keras.Input((4, 6), name="scores"), keras.Input((4, 6), name="mask")
    found = softmax(layers.Dense(6, name="dense")(scores), mask=mask)
    logits = layers.Dense(3, name="logits")(keras.ops.reshape(found, (-1, 24)))
    return keras.Model({"scores": scores, "mask": mask}, logits)


@pytest.fixture
def x(random):
    kept = random.random((64, 4, 6)) < 0.7
    kept[0, 0] = False  # Nothing is kept of some.
    return {
        "scores": random.normal(size=(64, 4, 6)).astype("float32"),
        "mask": kept.astype("float32"),
    }


def test_what_is_kept_is_as_in_keras(x):
    model = masked(layers.Softmax(name="softmax"))
    (form,) = masked_softmaxes(model).values()
    layer, expected = form.layer, model.get_layer("softmax").output
    expected = keras.Model(model.input, expected)(x)
    layer.call = form
    try:
        measure([form], model, [{k: keras.ops.convert_to_tensor(v) for k, v in x.items()}])
        found = np.asarray(layer(model.get_layer("dense")(x["scores"]), mask=x["mask"]))
    finally:
        del layer.call
    assert (found[x["mask"] == 0] == 0).all()
    # Of six scores the masked ones take at most 5 exp(-8).
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_masked_attention_in_integers(tmp_path, x):
    tokens, mask = keras.Input((6, 8), name="tokens"), keras.Input((6, 6), name="mask")
    attention = layers.MultiHeadAttention(2, 4, dropout=0.1, name="attention")
    hidden = attention(tokens, tokens, attention_mask=mask)
    student = keras.Model(
        {"tokens": tokens, "mask": mask}, layers.Dense(3)(layers.Flatten()(hidden))
    )
    random = np.random.default_rng(0)
    data = {
        "tokens": random.normal(size=(64, 6, 8)).astype("float32"),
        "mask": np.tile(np.tril(np.ones((6, 6), "float32")), (64, 1, 1)),
    }
    path = tmp_path / "student.tflite"
    mr.export.to_tflite(student, path, quantization="int8", representative=data)
    assert not operations(path) - {"CAST", "GREATER", "RESHAPE", "EXPAND_DIMS"}
    assert mr.export.verify(path, student, data, kind="classes", repeats=1).agreement >= 0.97


@pytest.mark.slow
def test_what_shares_the_range_of_a_mask_stays_in_float_too(tmp_path, x):
    student = masked(OwnSoftmax(name="softmax"))
    given = {"quantization": "int8", "representative": x}
    path = tmp_path / "student.tflite"
    with pytest.raises(ValueError, match="masked attention fills scores"):
        mr.export.to_tflite(student, path, **given)
    mr.export.to_tflite(student, path, **given, allow_float=True)
    assert mr.export.verify(path, student, x, kind="classes", repeats=1).agreement >= 0.97
