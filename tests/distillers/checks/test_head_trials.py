"""Tests of heads that a trial tells: on made-up inputs, once, and of as few models as possible."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.distillers.checks import heads
from modreduce_keras.models import head_kinds, trials
from tests.support.models.headed import (
    average,
    called,
    dense_net,
    functional,
    nested,
)

L = keras.layers


def kd():
    return mr.Response("kd")


def refused_teacher(model):
    return pytest.raises(ValueError, match=f"The teacher {model.name!r} ends in a softmax or sig")


def embedded(inputs, ending=None):
    """A model of token ids, or of strings, that gives logits or probabilities."""
    hidden = L.Embedding(7, 4)(inputs)
    return keras.Model(inputs, L.Dense(3, ending)(L.GlobalAveragePooling1D()(hidden)))


def of_words(ending=None):
    inputs = keras.Input((), dtype="string")
    indices = L.StringLookup(vocabulary=["a", "b"])(inputs)
    return keras.Model(inputs, L.Dense(3, ending)(L.Embedding(3, 4)(indices)))


def of_several(ending=None):
    inputs = {
        "ids": keras.Input((None,), dtype="int32", name="ids"),
        "mask": keras.Input((None,), dtype="bool", name="mask"),
    }
    kept = keras.ops.expand_dims(keras.ops.cast(inputs["mask"], "float32"), -1)
    hidden = keras.ops.sum(L.Embedding(7, 4)(inputs["ids"]) * kept, axis=1)
    return keras.Model(inputs, L.Dense(3, ending)(hidden))


def of_images(ending=None):
    inputs = keras.Input((None, None, 3), dtype="uint8")
    maps = L.Conv2D(4, 3, strides=2)(L.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, L.Dense(3, ending)(L.GlobalAveragePooling2D()(maps)))


class OfIds(keras.Model):
    """A subclassed model, which does not say that it takes integers."""

    def __init__(self, ending=None):
        super().__init__()
        self.embedding, self.last = L.Embedding(7, 4), L.Dense(3, ending)

    def call(self, inputs):
        return self.last(keras.ops.mean(self.embedding(inputs), axis=1))


@pytest.mark.parametrize(
    "build",
    [
        lambda ending=None: embedded(keras.Input((5,), dtype="int32"), ending),
        of_words,
        of_several,
        of_images,
        lambda ending=None: called(OfIds(ending), np.zeros((1, 5), "int32")),
        lambda ending=None: keras.Sequential([keras.Input(batch_shape=(4, 3)), L.Dense(3, ending)]),
    ],
)
def test_models_of_many_inputs_are_run(build):
    for ending in (tf.nn.softmax, tf.nn.sigmoid):
        model = build(ending)
        with refused_teacher(model):
            mr.Distiller(student=build(), teacher=model, knowledge=[kd()])
    mr.Distiller(student=build(), teacher=build(tf.identity), knowledge=[kd()])


def test_a_model_that_takes_no_made_up_inputs_is_taken():
    def require_all_below_a_tenth(values):
        tf.debugging.assert_less(values, 0.0)
        return values

    model = keras.Sequential(
        [keras.Input((4,)), L.Lambda(require_all_below_a_tenth), L.Dense(3, tf.nn.softmax)]
    )
    assert heads.of_model(model).head() is None
    mr.Distiller(student=dense_net(), teacher=model, knowledge=[kd()])


def of_float_ids(ending, last=None, name=None):
    """A text model whose inputs have the default dtype, float32."""
    last = last or L.Dense(3)
    layers = [L.Embedding(20, 4), L.GlobalAveragePooling1D(), last, L.Activation(ending)]
    return keras.Sequential([keras.Input((8,)), *layers], name=name)


def of_float_categories(ending):
    encoding = L.CategoryEncoding(20, output_mode="multi_hot")
    return keras.Sequential([keras.Input((8,)), encoding, L.Dense(3, ending)])


def of_ids_and_numbers(ending):
    ids, numbers = keras.Input((8,), name="ids"), keras.Input((4,), name="numbers")
    embedded = L.GlobalAveragePooling1D()(L.Embedding(20, 4)(ids))
    last = L.Dense(3, ending)(L.Concatenate()([embedded, numbers]))
    return keras.Model({"ids": ids, "numbers": numbers}, last)


def nested_float_ids(ending):
    inputs = keras.Input((8,))
    return keras.Model(inputs, L.Identity()(of_float_ids(ending)(inputs)))


@pytest.mark.parametrize(
    "build", [of_float_ids, of_float_categories, of_ids_and_numbers, nested_float_ids]
)
def test_models_of_ids_in_floats_are_run(build):
    for ending in (tf.nn.softmax, tf.nn.sigmoid):
        model = build(ending)
        with refused_teacher(model):
            mr.Distiller(student=build(tf.identity), teacher=model, knowledge=[kd()])
    mr.Distiller(student=build(tf.identity), teacher=build(tf.identity), knowledge=[kd()])


@pytest.fixture
def runs(monkeypatch):
    """The runs of models on made-up inputs."""
    seen, run = [], trials.outputs_for
    monkeypatch.setattr(
        trials, "outputs_for", lambda *given, **more: seen.append(given) or run(*given, **more)
    )
    return seen


@pytest.mark.parametrize(
    "build",
    [
        dense_net,
        lambda: functional(L.Activation("linear", dtype="float32")),
        lambda: nested(None),
        lambda: average(None),
        lambda: keras.Sequential([keras.Input((4,)), L.Dense(3), L.Dropout(0.1), L.Flatten()]),
        lambda: functional(keras.ops.log_softmax),
    ],
)
def test_a_model_that_is_surely_linear_is_not_run(build, runs):
    distiller = mr.Distiller(student=build(), teacher=build(), knowledge=[kd()])
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert not runs


def test_a_model_that_may_end_in_anything_is_run_once(runs):
    model = functional(lambda z: L.Lambda(keras.ops.tanh, name="last")(z) / 2.0)
    inner = mr.Response("kd", student="logits", teacher="last", name="inner")
    mr.Distiller(
        student=functional(L.Identity()),
        teacher=model,
        knowledge=[kd(), mr.Response("dist"), inner],
    )
    assert len(runs) == 1


class Noisy(keras.Model):
    """It has state that a run would move, and a loss of its own."""

    def __init__(self):
        super().__init__()
        self.last, self.seeds = L.Dense(3), keras.random.SeedGenerator(1)
        self.runs = self.add_weight(name="runs", trainable=False, initializer="zeros")

    def call(self, inputs):
        self.runs.assign_add(1.0)
        self.add_loss(keras.ops.sum(inputs))
        return self.last(inputs + keras.random.normal(keras.ops.shape(inputs), seed=self.seeds))


def residual(ending, blocks=24):
    """A functional residual network; each stream splits in two and is added up again."""
    inputs = keras.Input((5, 4))
    tokens = inputs
    for _ in range(blocks):
        tokens = L.Add()([tokens, L.Dropout(0.1)(L.LayerNormalization()(tokens))])
        tokens = L.Add()([tokens, L.Dropout(0.1)(tokens)])
    return keras.Model(inputs, ending(tokens))


@pytest.mark.parametrize(
    "ending",
    [
        L.Identity(),
        lambda tokens: L.LayerNormalization()(tokens[:, 0]),
        lambda tokens: L.GlobalAveragePooling1D()(tokens),
    ],
    ids=["sum", "normalized", "pooled"],
)
def test_every_operation_of_a_graph_is_looked_at_once(ending, monkeypatch):
    visits, look = [], head_kinds._of_operation

    def counted(*given):
        visits.append(given)
        assert len(visits) < 500
        return look(*given)

    monkeypatch.setattr(head_kinds, "_of_operation", counted)
    assert heads.of_model(residual(ending)).head() == heads.LOGITS
    assert len(visits) <= 24 * 5 + 4


def test_a_trial_leaves_the_model_as_it_was():
    model = called(Noisy())
    before = [keras.ops.convert_to_numpy(v) for v in model.variables]
    assert heads.of_model(model).head() == heads.LOGITS
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert not model.losses
