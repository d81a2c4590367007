"""Tests of taps of attention maps: what a layer computes its output with, in one pass."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr

LENGTH, WIDTH, HEADS, SIZE = 5, 6, 2, 3


class Renamed(layers.MultiHeadAttention):
    """A subclass, as libraries have them."""


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """An encoder block with the attention inside, as keras-hub has them."""

    def build(self, shape):
        self.inside = layers.MultiHeadAttention(HEADS, SIZE, name="self_attention_layer")
        self.inside.build(shape, shape)
        self.dense = layers.Dense(shape[-1])
        self.dense.build(shape)

    def call(self, x, attention_mask=None):
        return x + self.dense(self.inside(x, x, attention_mask=attention_mask))


ATTENTIONS = {
    "fused": lambda: layers.MultiHeadAttention(HEADS, SIZE, name="encoder"),
    "dropout": lambda: layers.MultiHeadAttention(HEADS, SIZE, dropout=0.1, name="encoder"),
    "subclass": lambda: Renamed(HEADS, SIZE, name="encoder"),
    "grouped": lambda: layers.GroupQueryAttention(SIZE, HEADS, 1, name="encoder"),
    "block": lambda: Block(name="encoder"),
}
every_attention = pytest.mark.parametrize("kind", ATTENTIONS)


def model_of(attention, **arguments):
    inputs = keras.Input((None, WIDTH))
    x = (
        attention(inputs)
        if isinstance(attention, Block)
        else attention(inputs, inputs, **arguments)
    )
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def projected(attention, x, name):
    """x W + b of a layer inside, in float64: (batch, tokens, heads, size)."""
    dense = next(one for one in attention._flatten_layers() if one.name == name)
    kernel, bias = (np.asarray(one, "float64") for one in dense.get_weights())
    return np.einsum("btw,whs->bths", x, kernel) + bias


def logits_of(attention, x):
    """Q Kᵀ / √d in float64, (batch, heads, queries, keys)."""
    query, key = (projected(attention, x, name) for name in ("query", "key"))
    key = np.repeat(key, query.shape[2] // key.shape[2], axis=2)
    return np.einsum("bqhs,bkhs->bhqk", query, key) / np.sqrt(SIZE)


def softmax(logits, mask=True):
    powers = np.exp(logits) * mask
    return powers / np.maximum(powers.sum(-1, keepdims=True), 1e-300)


@pytest.fixture
def x(random):
    return random.normal(size=(3, LENGTH, WIDTH)).astype("float32")


@every_attention
def test_maps_are_those_of_the_layer_and_the_model_computes_what_it_did(kind, x):
    attention = ATTENTIONS[kind]()
    model = model_of(attention)
    before, held = model(x), set(vars(attention))
    reader = mr.TapReader(model, ["encoder/attention_scores", "encoder/attention_logits"])
    output = reader(x)
    logits = logits_of(attention, x.astype("float64"))
    features = output.features
    np.testing.assert_allclose(features["encoder/attention_logits"], logits, rtol=1e-4, atol=1e-5)
    scores = features["encoder/attention_scores"]
    np.testing.assert_allclose(scores, softmax(logits), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(output.logits, before, rtol=1e-5, atol=1e-6)
    assert set(vars(attention)) == held
    np.testing.assert_array_equal(model(x), before)


@every_attention
def test_maps_in_a_graph_have_gradients_to_the_layer(kind, x):
    model = model_of(ATTENTIONS[kind]())
    reader = mr.TapReader(model, ["encoder/attention_scores"])

    @tf.function(autograph=False, jit_compile=kind == "fused")
    def gradients(x):
        with tf.GradientTape() as tape:
            scores = reader(x, training=True).features["encoder/attention_scores"]
            value = tf.reduce_sum(scores**2)
        return tape.gradient(value, [one.value for one in model.trainable_variables])

    moved = {
        variable.path.split("/")[-2]
        for variable, slope in zip(model.trainable_variables, gradients(x), strict=True)
        if slope is not None and np.abs(slope).max() > 1e-6
    }
    assert moved == {"query", "key"}


def test_the_layer_runs_once(x, monkeypatch):
    model, runs = model_of(ATTENTIONS["fused"]()), []
    compute = layers.MultiHeadAttention._compute_attention

    def counted(self, *args, **kwargs):
        runs.append(self.name)
        return compute(self, *args, **kwargs)

    monkeypatch.setattr(layers.MultiHeadAttention, "_compute_attention", counted)
    mr.TapReader(model, ["encoder/attention_scores", "encoder/value", "encoder"])(x)
    assert runs == ["encoder"]


def test_a_layer_that_uses_flash_attention_shows_its_scores_and_keeps_its_way(x):
    attention = layers.MultiHeadAttention(HEADS, SIZE, flash_attention=True, name="encoder")
    plain = layers.MultiHeadAttention(HEADS, SIZE, name="encoder")
    attention._flash_attention = False  # TensorFlow has none on a CPU
    model, other = model_of(attention), model_of(plain)
    other.set_weights(model.get_weights())
    attention._flash_attention = True
    tap = "encoder/attention_scores"
    scores = [mr.TapReader(one, [tap])(x).features[tap] for one in (model, other)]
    np.testing.assert_array_equal(*scores)
    assert attention._flash_attention is True


def test_scores_that_the_model_asks_for_itself_are_left_to_it(x):
    inputs = keras.Input((None, WIDTH))
    output, scores = ATTENTIONS["fused"]()(inputs, inputs, return_attention_scores=True)
    model = keras.Model(inputs, [output, scores])
    read = mr.TapReader(model, ["encoder/attention_scores"])(x)
    np.testing.assert_array_equal(read.features["encoder/attention_scores"], read.logits[1])


@pytest.mark.parametrize("kind", ["causal", "bool", "int32", "padding"])
def test_the_mask_is_of_the_pairs_that_the_layer_lets_attend(kind, x):
    attention = ATTENTIONS["fused"]()
    kept = np.arange(LENGTH) < np.array([[5], [2], [3]])
    if kind == "padding":
        x = x * kept[..., None]
        inputs = keras.Input((None, WIDTH))
        masked = layers.Masking()(inputs)
        model = keras.Model(inputs, attention(masked, masked))
        pairs = kept[:, :, None] & kept[:, None, :]
    elif kind == "causal":
        model = model_of(attention, use_causal_mask=True)
        pairs = np.broadcast_to(np.tri(LENGTH, dtype=bool), (3, LENGTH, LENGTH))
    else:
        inputs, mask = keras.Input((None, WIDTH)), keras.Input((None,), dtype=kind)
        model = keras.Model(
            [inputs, mask], attention(inputs, inputs, attention_mask=mask[:, None, :])
        )
        x, pairs = [x, kept.astype(kind)], np.broadcast_to(kept[:, None, :], (3, LENGTH, LENGTH))
    taps = ["encoder/attention_scores", "encoder/attention_logits"]
    output = mr.TapReader(model, taps)(x)
    logits = logits_of(attention, (x[0] if isinstance(x, list) else x).astype("float64"))
    expected = softmax(logits, pairs[:, None]), logits * pairs[:, None]
    for tap, values in zip(taps, expected, strict=True):
        np.testing.assert_array_equal(output.masks[tap], pairs)
        np.testing.assert_allclose(output.features[tap], values, rtol=1e-4, atol=1e-5)


def test_each_call_of_a_shared_layer_has_a_map(x):
    attention = ATTENTIONS["fused"]()
    inputs = keras.Input((None, WIDTH))
    once = attention(inputs, inputs)
    model = keras.Model(inputs, attention(once, once))
    taps = [f"encoder/attention_scores:{call}" for call in (0, 1)]
    read = mr.TapReader(model, taps)(x).features
    middle = keras.Model(inputs, once)(x).numpy().astype("float64")
    np.testing.assert_allclose(read[taps[1]], softmax(logits_of(attention, middle)), rtol=1e-4)
    with pytest.raises(ValueError, match=r"ran 2 times.*\['encoder/attention_scores:0', 'enc"):
        mr.TapReader(model, ["encoder/attention_scores"])(x)


def test_a_layer_of_that_name_comes_first(x):
    inputs = keras.Input((None, WIDTH))
    named = layers.Dense(WIDTH, name="attention_scores")(inputs)
    model = keras.Model(inputs, layers.MultiHeadAttention(HEADS, SIZE)(named, named))
    read = mr.TapReader(model, ["attention_scores"])(x).features["attention_scores"]
    assert tuple(read.shape) == (3, LENGTH, WIDTH)


def two_blocks():
    inputs = keras.Input((None, WIDTH))
    return keras.Model(inputs, Block(name="second")(Block(name="first")(inputs)), name="stack")


@pytest.mark.parametrize(
    ("tap", "message"),
    [
        ("attention_scores", r"may be one of \['first/self_attention_layer/attention_scores', 's"),
        ("third/attention_scores", r"no layer 'third'\. Its attention maps are \['first/self"),
        ("first/dense/attention_scores", r"no layer 'first/dense'|has no attention layer in it"),
        ("first/attention", r"Did you mean .*taps there are: .*'first/self.*/attention_scores'"),
    ],
)
def test_unknown_maps_are_refused_with_those_there_are(tap, message):
    with pytest.raises(ValueError, match=rf"Unknown tap '{tap}' of the teacher 'stack'.*{message}"):
        mr.TapReader(two_blocks(), [tap], role="teacher")


def test_a_model_without_attention_has_no_maps():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="encoder")])
    with pytest.raises(ValueError, match="it has no attention layer"):
        mr.TapReader(model, ["encoder/attention_scores"])
