"""Tests of a teacher cache of the largest logits: what is stored, its size, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, logsumexp

import modreduce_keras as mr
from modreduce_keras.data import shards
from modreduce_keras.top_k import TopK
from tests.support.trainings.cached import outputs_of

SAMPLES, TOKENS, CLASSES, K = 12, 5, 300, 7


def language_model(classes=CLASSES, width=4, name="teacher"):
    keras.utils.set_random_seed(2)
    tokens = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(50, width)(tokens)
    return keras.Model(tokens, keras.layers.Dense(classes)(hidden), name=name)


def indexed(tokens):
    return mr.data.with_index(tf.data.Dataset.from_tensor_slices((tokens, tokens))).batch(4)


@pytest.fixture
def tokens(random):
    return random.integers(50, size=(SAMPLES, TOKENS))


@pytest.fixture(scope="module")
def teacher():
    model = language_model()
    model.layers[-1].set_weights([40.0 * w - 90.0 for w in model.layers[-1].get_weights()])
    return model


def expected(logits):
    """The largest log probabilities in NumPy, and that of all others."""
    logs = log_softmax(np.float64(logits), axis=-1)
    order = np.argsort(-logs, axis=-1)
    largest = np.take_along_axis(logs, order[..., :K], axis=-1)
    rest = logsumexp(np.take_along_axis(logs, order[..., K:], axis=-1), axis=-1, keepdims=True)
    return np.concatenate([largest, rest], axis=-1), order[..., :K]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_largest_log_probabilities_and_the_rest_are_stored(dtype, teacher, tokens, tmp_path):
    cache = mr.data.TeacherCache(tmp_path, teacher, top_k=K, dtype=dtype)
    assert cache.fill(indexed(tokens)) == SAMPLES
    logs, classes = expected(teacher(tokens))
    bound = {"float32": 1e-4, "float16": np.abs(logs) * 2.0**-11 + 1e-4}[dtype]
    (path,) = shards.paths(tmp_path)
    stored = outputs_of(shards.read(path))
    assert [one.dtype for one in stored] == [dtype, "uint16"]
    assert (np.abs(stored[0] - logs) <= bound).all()
    np.testing.assert_array_equal(stored[1], classes)
    for x, _ in cache.attach(indexed(tokens)):
        (given,) = x["teacher_outputs"].values()
        few, rows = given["logits"], x["sample_index"].numpy()
        assert isinstance(few, TopK)
        assert few.has_rest
        assert few.logits.dtype == "float32"
        assert few.logits.shape[1:] == (TOKENS, K + 1)
        np.testing.assert_array_equal(few.logits, stored[0][rows])
        np.testing.assert_array_equal(few.indices, classes[rows])
    assert cache.fill(indexed(tokens)) == 0


def test_the_number_of_classes_decides_how_they_are_numbered(tokens, tmp_path):
    for classes, dtype in (
        (256, "uint8"),
        (257, "uint16"),
        (2**16, "uint16"),
        (2**16 + 1, "int32"),
    ):
        folder = tmp_path / str(classes)
        model = language_model(classes, width=1)
        mr.data.TeacherCache(folder, model, top_k=1).fill(indexed(tokens[:4]))
        (path,) = shards.paths(folder)
        assert outputs_of(shards.read(path))[1].dtype == dtype


@pytest.mark.parametrize(("dtype", "most"), [("float16", 260), ("float32", 400)])
def test_a_token_of_a_large_vocabulary_takes_little(dtype, most, random, tmp_path):
    tokens = random.integers(50, size=(16, 32))
    model = language_model(50_257, width=1)
    cache = mr.data.TeacherCache(tmp_path, model, top_k=64, dtype=dtype)
    cache.fill(indexed(tokens))
    files = sum(path.stat().st_size for path in shards.paths(tmp_path))
    assert cache.bytes_per_token == files / tokens.size <= most
    summary = cache.summary()
    assert f"{cache.bytes_per_token:,.0f} bytes a token" in summary
    assert "16 samples (in 1 views) of 32 tokens; the 64 largest logits" in summary


def test_what_all_logits_take_is_told_too(teacher, tokens, tmp_path):
    cache = mr.data.TeacherCache(tmp_path, teacher)
    with pytest.raises(ValueError, match=r"no cache in .*Fill it first: cache\.fill\(dataset\)"):
        cache.bytes_per_token  # noqa: B018
    cache.fill(indexed(tokens))
    assert 4 * CLASSES < cache.bytes_per_token < 4 * CLASSES + 40
    assert "all logits in float32" in cache.summary()


def test_of_several_outputs_those_of_few_classes_are_stored_whole(tokens, tmp_path):
    inputs = keras.Input((TOKENS,), dtype="int32")
    hidden = keras.layers.Embedding(50, 3)(inputs)
    heads = {
        "words": keras.layers.Dense(CLASSES, name="words")(hidden),
        "topic": keras.layers.Dense(K, name="topic")(keras.layers.Flatten()(hidden)),
    }
    model = keras.Model(inputs, heads)
    cache = mr.data.TeacherCache(tmp_path, model, top_k=K)
    cache.fill(indexed(tokens))
    (x, _), *_ = cache.attach(indexed(tokens))
    (given,) = x["teacher_outputs"].values()
    exact = model(tokens[:4])
    logs, classes = expected(exact["words"])
    np.testing.assert_allclose(given["logits"]["topic"], exact["topic"], rtol=1e-5)
    np.testing.assert_allclose(given["logits"]["words"].logits, logs, rtol=1e-5)
    np.testing.assert_array_equal(given["logits"]["words"].indices, classes)


@pytest.mark.parametrize("top_k", [None, K])
@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")], ids=str)
def test_tokens_are_those_of_all_outputs(top_k, names, tokens, tmp_path):
    inputs = keras.Input((TOKENS,), dtype="int32")
    hidden = keras.layers.Embedding(50, 3, name="hidden")(inputs)
    outputs = keras.layers.Dense(CLASSES)(hidden), keras.layers.Dense(3)(hidden[:, 0])
    model = keras.Model(inputs, dict(zip(names, outputs, strict=True)))
    cache = mr.data.TeacherCache(tmp_path, model, taps=["hidden"], top_k=top_k)
    cache.fill(indexed(tokens))
    files = sum(path.stat().st_size for path in shards.paths(tmp_path))
    assert cache.bytes_per_token == files / (len(tokens) * (TOKENS + 1))


def test_another_number_is_another_cache_and_another_rest_is_not(teacher, tokens, tmp_path):
    caches = [mr.data.TeacherCache(tmp_path, teacher, top_k=k) for k in (K, 8, None)]
    caches[0].fill(indexed(tokens))
    assert len({cache.fingerprint() for cache in caches}) == 3
    for cache in caches[1:]:
        with pytest.raises(ValueError, match=r"differs in top_k \(7 in the cache, (8|None) now\)"):
            cache.attach(indexed(tokens))
    again = mr.data.TeacherCache(tmp_path, teacher, top_k=K, rest="renormalized")
    assert again.fingerprint() == caches[0].fingerprint()
    again.attach(indexed(tokens))
    assert again.get_config()["top_k"] == K
    assert again.get_config()["rest"] == "renormalized"


def test_a_teacher_with_other_logits_is_refused(teacher, tokens, tmp_path):
    mr.data.TeacherCache(tmp_path, teacher, top_k=K).fill(indexed(tokens))
    inputs = keras.Input((None,), dtype="int32")
    other = keras.Model(inputs, 0.5 * teacher(inputs), name="other")
    with pytest.raises(ValueError, match="the weights are the same, but 'other' gives other out"):
        mr.data.TeacherCache(tmp_path, other, top_k=K).attach(indexed(tokens))


def test_all_logits_are_stored_whole_and_more_are_refused(teacher, tokens, tmp_path):
    logits = []
    for top_k in (CLASSES, None):
        cache = mr.data.TeacherCache(tmp_path / str(top_k), teacher, top_k=top_k)
        cache.fill(indexed(tokens))
        (x, _), *_ = cache.attach(indexed(tokens))
        logits.append(next(iter(x["teacher_outputs"].values()))["logits"])
    np.testing.assert_array_equal(*logits)
    cache = mr.data.TeacherCache(tmp_path / "more", teacher, top_k=CLASSES + 1)
    message = "top_k must be at most the number of classes.*top_k=301 and outputs of shapes"
    with pytest.raises(ValueError, match=message):
        cache.fill(indexed(tokens))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": 0}, "top_k must be None or a positive integer"),
        ({"top_k": 6.4}, "top_k must be None or a positive integer"),
        ({"rest": "none"}, r"rest must be one of \['one', 'renormalized'\]. Received: rest='none'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, teacher, tmp_path):
    with pytest.raises(ValueError, match=message):
        mr.data.TeacherCache(tmp_path, teacher, **arguments)
