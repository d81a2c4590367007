"""Tests of the losses on attention against float64 NumPy: TinyBERT's and MiniLM's, with masks."""

import numpy as np
import pytest

import modreduce_keras as mr

BATCH, TOKENS = 3, 4
KEPT = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]], bool)
CAUSAL = np.tri(TOKENS, dtype=bool)


def softmax(logits, kept=True):
    powers = np.exp(logits - logits.max(-1, keepdims=True)) * kept
    return powers / np.maximum(powers.sum(-1, keepdims=True), 1e-300)


def divergence(teacher, student):
    """KL over the last axis, (batch, heads, queries) -> mean over heads."""
    terms = np.where(teacher > 0, teacher * np.log(np.maximum(teacher, 1e-300) / student), 0.0)
    return terms.sum(-1).mean(1)


def one_head_each(teacher, student):
    """Averages over the heads of both, where they are not as many."""
    if teacher.shape[1] == student.shape[1]:
        return teacher, student
    return teacher.mean(1, keepdims=True), student.mean(1, keepdims=True)


def squares(teacher, student, pairs):
    teacher, student = one_head_each(teacher, student)
    return ((student - teacher) ** 2).mean(1), pairs


def attention_transfer(teacher, student, pairs):
    sides = (np.maximum(softmax(side, pairs[:, None]), 1e-300) for side in (teacher, student))
    return divergence(*one_head_each(*sides)), pairs.any(-1)


def relations(teacher, student, pairs):
    maps = []
    for side in (teacher, student):
        products = np.einsum("bqhd,bkhd->bhqk", side, side) / np.sqrt(side.shape[-1])
        maps.append(np.maximum(softmax(products, pairs[:, None]), 1e-300))
    return divergence(*one_head_each(*maps)), pairs.any(-1)


EQUATIONS = {
    "tinybert_attention": squares,
    "minilm_attention": attention_transfer,
    "minilm_relation": relations,
}


def sides(identifier, heads, random):
    """Returns a teacher's and a student's maps, or values of unequal widths."""
    if identifier == "minilm_relation":
        shapes = [(BATCH, TOKENS, heads[0], 5), (BATCH, TOKENS, heads[1], 3)]
    else:
        shapes = [(BATCH, number, TOKENS, TOKENS) for number in heads]
    return [random.normal(size=shape).astype("float32") for shape in shapes]


def check(identifier, heads, random, assert_equals_numpy):
    teacher, student = sides(identifier, heads, random)
    everything = np.ones((BATCH, TOKENS, TOKENS), bool)

    def per_sample(teacher, student):
        values, _ = EQUATIONS[identifier](teacher.astype("float64"), student, everything)
        return values.reshape(BATCH, -1).mean(1)

    assert_equals_numpy(mr.losses.get(identifier), per_sample, teacher, student, rtol=1e-4)


every_number = pytest.mark.parametrize("heads", [(2, 2), (4, 2), (1, 3)], ids=str)


@every_number
def test_tinybert_attention_equals_numpy(heads, random, assert_equals_numpy):
    check("tinybert_attention", heads, random, assert_equals_numpy)


@every_number
def test_minilm_attention_equals_numpy(heads, random, assert_equals_numpy):
    check("minilm_attention", heads, random, assert_equals_numpy)


@every_number
def test_minilm_relation_equals_numpy(heads, random, assert_equals_numpy):
    check("minilm_relation", heads, random, assert_equals_numpy)


def pairs_of(mask):
    return mask if mask.ndim == 3 else mask[:, :, None] & mask[:, None, :]


MASKS = {
    "tokens": KEPT,
    "pairs": pairs_of(KEPT) & CAUSAL,
    "keys alone": np.broadcast_to(KEPT[:, None, :], (BATCH, TOKENS, TOKENS)),
}


