"""Tests of layer maps: which blocks and attention maps of stacks of unequal depth are paired."""

import keras
import pytest
from keras import layers

import modreduce_keras as mr


def transformer(blocks, width):
    """A functional transformer whose blocks end in `"out{number}"`, with masks beside them."""
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(9, width, mask_zero=True, name="embedding")(inputs)
    for i in range(1, blocks + 1):
        attention = layers.MultiHeadAttention(2, width // 2, name=f"attention{i}")
        x = layers.LayerNormalization(name=f"mid{i}")(layers.Add()([x, attention(x, x)]))
        y = layers.Dense(width, name=f"dense{i}")(layers.Dense(2 * width, name=f"wide{i}")(x))
        x = layers.LayerNormalization(name=f"out{i}")(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


TEACHER, STUDENT = transformer(6, 8), transformer(3, 4)


@pytest.mark.parametrize(("every", "numbers"), [(2, [2, 4, 6]), (1, [1, 2, 3]), (None, [2, 4, 6])])
def test_every_nth_attention_map_and_block_is_paired(every, numbers):
    maps = mr.models.pair(TEACHER, STUDENT, "attention", every=every)
    assert [(row.student, row.teacher) for row in maps] == [
        (f"attention{i}/attention_scores", f"attention{n}/attention_scores")
        for i, n in enumerate(numbers, 1)
    ]
    rows = mr.models.pair(TEACHER, STUDENT, every=every)
    assert [(row.student, row.teacher) for row in rows] == [
        (f"out{i}", f"out{n}") for i, n in enumerate(numbers, 1)
    ]
    taps = [row.teacher for row in (*maps, *rows)]
    assert list(mr.TapReader(TEACHER, taps).taps) == taps


def test_maps_of_any_depths_are_paired_evenly():
    rows = mr.models.pair(transformer(5, 4), STUDENT, "attention")
    assert [row.teacher[:10] for row in rows] == ["attention2", "attention3", "attention5"]
    rows = mr.models.pair(TEACHER, transformer(4, 4), "attention")
    assert [row.teacher[9:10] for row in rows] == ["2", "3", "5", "6"]


@pytest.mark.parametrize("kind", ["feature", "attention"])
def test_a_teacher_that_is_not_deep_enough_is_refused(kind):
    with pytest.raises(ValueError, match=r"which has 6\. Received: every=3, where at most 2 does"):
        mr.models.pair(TEACHER, STUDENT, kind, every=3)


@pytest.mark.parametrize(
    ("kind", "every", "message"),
    [
        ("relation", 2, "every= is a step between stages or attention maps, and 'relation'"),
        ("feature", 0, "every must be"),
        ("attentions", None, "kind must be one of"),
    ],
)
def test_what_has_no_layer_map_is_refused(kind, every, message):
    with pytest.raises(ValueError, match=message):
        mr.models.pair(TEACHER, STUDENT, kind, every=every)


def test_a_model_without_attention_is_refused():
    plain = keras.Sequential([keras.Input((4,)), layers.Dense(3)], name="plain")
    with pytest.raises(ValueError, match="The student 'plain' has no attention layer"):
        mr.models.pair(TEACHER, plain, "attention")
