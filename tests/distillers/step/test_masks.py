"""Masks of positions in features and relations: those of Keras, and given ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from tests.support.equations.masked import at, cka, hint, rkd_distance, sp, vkd, zeroed

pytestmark = pytest.mark.usefixtures("eagerly")

L = keras.layers
LENGTH, SAMPLES = 6, 8


@pytest.fixture
def tokens(random):
    ids = random.integers(1, 12, size=(SAMPLES, LENGTH)).astype("int32")
    for row, length in zip(ids, random.integers(1, LENGTH + 1, SAMPLES), strict=True):
        row[length:] = 0
    ids[0, 2:] = 0
    return ids


def network(kind, width, masks=True):
    """A network on tokens whose `"block"` gives (batch, tokens, width)."""
    inputs = keras.Input((LENGTH,), dtype="int32", name="token_ids")
    embedding = L.Embedding(12, width, mask_zero=masks, name="embedding")
    block, head = L.Dense(width, activation="tanh", name="block"), L.Dense(3)
    if kind == "subclassed":
        model = Subclassed(embedding, block, head)
        model(np.zeros((1, LENGTH), "int32"))
        return model
    if kind == "nested":
        body = keras.Sequential([keras.Input((LENGTH,), dtype="int32"), embedding, block])
        return keras.Model(inputs, head(L.GlobalAveragePooling1D()(body(inputs))))
    x = block(embedding(inputs))
    if kind == "dict":  # as models of keras-hub: no mask of Keras, and padding by name
        padding = keras.Input((LENGTH,), dtype="int32", name="padding_mask")
        kept = keras.ops.cast(padding, "float32")[..., None]
        pooled = keras.ops.sum(x * kept, 1) / keras.ops.sum(kept, 1)
        return keras.Model({"token_ids": inputs, "padding_mask": padding}, head(pooled))
    return keras.Model(inputs, head(L.GlobalAveragePooling1D()(x)))


class Subclassed(keras.Model):
    def __init__(self, embedding, block, head):
        super().__init__()
        self.embedding, self.block, self.head = embedding, block, head
        self.pool = L.GlobalAveragePooling1D()

    def call(self, inputs):
        return self.head(self.pool(self.block(self.embedding(inputs))))


@keras.saving.register_keras_serializable("tests")
def not_padding(inputs):
    return keras.ops.not_equal(inputs, 0)


@keras.saving.register_keras_serializable("tests")
def not_padding_of(inputs):
    return keras.ops.not_equal(inputs["token_ids"], 0)


def kind_of_knowledge(loss):
    return mr.Relation if mr.losses.get(loss).kind == "relation" else mr.Feature


def distiller(student, teacher, loss, compiled=True, **arguments):
    knowledge = kind_of_knowledge(loss)(loss, at="block", weight=1.0, **arguments)
    built = mr.Distiller(student=student, teacher=teacher, knowledge=[knowledge])
    if compiled:
        cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        built.compile(keras.optimizers.SGD(0.1), cross_entropy)
    return built


def logged(built, x):
    logs = built.train_on_batch(x, np.arange(SAMPLES) % 3, return_dict=True)
    return next(logs[name] for name in logs if name not in ("ce", "loss"))


def features_of(model, x):
    feature = mr.TapReader(model, ["block"])(x).features["block"]
    return tf.cast(feature, "float64").numpy()


def repadded(model, value):
    """Puts something else where padded tokens are looked up."""
    embedding = next(la for la in model._flatten_layers() if isinstance(la, L.Embedding))
    table = embedding.get_weights()[0]
    table[0] = value
    embedding.set_weights([table])


EQUATIONS = {f.__name__: f for f in (hint, vkd, at, sp, cka, rkd_distance)}
every_loss = pytest.mark.parametrize("loss", EQUATIONS)
SOURCES = {
    "keras": ("functional", True, {}),
    "nested": ("nested", True, {}),
    "subclassed": ("subclassed", True, {}),
    "function": ("functional", False, {"mask": not_padding}),
    "key": ("dict", False, {"mask": "padding_mask"}),
    "function_of_dict": ("dict", False, {"mask": not_padding_of}),
}


def inputs_of(kind, tokens):
    if kind != "dict":
        return tokens
    return {"token_ids": tokens, "padding_mask": (tokens != 0).astype("int32")}


def adapters_of(loss):
    return {} if loss == "vkd" else {"adapter": None}


@every_loss
@pytest.mark.parametrize("source", ["keras", "key"])
def test_the_value_is_that_of_the_tokens_that_are_no_padding(loss, source, tokens):
    kind, masks, arguments = SOURCES[source]
    student, teacher = network(kind, 4, masks), network(kind, 4, masks)
    x, kept = inputs_of(kind, tokens), tokens != 0
    built = distiller(student, teacher, loss, **adapters_of(loss), **arguments)
    sides = [features_of(model, x) for model in (student, teacher)]
    more = {}
    if loss == "vkd":
        adapter = built.knowledge["student"][0].adapter
        more = {"projection": np.array(adapter.projection(), "float64")}
    expected = EQUATIONS[loss](*sides, kept, **more)
    np.testing.assert_allclose(logged(built, x), expected, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize("source", SOURCES)
def test_what_stands_at_padding_changes_nothing(source, tokens):
    """Neither the logged value nor, by the gradient, the weights after a step."""
    kind, masks, arguments = SOURCES[source]
    runs = []
    for value in (0.0, 7.0):
        keras.utils.set_random_seed(3)
        student, teacher = network(kind, 4, masks), network(kind, 6, masks)
        for model in (student, teacher):
            repadded(model, value)
        built = mr.Distiller(
            student=student,
            teacher=teacher,
            knowledge=[
                mr.Feature("hint", at="block", **arguments),
                mr.Feature("vkd", at="block", **arguments),
                mr.Relation("sp", at="block", **arguments),
                mr.Feature("crd", at="block", adapter="contrastive_queue", **arguments),
            ],
        )
        built.compile("sgd")
        logs = built.train_on_batch(inputs_of(kind, tokens), return_dict=True)
        repadded(student, 0.0)
        runs.append((logs, student.get_weights() + built.get_weights()))
    assert runs[0][0] == runs[1][0]
    for one, other in zip(runs[0][1], runs[1][1], strict=True):
        if one.shape != (12, 4):  # the padding's own row
            np.testing.assert_array_equal(one, other)


def test_the_statistics_of_a_regressor_are_those_of_the_kept_tokens(tokens):
    student, teacher = network("functional", 4), network("functional", 6)
    knowledge = distiller(student, teacher, "hint", compiled=False).knowledge["student"][0]
    adapter, kept = knowledge.adapter, tf.constant(tokens != 0)
    features = features_of(student, tokens)
    sides = [tf.constant(side, "float32") for side in (features, features_of(teacher, tokens))]
    knowledge(*sides, kept={"student": kept, "teacher": kept}, training=True)
    kernel, bias = adapter.convolution.get_weights()
    regressed = (features @ kernel + bias)[tokens != 0]
    *_, mean, variance = adapter.normalization.get_weights()
    np.testing.assert_allclose(mean, 0.1 * regressed.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * regressed.var(0), rtol=1e-4)


@pytest.mark.graph
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_where_one_side_masks_it_counts_for_both(who, tokens):
    student = network("functional", 4, masks=who == "student")
    teacher = network("functional", 4, masks=who == "teacher")
    built = distiller(student, teacher, "hint", adapter=None)
    expected = hint(features_of(student, tokens), features_of(teacher, tokens), tokens != 0)
    np.testing.assert_allclose(logged(built, tokens), expected, rtol=1e-5)


def test_mask_false_counts_all_positions(tokens):
    student, teacher = network("functional", 4), network("functional", 4)
    built = distiller(student, teacher, "hint", adapter=None, mask=False)
    expected = hint(features_of(student, tokens), features_of(teacher, tokens), tokens >= 0)
    np.testing.assert_allclose(logged(built, tokens), expected, rtol=1e-5)


def tagger(width, masks):
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = L.Embedding(12, width, mask_zero=masks)(inputs)
    return keras.Model(inputs, L.Dense(3, name="logits")(x))


@pytest.mark.graph
@pytest.mark.parametrize("masks", [(True, False), (False, True), (False, False)])
def test_responses_take_masks_of_either_side_and_given_ones(masks, tokens):
    student, teacher = tagger(4, masks[0]), tagger(6, masks[1])
    given = None if any(masks) else not_padding
    built = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("logit_mse", mask=given)]
    )
    built.compile("sgd")
    squares = (student(tokens).numpy() - teacher(tokens).numpy()) ** 2
    value = built.train_on_batch(tokens, return_dict=True)["logit_mse"]
    np.testing.assert_allclose(value, squares.mean(-1)[tokens != 0].mean(), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
def test_half_precision_equals_float32(tokens, mixed_bfloat16):
    student, teacher = network("functional", 4), network("functional", 4)
    sides = features_of(student, tokens), features_of(teacher, tokens)
    assert student.get_layer("block").compute_dtype == "bfloat16"
    for loss, equation in {"hint": hint, "at": at, "sp": sp}.items():
        built = distiller(student, teacher, loss, adapter=None)
        built.compile(keras.optimizers.SGD(0.0))
        value = next(iter(built.train_on_batch(tokens, return_dict=True).values()))
        np.testing.assert_allclose(value, equation(*sides, tokens != 0), rtol=1e-3)


def test_a_regressor_in_half_precision_counts_many_tokens(mixed_bfloat16):
    """Ones that are added up in bfloat16 stop at 256."""
    adapter = mr.adapters.ConvRegressor(use_relu=False)
    features = tf.random.normal((40, 50, 3), mean=2.0, seed=1)
    kept = tf.random.uniform((40, 50), seed=2) < 0.5
    for training in (False, True):
        adapter(features, features, training=training, kept={"student": kept, "teacher": kept})
    kernel, bias = adapter.convolution.get_weights()
    regressed = (features.numpy() @ kernel + bias)[kept.numpy()]
    *_, mean, variance = adapter.normalization.get_weights()
    np.testing.assert_allclose(mean, 0.1 * regressed.mean(0), rtol=0.05, atol=1e-2)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * regressed.var(0), rtol=0.05)


def test_a_mask_goes_through_a_file(tokens, tmp_path):
    student, teacher = network("functional", 4, False), network("functional", 4, False)
    built = distiller(student, teacher, "hint", adapter=None, mask=not_padding)
    built.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    assert loaded.knowledge["student"][0].mask is not_padding
    assert logged(loaded, tokens) == logged(built, tokens)


@pytest.mark.parametrize("mask", [None, False, "padding_mask", not_padding])
def test_a_mask_goes_through_a_config(mask):
    knowledge = mr.Feature("hint", at="block", mask=mask)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(knowledge))
    assert again.mask == mask


@pytest.mark.graph
def test_a_cached_teacher_has_no_masks_and_the_students_hold(tokens, tmp_path):
    student, teacher = network("functional", 4), network("functional", 4)
    cache = mr.data.TeacherCache(tmp_path / "cache", teacher, taps=["block"])
    data = tf.data.Dataset.from_tensor_slices((tokens, np.arange(SAMPLES) % 3))
    data = mr.data.with_index(data).batch(SAMPLES)
    cache.fill(data)
    built = distiller(student, cache, "hint", adapter=None)
    expected = hint(features_of(student, tokens), features_of(teacher, tokens), tokens != 0)
    history = built.fit(cache.attach(data), shuffle=False, verbose=0).history
    np.testing.assert_allclose(history["hint"], [expected], rtol=1e-5)
    with pytest.raises(ValueError, match="or a cache, which holds no masks"):
        distiller(network("functional", 4, masks=False), cache, "hint", adapter=None)


# Refusals


@pytest.mark.parametrize("mask", [True, 3, [1, 0], np.ones((2, 3))])
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(TypeError, match="mask must be a key of the inputs"):
        mr.Feature("hint", at="block", mask=mask)


def convolved(width):
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = L.Embedding(12, width, mask_zero=True, name="words")(inputs)
    x = keras.ops.multiply(x, 2.0)  # an operation that drops the mask
    x = L.Conv1D(width, 3, padding="same", name="block")(x)
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x)))


def test_a_mask_that_a_layer_drops_is_not_forgotten_in_silence(tokens):
    student, teacher = convolved(4), convolved(4)
    with pytest.raises(ValueError, match=r"would count padded positions: the student .*'words'"):
        distiller(student, teacher, "hint", adapter=None)
    kept = distiller(student, teacher, "hint", adapter=None, mask=not_padding)
    expected = hint(features_of(student, tokens), features_of(teacher, tokens), tokens != 0)
    np.testing.assert_allclose(logged(kept, tokens), expected, rtol=1e-5)
    distiller(student, teacher, "hint", adapter=None, mask=False)


@pytest.mark.parametrize("loss", ["irg", "mhgd", "semckd", "reviewkd", "fsp"])
def test_what_cannot_leave_positions_out_says_so(loss):
    student, teacher = network("functional", 4), network("functional", 4)
    with pytest.raises(ValueError, match=r"take masks: |needs|reads several taps"):
        distiller(student, teacher, loss, adapter=None)


def test_an_adapter_that_mixes_positions_says_so(tokens):
    student, teacher = network("functional", 4), network("functional", 4)
    with pytest.raises(ValueError, match=r"the adapter 'factors'|takes feature maps"):
        distiller(student, teacher, "ft")
    distiller(student, teacher, "ft", adapter=None)


def test_a_mask_that_fits_no_position_is_refused(tokens):
    student, teacher = network("functional", 4, False), network("functional", 4, False)

    def shorter(inputs):
        return inputs[:, 1:] != 0

    with pytest.raises(ValueError, match=r"for the positions \(6,\) of the student's feature"):
        distiller(student, teacher, "hint", adapter=None, mask=shorter)


def test_a_mask_for_features_without_positions_is_refused():
    def net():
        inputs = keras.Input((4,))
        return keras.Model(inputs, L.Dense(3)(L.Dense(4, name="block")(inputs)))

    with pytest.raises(ValueError, match="would do nothing, as neither feature has positions"):
        distiller(net(), net(), "hint", adapter=None, mask=not_padding)


def test_a_key_that_the_inputs_do_not_have_is_refused(tokens):
    student, teacher = network("functional", 4, False), network("functional", 4, False)
    built = distiller(student, teacher, "hint", adapter=None, mask="padding_mask")
    with pytest.raises(ValueError, match="mask='padding_mask' of knowledge 'hint' is a key"):
        logged(built, tokens)


def test_student_and_teacher_of_other_lengths(tokens, random):
    """Relations take a mask of each side; losses of maps average over what is kept."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = L.Embedding(12, 4, mask_zero=True)(inputs)
    shorter = L.Dense(4, name="block")(Every2nd()(x))
    student = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(shorter)))
    teacher = network("functional", 4)
    sides = features_of(student, tokens), features_of(teacher, tokens)
    kept = [tokens[:, ::2] != 0, tokens != 0]
    grams = [zeroed(f, k) @ zeroed(f, k).T for f, k in zip(sides, kept, strict=True)]
    a, b = (g / np.linalg.norm(g, axis=1, keepdims=True) for g in grams)
    built = distiller(student, teacher, "sp")
    np.testing.assert_allclose(logged(built, tokens), ((a - b) ** 2).mean(), rtol=1e-4)
    pairs = zeroed_pairs(sides[1], kept[1])
    squares = ((features_of(student, tokens) - pairs) ** 2).mean(-1)
    both = kept[0] & kept[1].reshape(*kept[0].shape, 2).any(-1)
    built = distiller(student, teacher, "hint", adapter=None)
    np.testing.assert_allclose(logged(built, tokens), squares[both].mean(), rtol=1e-4)
    of_keras = mr.Feature(keras.losses.MeanSquaredError(), at="block")
    with pytest.raises(ValueError, match="student and the teacher need the same positions"):
        mr.Distiller(student=student, teacher=teacher, knowledge=[of_keras])


def zeroed_pairs(features, kept):
    """Returns the mean of each two neighbouring tokens over those that are kept."""
    weights = kept.reshape(len(kept), -1, 2, 1).astype("float64")
    tokens = features.reshape(len(kept), -1, 2, features.shape[-1])
    return (tokens * weights).sum(2) / np.maximum(weights.sum(2), 1)


class Every2nd(L.Layer):
    """Keeps every second token, and its mask."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs):
        return inputs[:, ::2]

    def compute_mask(self, inputs, mask=None):
        return None if mask is None else mask[:, ::2]
