"""Causal language models with padding, and a weight for each token, in Distiller and ModReduce."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")

L = keras.layers
TEXTS, TOKENS, VOCABULARY = 6, 5, 11


def language_model(width, name, seed):
    """What a batch looks like is as keras-hub's preprocessors of causal models have it."""
    keras.utils.set_random_seed(seed)
    names = ("token_ids", "padding_mask")
    inputs = {key: keras.Input((None,), dtype="int32", name=key) for key in names}
    hidden = L.Embedding(VOCABULARY, width)(inputs["token_ids"])
    padding = keras.ops.cast(inputs["padding_mask"], "bool")[:, None, :]
    attended = L.MultiHeadAttention(2, width // 2)(
        hidden, hidden, use_causal_mask=True, attention_mask=padding
    )
    hidden = L.Add(name="hidden")([hidden, attended])
    model = keras.Model(inputs, L.Dense(VOCABULARY)(hidden), name=name)
    model.set_weights([4.0 * weight for weight in model.get_weights()])
    return model


@pytest.fixture
def texts(random):
    """`(x, y, sample_weight)`: texts of several lengths, weights of 0 at padding."""
    lengths = np.array([5, 2, 3, 1, 4, 2])
    padding = (np.arange(TOKENS) < lengths[:, None]).astype("int32")
    x = {
        "token_ids": random.integers(1, VOCABULARY, (TEXTS, TOKENS)).astype("int32") * padding,
        "padding_mask": padding,
    }
    weights = (random.uniform(0.5, 2.0, (TEXTS, TOKENS)) * padding).astype("float32")
    return x, random.integers(0, VOCABULARY, (TEXTS, TOKENS)), weights


def one_distiller():
    padded = {"mask": "padding_mask"}
    return mr.Distiller(
        student=language_model(4, "student", 3),
        teacher=language_model(8, "teacher", 2),
        knowledge=[
            *("kd", "reverse_kl", "gkd", "skew_kl"),
            mr.Response("dist", **padded),
            mr.Feature("hint", at="hidden", **padded),
            mr.Relation("sp", at="hidden", **padded),
        ],
    )


def peers(aggregator):
    return mr.ModReduce(
        teacher=language_model(8, "teacher", 2),
        students={name: language_model(4, name, 3 + i) for i, name in enumerate("ab")},
        knowledge={"a": ["kd"], "b": ["gkd"]},
        aggregator=aggregator,
    )