@pytest.mark.parametrize(
    ("identifier", "mask"),
    [(name, mask) for name in EQUATIONS for mask in MASKS if "relation" not in name]
    + [("minilm_relation", "tokens")],
)
@pytest.mark.parametrize("heads", [(2, 2), (4, 2)], ids=str)
def test_masked_pairs_do_not_count_whatever_stands_there(identifier, mask, heads, random, gradient):
    teacher, student = sides(identifier, heads, random)
    loss, mask = mr.losses.get(identifier), MASKS[mask]
    pairs = pairs_of(mask)
    values, counted = EQUATIONS[identifier](
        teacher.astype("float64"), student.astype("float64"), pairs
    )
    expected = values[counted].mean()
    hidden = ~KEPT if identifier == "minilm_relation" else None
    for rubbish in (0.0, np.nan, np.inf, 1e30):
        for side in (teacher, student):
            if hidden is not None:
                side[hidden] = rubbish
            else:
                side[np.broadcast_to(~pairs[:, None], side.shape)] = rubbish
        actual = loss.call({"teacher": teacher, "mask": mask}, student)
        np.testing.assert_allclose(np.mean(actual), expected, rtol=1e-4)
        slopes = gradient(
            lambda s, teacher=teacher: loss.call({"teacher": teacher, "mask": mask}, s), student
        ).numpy()
        assert np.isfinite(slopes).all()
        left_out = slopes[hidden] if hidden is not None else slopes * ~pairs[:, None]
        np.testing.assert_array_equal(left_out, 0.0)
        assert np.abs(slopes).max() > 1e-4


def test_a_mask_of_queries_alone_is_one_where_there_are_other_keys(random):
    teacher, student = random.normal(size=(2, BATCH, 2, TOKENS, 6)).astype("float32")
    values = mr.losses.get("tinybert_attention").call({"teacher": teacher, "mask": KEPT}, student)
    expected = ((student - teacher) ** 2).mean((1, 3))[KEPT].mean()
    np.testing.assert_allclose(np.mean(values), expected, rtol=1e-5)


def test_relation_heads_are_the_concatenated_vectors_cut_anew(random):
    teacher, student = sides("minilm_relation", (4, 2), random)
    whole = teacher.reshape(BATCH, TOKENS, -1), student.reshape(BATCH, TOKENS, -1)
    cut = whole[0].reshape(BATCH, TOKENS, 2, -1), whole[1].reshape(BATCH, TOKENS, 2, -1)
    plain, loss = mr.losses.MiniLMRelation(), mr.losses.MiniLMRelation(relation_heads=2)
    expected = plain.call(*cut)
    for pair in ((teacher, student), whole):
        np.testing.assert_allclose(loss.call(*pair), expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"relation_heads must divide the width .* together, 20"):
        mr.losses.MiniLMRelation(relation_heads=3).call(teacher, student)


MAPS, VALUES = [(2, 3, 4, 4), (2, 3, 5, 5)], [(2, 4, 3, 5), (2, 6, 3, 5)]


@pytest.mark.parametrize(
    ("identifier", "shapes"),
    [
        ("tinybert_attention", MAPS),
        ("tinybert_attention", [(2, 3, 4)] * 2),
        ("minilm_attention", MAPS),
        ("minilm_relation", VALUES),
        ("minilm_relation", [(2, 8)] * 2),
    ],
)
def test_what_is_not_of_the_same_tokens_is_refused(identifier, shapes):
    with pytest.raises(ValueError, match="of the same tokens"):
        mr.losses.get(identifier).call(*map(np.ones, shapes))


@pytest.mark.parametrize("shape", [(BATCH,), (BATCH, 7), (BATCH, TOKENS, 7)], ids=str)
def test_a_mask_of_other_tokens_is_refused(shape, random):
    teacher, student = sides("tinybert_attention", (2, 2), random)
    with pytest.raises(ValueError, match=r"needs a mask with one value for each token, \(batch, q"):
        mr.losses.get("tinybert_attention").call(
            {"teacher": teacher, "mask": np.ones(shape)}, student
        )
