"""Attention maps and values as knowledge: whole steps against NumPy, with padding."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")

TOKENS, SIZE = 5, 3
IDS = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8], [1, 0, 0, 0, 0]], "int32")
KEPT, CAUSAL = IDS != 0, np.tri(TOKENS, dtype=bool)
LOGITS = "encoder/attention_logits"


@keras.saving.register_keras_serializable("attention_tests")
def not_padding(inputs):
    return keras.ops.not_equal(inputs, 0)


def network(width, heads, kind="keras"):
    """A network on tokens with one attention: a mask of Keras, one by name, or a causal one."""
    inputs = keras.Input((None,), dtype="int32", name="token_ids")
    x = layers.Embedding(9, width, mask_zero=kind == "keras")(inputs)
    attention = layers.MultiHeadAttention(heads, SIZE, name="encoder")
    if kind == "keras":
        y = layers.GlobalAveragePooling1D()(attention(x, x))
        return keras.Model(inputs, layers.Dense(3)(y))
    padding = keras.Input((None,), dtype="int32", name="padding_mask")
    if kind == "hub":
        y = attention(x, x, attention_mask=padding[:, None, :])
    else:
        y = attention(x, x, use_causal_mask=True)
    outputs = layers.Dense(3)(layers.GlobalAveragePooling1D()(y))
    return keras.Model({"token_ids": inputs, "padding_mask": padding}, outputs)


def read(model, x, tap):
    feature = mr.TapReader(model, [tap])(x).features[tap]
    return np.asarray(feature, "float64")


def pairs_of(tokens):
    return tokens[:, :, None] & tokens[:, None, :]


# Kind of the models, `mask=` and the pairs that count.
CASES = {
    "mask of Keras": ("keras", None, pairs_of(KEPT)),
    "all positions": ("keras", False, pairs_of(KEPT | True)),
    "keys by the model": ("hub", None, np.broadcast_to(KEPT[:, None], (3, TOKENS, TOKENS))),
    "mask by name": ("hub", "padding_mask", pairs_of(KEPT)),
    "causal": ("causal", None, np.broadcast_to(CAUSAL, (3, TOKENS, TOKENS))),
    "causal and by name": ("causal", "padding_mask", pairs_of(KEPT) & CAUSAL),
}


@pytest.mark.parametrize("case", CASES)
def test_pairs_that_a_model_hides_or_that_are_padding_do_not_count(case):
    kind, mask, pairs = CASES[case]
    teacher, student = network(8, 4, kind), network(6, 2, kind)
    knowledge = mr.Feature("tinybert_attention", at=LOGITS, mask=mask)
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[knowledge])
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = IDS if kind == "keras" else {"token_ids": IDS, "padding_mask": KEPT.astype("int32")}
    one, other = (read(model, x, LOGITS).mean(1) for model in (teacher, student))
    logs = distiller.train_on_batch(x, np.arange(3), return_dict=True)
    np.testing.assert_allclose(
        logs["tinybert_attention"], ((one - other) ** 2)[pairs].mean(), rtol=1e-4
    )


def softmax(logits, pairs):
    powers = np.exp(logits) * pairs[:, None]
    return powers / np.maximum(powers.sum(-1, keepdims=True), 1e-300)


def apart(teacher, student):
    pairs = pairs_of(KEPT)
    one, other = (np.maximum(softmax(side, pairs), 1e-300) for side in (teacher, student))
    return (one * np.log(one / other)).sum(-1).mean(1)[KEPT].mean()


def test_minilm_transfers_attention_and_values_of_unequal_widths():
    teacher, student = network(8, 2), network(6, 2)
    knowledge = [
        mr.Feature("minilm_attention", at=LOGITS),
        mr.Feature("minilm_relation", at="encoder/value", mask=not_padding),
    ]
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=knowledge)
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    maps = [read(model, IDS, LOGITS) for model in (teacher, student)]
    values = [read(model, IDS, "encoder/value") for model in (teacher, student)]
    relations = [np.einsum("bqhd,bkhd->bhqk", v, v) / np.sqrt(SIZE) for v in values]
    before = [weight.numpy() for weight in student.get_layer("encoder").weights]
    logs = distiller.train_on_batch(IDS, np.arange(3), return_dict=True)
    np.testing.assert_allclose(logs["minilm_attention"], apart(*maps), rtol=1e-4)
    np.testing.assert_allclose(logs["minilm_relation"], apart(*relations), rtol=1e-4)
    # A bias of the keys moves every key alike, which a softmax does not see.
    moved = [
        np.any(w.numpy() != b)
        for w, b in zip(student.get_layer("encoder").weights, before, strict=True)
    ]
    assert sum(moved) >= len(moved) - 1


def test_a_cached_teacher_stores_maps(tmp_path):
    teacher, student = network(8, 2), network(6, 2)
    data = mr.data.with_index(tf.data.Dataset.from_tensor_slices((IDS, np.arange(3)))).batch(3)
    cache = mr.data.TeacherCache(tmp_path, teacher, taps=[LOGITS])
    cache.fill(data)
    distiller = mr.Distiller(
        student=student, teacher=cache, knowledge=[mr.Feature("minilm_attention", at=LOGITS)]
    )
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    expected = apart(*(read(model, IDS, LOGITS) for model in (teacher, student)))
    (batch,) = cache.attach(data)
    logs = distiller.train_on_batch(*batch, return_dict=True)
    np.testing.assert_allclose(logs["minilm_attention"], expected, rtol=1e-3)


def test_probabilities_where_the_loss_takes_the_softmax_are_refused():
    with pytest.raises(
        ValueError, match=r"MiniLMAttention .* reads their logits: 'a/attention_log"
    ):
        mr.Feature("minilm_attention", at="a/attention_scores")


def test_an_adapter_between_maps_is_refused():
    with pytest.raises(ValueError, match=r"compares attention maps as they are.*adapter=None"):
        mr.Feature("tinybert_attention", at=LOGITS, adapter="token_projection")


def test_a_layer_tapped_for_its_map_is_refused_with_the_tap_of_the_map():
    with pytest.raises(ValueError, match=r"needs attention maps .*'encoder_2/attention_logits'"):
        mr.Distiller(
            student=network(6, 2),
            teacher=network(8, 2),
            knowledge=[mr.Feature("tinybert_attention", at="encoder", mask=False)],
        )


FALLS = {
    "cosine": {"at": "encoder", "adapter": "token_projection"},
    "hint": {"at": "encoder", "adapter": "token_projection"},
    "tinybert_attention": {"at": LOGITS},
    "minilm_attention": {"at": LOGITS},
    "minilm_relation": {"at": "encoder/value", "mask": not_padding},
}


@pytest.mark.slow
@pytest.mark.graph
@pytest.mark.parametrize("identifier", FALLS)
def test_a_term_halves_in_50_steps(identifier, random):
    teacher, student = network(8, 2), network(6, 2)
    for variable in teacher.trainable_variables:
        variable.assign(random.normal(size=variable.shape))
    knowledge = mr.Feature(identifier, weight=10.0, **FALLS[identifier])
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[knowledge])
    distiller.compile(
        keras.optimizers.Adam(0.03), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    history = distiller.fit(IDS, np.arange(3), epochs=50, verbose=0).history
    assert history[identifier][-1] < history[identifier][0] / 2