def trained(distiller, texts):
    """Returns the logs of a step, and the weights after it."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.5), loss)
    data = tf.data.Dataset.from_tensor_slices(texts).batch(TEXTS)
    logs = distiller.fit(data, shuffle=False, verbose=0).history
    weights = [variable.numpy() for variable in distiller.trainable_variables]
    return {name: values[0] for name, values in logs.items()}, weights


@pytest.mark.parametrize("made", ["distiller", "weighted_average", "kdcl", "codistillation"])
def test_what_stands_at_padding_changes_no_term_and_no_gradient(made, texts, random):
    x, labels, weights = texts
    counts = weights > 0
    other_x = {
        **x,
        "token_ids": np.where(counts, x["token_ids"], random.integers(1, VOCABULARY, counts.shape)),
    }
    others = (other_x, np.where(counts, labels, 0), weights)
    make = one_distiller if made == "distiller" else lambda: peers(made)
    (logs, moved), (other_logs, other_moved) = (trained(make(), one) for one in (texts, others))
    assert len(logs) >= 6
    assert other_logs == pytest.approx(logs, rel=1e-5)
    for one, other in zip(moved, other_moved, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def softened(logits, temperature):
    return log_softmax(np.float64(logits) / temperature, axis=-1)


def kl(teacher, student, temperature):
    first, second = softened(teacher, temperature), softened(student, temperature)
    return temperature**2 * (np.exp(first) * (first - second)).sum(axis=-1)


def ce(labels, logits):
    return -np.take_along_axis(softened(logits, 1.0), labels[..., None], axis=-1)[..., 0]


def test_terms_of_peers_are_weighted_as_keras_weighs_a_loss(texts):
    """The sum of weight times value over all tokens, divided by the number of tokens."""
    x, labels, weights = texts
    distiller = peers("mean")
    teacher = np.asarray(distiller.teacher(x))
    logits = {name: np.asarray(student(x)) for name, student in distiller.students.items()}
    ensemble = sum(logits.values()) / 2
    temperature = float(distiller.online_loss.temperature)
    expected = {
        **{f"{name}/ce": ce(labels, own) for name, own in logits.items()},
        **{f"{name}/online": kl(ensemble, own, temperature) for name, own in logits.items()},
        "a/kd": kl(teacher, logits["a"], 4.0),
        "ensemble/ce": ce(labels, ensemble),
    }
    logs, _ = trained(distiller, texts)
    for name, values in expected.items():
        np.testing.assert_allclose(logs[name], (weights * values).mean(), rtol=1e-4)


def masking(name, seed):
    keras.utils.set_random_seed(seed)
    tokens = keras.Input((None,), dtype="int32")
    hidden = L.Embedding(VOCABULARY, 4, mask_zero=True)(tokens)
    model = keras.Model(tokens, L.Dense(VOCABULARY)(hidden), name=name)
    model.set_weights([9.0 * weight for weight in model.get_weights()])
    return model


def test_online_losses_leave_out_what_keras_masks(texts):
    x, labels, _ = texts
    x, kept = x["token_ids"], x["token_ids"] != 0
    students = {name: masking(name, 3 + i) for i, name in enumerate("ab")}
    distiller = mr.PeerDistiller(students=students, aggregator="mutual")
    logits = [np.asarray(student(x)) for student in students.values()]
    temperature = float(distiller.online_loss.temperature)
    logs, _ = trained(distiller, (x, labels))
    for name, pair in (("a", logits[::-1]), ("b", logits)):
        expected = kl(*pair, temperature)[kept].mean()
        np.testing.assert_allclose(logs[f"{name}/online"], expected, rtol=1e-4)


def test_what_looks_at_whole_samples_is_refused():
    message = r"PCL looks at \['features'\] of whole samples, and takes logits \(batch, classes\)"
    with pytest.raises(ValueError, match=message):
        peers("pcl")


def test_peers_of_other_positions_are_refused():
    inputs = keras.Input((4, 3))
    whole = keras.Model(inputs, L.Dense(2)(L.Flatten()(inputs)))
    each = keras.Model(inputs, L.Dense(2)(inputs))
    with pytest.raises(ValueError, match=r"of equal positions\. Received: outputs of shapes"):
        mr.PeerDistiller(students={"a": each, "b": whole}, aggregator="mean")


def test_another_vocabulary_is_refused_with_the_reason():
    inputs = keras.Input((None,), dtype="int32")
    hidden = L.Embedding(VOCABULARY, 4)(inputs)
    student, teacher = (keras.Model(inputs, L.Dense(size)(hidden)) for size in (11, 12))
    message = (
        r"vocabularies, these differ, and a token of one is another word in the other: give the "
        r"student the teacher's tokenizer.*Received: a student with 11 and a teacher with 12"
    )
    with pytest.raises(ValueError, match=message):
        mr.Distiller(student=student, teacher=teacher, knowledge="kd")


@pytest.mark.parametrize("aggregator", ["kdcl", "codistillation"])
def test_peers_take_maps_of_class_indices_as_they_take_one_hot_ones(aggregator, random):
    """Also where a map is as wide as there are classes."""

    def net(name, seed):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((4, 3, 2))
        return keras.Model(inputs, L.Conv2D(3, 1)(inputs), name=name)

    maps, labels = random.normal(size=(5, 4, 3, 2)), random.integers(0, 3, (5, 4, 3))
    found = []
    for one_hot in (False, True):
        students = [net("a", 1), net("b", 2)]
        distiller = mr.PeerDistiller(students=students, aggregator=aggregator)
        kind = "CategoricalCrossentropy" if one_hot else "SparseCategoricalCrossentropy"
        distiller.compile("sgd", getattr(keras.losses, kind)(from_logits=True))
        y = np.eye(3, dtype="float32")[labels] if one_hot else labels
        logs = distiller.fit(maps, y, verbose=0, shuffle=False).history
        found.append({name: values[0] for name, values in logs.items()})
    by_kind = [sorted(logs.values()) for logs in found]
    np.testing.assert_allclose(by_kind[0], by_kind[1], rtol=1e-4)
