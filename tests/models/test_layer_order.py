"""The order of a graph's layers: each after what it reads, the first paths first."""

import keras
from keras import layers

from modreduce_keras.models.layer_order import all_layers, weighted_layers


def names(found):
    return [layer.name for layer in found]


def dense(name):
    return layers.Dense(2, name=name)


def test_paths_that_join_come_one_after_the_other_whatever_their_length():
    inputs = keras.Input((2,))
    first = dense("d")(dense("c")(dense("b")(dense("a")(inputs))))
    short = dense("shortcut")(inputs)
    outputs = dense("end")(layers.Add(name="add")([first, short]))
    found = all_layers(keras.Model(inputs, outputs))
    assert names(found) == [*"abcd", "shortcut", "add", "end"]
    assert names(weighted_layers(keras.Model(inputs, outputs))) == [*"abcd", "shortcut", "end"]
    outputs = layers.Add(name="add")([short, first])
    assert names(weighted_layers(keras.Model(inputs, outputs))) == ["shortcut", *"abcd"]


def test_layers_of_nested_models_stand_where_the_model_does():
    inner = keras.Sequential([keras.Input((2,)), dense("x"), dense("y")], name="inner")
    inputs = keras.Input((2,))
    nested = keras.Model(inputs, dense("z")(inner(dense("w")(inputs))), name="nested")
    outer = keras.Sequential([keras.Input((2,)), dense("first"), nested, dense("last")])
    assert names(weighted_layers(outer)) == ["first", "w", "x", "y", "z", "last"]


def test_a_layer_that_runs_twice_comes_once():
    inputs, shared = keras.Input((2,)), dense("shared")
    model = keras.Model(inputs, dense("end")(shared(dense("middle")(shared(inputs)))))
    assert names(all_layers(model)) == ["shared", "middle", "end"]


def test_a_part_of_a_graph_has_its_own_layers_only():
    inputs = keras.Input((2,))
    middle = dense("below")(inputs)
    model = keras.Model(middle, dense("above")(middle))
    assert names(all_layers(model)) == ["above"]
