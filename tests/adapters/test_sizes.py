"""Features of any two sizes and of any rank: the larger is averaged down to the smaller."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras import ops
from modreduce_keras.losses.attention_base import AttentionLoss
from modreduce_keras.losses.response_base import ResponseLoss
from modreduce_keras.registry import components

L = keras.layers
OF_EQUAL_SHAPES = {"cosine", "dino", "minilm_relation"}
ON_FEATURES = [
    name
    for name, cls in components("loss").items()
    if cls.__module__.startswith("modreduce_keras.")
    and cls.kind != "response"
    and not issubclass(cls, (ResponseLoss, AttentionLoss))
    and name not in OF_EQUAL_SHAPES
]
OF_SEVERAL = {"ab", "fsp", "irg", "mhgd", "ofd", "reviewkd", "semckd"}
MIXED = (5, 7), (7, 5)
SIZES = {
    "5x5 and 7x7": ((5, 5), (7, 7)),
    "8x8 and 4x4": ((8, 8), (4, 4)),
    "4x4 and 8x8": ((4, 4), (8, 8)),
    "9 and 7": ((9,), (7,)),
    "volumes": ((3, 4, 4), (4, 4, 2)),
    "tokens of any number": ((None,), (None,)),
}
REFUSED = {"tokens of any number": {"catkd", "cc", "crd", "reviewkd", "semckd"}}
"""What needs a known size; everything else holds."""


def windows(size, target):
    return [(i * size // target, -(-(i + 1) * size // target)) for i in range(target)]


def averaged(maps, sizes, kept=None):
    """Returns the mean of each window over what is kept, and which have any, in float64."""
    kept = np.ones(maps.shape[:-1], bool) if kept is None else kept
    result = np.zeros((len(maps), *sizes, maps.shape[-1]))
    any_kept = np.zeros((len(maps), *sizes), bool)
    edges = [windows(*pair) for pair in zip(maps.shape[1:-1], sizes, strict=True)]
    for sample, place in itertools.product(range(len(maps)), np.ndindex(*sizes)):
        at = (sample, *(slice(*edge[i]) for edge, i in zip(edges, place, strict=True)))
        inside = maps[at][kept[at]].astype("float64")
        any_kept[(sample, *place)] = len(inside) > 0
        result[(sample, *place)] = inside.mean(0) if len(inside) else 0.0
    return result, any_kept


def some(random, *shape):
    return random.normal(size=shape).astype("float32")


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("sizes", [MIXED, SIZES["9 and 7"], SIZES["volumes"]], ids=str)
def test_both_are_averaged_down_to_the_smaller_size_along_each_axis(sizes, masked, random):
    least = tuple(map(min, *sizes))
    pair = [some(random, 2, *size, 3) for size in sizes]
    kept = [random.random((2, *size)) > 0.7 if masked else None for size in sizes]
    with tf.GradientTape() as tape:
        tensors = [tf.constant(maps) for maps in pair]
        tape.watch(tensors)
        matched = ops.pooled_to_match(*tensors, kept)
        total = sum(tf.reduce_sum(maps) for maps in matched)
    slopes = tape.gradient(total, tensors)
    for maps, mask, result, slope in zip(pair, kept, matched, slopes, strict=True):
        same = maps.shape[1:-1] == least
        expected, any_kept = averaged(maps, least, mask)
        np.testing.assert_allclose(result, maps if same else expected, rtol=1e-5, atol=1e-6)
        if masked:
            np.testing.assert_array_equal(ops.mask_at(tf.constant(mask), least), any_kept)
            wholly = ~averaged(maps, least, ~mask)[1]
            np.testing.assert_array_equal(ops.mask_at(tf.constant(mask), least, "all"), wholly)
        assert (np.abs(slope)[mask if masked and not same else ...] > 0).all()
        if masked and not same:
            np.testing.assert_array_equal(slope[~mask], 0.0)


def test_a_mask_goes_to_a_larger_size():
    mask = tf.constant([[True, True, True, False]])
    np.testing.assert_array_equal(ops.mask_at(mask, (6,), "all"), [[1, 1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(ops.mask_at(mask, (6,)), [[1, 1, 1, 1, 1, 0]])


def test_a_regressor_of_a_smaller_student_sees_what_both_were_averaged_to(random):
    student, teacher = (some(random, 2, *size, 3) for size in MIXED)
    adapter = mr.adapters.ConvRegressor(batch_normalization=False)
    regressed, matched = adapter(student, teacher)
    kernel, bias = adapter.get_weights()
    expected = np.maximum(averaged(student, (5, 5))[0] @ kernel[0, 0] + bias, 0)
    np.testing.assert_allclose(regressed, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(matched, averaged(teacher, (5, 5))[0], rtol=1e-5, atol=1e-6)


def network(sizes, width):
    inputs = keras.Input((*sizes, 3))
    first = L.Dense(width, activation="relu", name="first")(inputs)
    last = L.Dense(width + 1, name="last")(first)
    pool = getattr(L, f"GlobalAveragePooling{len(sizes)}D")
    return keras.Model(inputs, L.Dense(3, name="logits")(pool(name="embedding")(last)))


def knowledge_of(loss):
    taps = {"at": ["first", "last"] if loss in OF_SEVERAL else "last"}
    if loss == "shake":
        taps = {"student": "logits", "teacher": ["last", "logits"]}
    if loss == "simkd":
        taps["adapter"] = "channel_projector"
    if loss == "crd":
        taps["adapter"] = mr.adapters.ContrastiveMemory(samples=8, negatives=3, units=4)
    kind = mr.Relation if components("loss")[loss].kind == "relation" else mr.Feature
    return kind(loss, **taps)


def labels(loss, pair):
    if not loss.label_maps:
        return tf.range(4) % 3
    return np.indices(pair[1].shape[:-1]).sum(axis=0) % 3


def built(loss, student, teacher):
    """Returns a knowledge that is built for two models, and the features that it reads."""
    knowledge, features = knowledge_of(loss), []
    if hasattr(knowledge.adapter, "adopt"):
        knowledge.adapter.adopt(student, teacher)
    for model, taps in ((student, knowledge.student), (teacher, knowledge.teacher)):
        features.append(keras.tree.map_structure(lambda n, m=model: m.get_layer(n).output, taps))
    knowledge.build(*(keras.tree.map_structure(lambda f: f.shape, side) for side in features))
    return knowledge, features


@pytest.mark.parametrize("case", SIZES)
def test_every_loss_on_features_takes_any_two_sizes_or_says_what_to_do(case, random):
    models = [network(sizes, width) for sizes, width in zip(SIZES[case], (4, 6), strict=True)]
    refused = set()
    for loss in ON_FEATURES:
        try:
            knowledge, features = built(loss, *models)
        except ValueError as error:
            assert "known size" in str(error), error
            refused.add(loss)
            continue
        pair = keras.tree.map_structure(
            lambda f: tf.constant(some(random, 4, *(size or 6 for size in f.shape[1:]))), features
        )
        if loss == "lsp" and len(pair[0].shape) == 3:
            with pytest.raises(ValueError, match="needs edges where each sample is a graph"):
                knowledge(*pair, training=True)
            continue
        with tf.GradientTape() as tape:
            tape.watch(pair[0])
            values = knowledge(
                *pair, labels=labels(knowledge.loss, pair), index=tf.range(4), training=True
            )
            total = tf.reduce_sum(values)
        slopes = tf.nest.flatten(tape.gradient(total, pair[0]))
        assert values.shape == (4,), loss
        assert np.isfinite(values).all(), loss
        assert any(slope is not None and np.abs(slope).max() > 0 for slope in slopes), loss
    assert refused == REFUSED.get(case, set())


MASKED = ["ab", "at", "cwd", "fgfi", "hint", "ickd", "nst", "ofd", "simkd", "vid"]
MASKED += ["pairwise", "pkd"]


@pytest.mark.parametrize("of_one_side", [False, True], ids=["of both", "of the student"])
def test_padding_counts_for_nothing_between_sequences_of_other_lengths(of_one_side, random):
    """What stands at padding changes neither the value nor the gradient."""
    student, teacher = some(random, 3, 7, 4), some(random, 3, 9, 5)
    lengths = np.array([[7], [3], [4]])
    kept = {"student": np.arange(7) < lengths, "teacher": np.arange(9) < lengths + 1}
    if of_one_side:
        pair = tf.constant(student), tf.constant(teacher)
        kept = mr.knowledge.masks.kept("test", pair, (None, None), tf.constant(kept["student"]))
        assert np.asarray(kept["teacher"]).sum(1).tolist() == [9, 3, 5]
    kept = {side: tf.constant(mask) for side, mask in kept.items()}
    noisy = [
        np.where(kept[side].numpy()[..., None], maps, 99.0).astype("float32")
        for side, maps in (("student", student), ("teacher", teacher))
    ]
    models = network((7,), 3), network((9,), 4)
    for loss in MASKED:
        taps = "last" if loss not in OF_SEVERAL else ["last"]
        adapter = {"adapter": "channel_projector"} if loss in ("simkd", "ofd") else {}
        knowledge = mr.Feature(loss, at=taps, **adapter)
        knowledge.build(
            *(
                keras.tree.map_structure(lambda n, m=m: m.get_layer(n).output.shape, taps)
                for m in models
            )
        )
        results = []
        for pair in ((student, teacher), noisy):
            pair = [tf.constant(maps) for maps in pair]
            with tf.GradientTape() as tape:
                tape.watch(pair[0])
                sides = [[maps] if loss in OF_SEVERAL else maps for maps in pair]
                values = knowledge(*sides, kept=kept, training=True)
            results.append((values, tape.gradient(values, pair[0])))
        (values, slopes), (again, slopes_again) = results
        np.testing.assert_allclose(again, values, rtol=1e-5, err_msg=loss)
        np.testing.assert_allclose(slopes_again, slopes, rtol=1e-4, atol=1e-6, err_msg=loss)
        np.testing.assert_array_equal(slopes[~kept["student"]], 0.0, err_msg=loss)
        assert np.abs(slopes).max() > 0, loss
        if loss == "hint":
            projected = knowledge.adapter(*pair, training=True, kept=kept)[0]
            assert projected.shape == (3, 7, 5)


def test_a_masked_hint_is_the_mean_over_what_both_keep(random):
    student, teacher = some(random, 3, 7, 4), some(random, 3, 9, 4)
    kept = [np.arange(n) < np.array([[n], [3], [5]]) for n in (7, 9)]
    pooled, any_kept = averaged(teacher, (7,), kept[1])
    both = kept[0] & any_kept
    squares = ((student - pooled) ** 2).mean(-1)
    knowledge = mr.Feature("hint", at="last", adapter=None)
    masks = {side: tf.constant(m) for side, m in zip(("student", "teacher"), kept, strict=True)}
    values = knowledge(tf.constant(student), tf.constant(teacher), kept=masks)
    np.testing.assert_allclose(np.mean(values), squares[both].mean(), rtol=1e-5)


def test_a_sequence_of_open_length_goes_with_one_of_a_fixed_length(random):
    def net(length, width, name):
        tokens = keras.Input((length,), dtype="int32")
        hidden = keras.layers.Dense(width, name="hidden")(keras.layers.Embedding(9, 4)(tokens))
        pooled = keras.layers.GlobalAveragePooling1D()(hidden)
        return keras.Model(tokens, keras.layers.Dense(3)(pooled), name=name)

    student, teacher = net(None, 5, "student"), net(6, 5, "teacher")
    hint = mr.Feature("hint", at="hidden", adapter=None)
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=hint)
    distiller.compile("sgd", evaluate_knowledge=True)
    x = np.arange(12).reshape(2, 6) % 9

    def hidden(model):
        (table,), (kernel, bias) = (model.layers[i].get_weights() for i in (1, 2))
        return table[x] @ kernel + bias

    expected = ((hidden(student) - hidden(teacher)) ** 2).mean()
    logs = distiller.evaluate(x, verbose=0, return_dict=True)
    assert logs["hint"] == pytest.approx(expected, rel=1e-5)
