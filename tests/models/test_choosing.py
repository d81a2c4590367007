"""What is left out where layers=None means all layers with kernels."""

import keras
import pytest
from keras import layers

import modreduce_keras as mr


class Backbone(keras.Model):
    def __init__(self):
        super().__init__(name="backbone")
        self.one, self.two = layers.Dense(8, name="one"), layers.Dense(8, name="two")

    def call(self, x):
        return self.two(self.one(x))


def around(*within):
    stack = [*within, layers.Dense(8, name="head")]
    return keras.Sequential([keras.Input((4, 8)), *stack], name="net")


CALLS = {
    "prune": mr.prune,
    "cluster": mr.cluster,
    "low_rank": lambda model: mr.models.low_rank(model, rank=1),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_subclassed_backbone_that_stays_as_it_is_is_named(call):
    message = r"Of 'net' these stay as they are: 'backbone' \(Backbone around 2 with kernels\)\."
    with pytest.warns(UserWarning, match=message) as found:
        call(around(Backbone()))
    assert found[0].filename == __file__


def test_a_layer_with_lora_is_named_and_alone_refused():
    lora = layers.Dense(8, name="adapted")
    model = around(lora)
    lora.enable_lora(2)
    with pytest.warns(UserWarning, match=r"'adapted' \(Dense with LoRA\)"):
        mr.prune(model)
    model = keras.Sequential([keras.Input((8,)), lora])
    with pytest.raises(ValueError, match=r"of \['Dense'\], with .*'adapted' \(Dense with LoRA\)"):
        mr.prune(model)


def test_attention_and_what_is_named_are_left_out_without_a_warning():
    inputs = keras.Input((4, 8))
    attended = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    inner = keras.Sequential([keras.Input((4, 8)), layers.Dense(8)], name="inner")
    model = keras.Model(inputs, layers.Dense(3)(inner(attended)))
    kinds = [type(layer).__name__ for layer in mr.prune(model).layers]
    assert kinds == ["InputLayer", "MultiHeadAttention", "Sequential", "PrunedKernel"]
    mr.prune(around(Backbone()), layers=["head"])  # warnings are errors


def text(recurrent, words, units=4):
    stack = [layers.Embedding(words, 4, name="words"), recurrent(units), layers.Dense(30)]
    return keras.Sequential([keras.Input((5,), dtype="int32"), *stack, layers.Dense(3)], name="net")


HEAVY = {
    "words": (lambda: text(layers.GRU, words=500), r"'words \(Embedding, 2,000\)'"),
    "LSTM": (lambda: text(layers.LSTM, words=5, units=40), r"\(LSTM, 7,200\)"),
    "bidirectional": (
        lambda: text(lambda units: layers.Bidirectional(layers.GRU(units)), words=5, units=24),
        r"\(Bidirectional, ",
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("heavy", HEAVY)
def test_most_weights_elsewhere_are_warned_of(heavy, call):
    make, named = HEAVY[heavy]
    with pytest.warns(UserWarning, match=rf"of the weights of 'net'. Most .*{named}") as found:
        call(make())
    assert found[0].filename == __file__


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_few_weights_elsewhere_are_not(call):
    call(text(layers.GRU, words=5, units=2))  # warnings are errors
