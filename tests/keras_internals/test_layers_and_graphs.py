"""What is internal in Keras' layers, graphs and tensors, as the package relies on it.

A test that fails here names what a new version has changed; `make test-next` runs them against
pre-releases.
"""

import contextlib
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from modreduce_keras import keras_internals
from modreduce_keras.keras_internals import gradient_tapes


def nested():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="inner")], name="block")
    inputs = keras.Input((3,), name="x")
    return keras.Model(inputs, keras.layers.Dense(1, name="head")(inner(inputs)))


@pytest.mark.parametrize("kind", ["functional", "sequential", "subclassed", "layer"])
def test_layers_in_layers(kind):
    inside = nested()

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.below = [inside]

    outer = {
        "functional": lambda: inside,
        "sequential": lambda: keras.Sequential([keras.Input((3,)), *inside.layers[1:]]),
        "subclassed": Own,
        "layer": lambda: keras.layers.TimeDistributed(inside),
    }[kind]()
    every = keras_internals.flatten_layers(outer)
    assert every[0] is outer
    assert {"inner", "block", "head"} <= {one.name for one in every}
    below = keras_internals.flatten_layers(outer, include_self=False, recursive=False)
    assert "inner" not in {one.name for one in below}
    if kind in ("functional", "sequential"):
        assert [one for one in below if one in outer.layers] == outer.layers
    assert outer not in below


@pytest.mark.parametrize(
    ("network", "name", "widths"),
    [
        ("EfficientNetB0", "EfficientNet", ("width_coefficient", "depth_coefficient")),
        ("EfficientNetV2B0", "EfficientNetV2", ("width_coefficient", "depth_coefficient")),
        ("NASNetMobile", "NASNet", ("penultimate_filters", "num_blocks")),
    ],
)
def test_families_of_applications_take_widths_and_depths(network, name, widths):
    family = keras_internals.family_of(getattr(keras.applications, network), name)
    assert set(widths) <= set(inspect.signature(family).parameters)


@pytest.mark.parametrize("flash", [False, True])
def test_an_attention_layer_computes_its_scores_where_it_would_not(flash, random):
    layer = keras.layers.MultiHeadAttention(2, 3)
    x = random.normal(size=(1, 4, 6)).astype("float32")
    expected, softmax = layer(x, x), []
    layer._flash_attention = flash
    layer._softmax.call = lambda *args, call=layer._softmax.call, **kwargs: (
        softmax.append(args) or call(*args, **kwargs)
    )
    shown = keras_internals.call_showing_scores(layer, layer.call, (x, x), {})
    np.testing.assert_allclose(shown, expected, rtol=1e-5, atol=1e-6)
    assert len(softmax) == 1
    assert layer._flash_attention is flash


def test_losses_that_a_layer_itself_has_added():
    class Adds(keras.layers.Layer):
        def __init__(self, value, inside=None):
            super().__init__()
            self.value, self.inside = value, inside

        def call(self, inputs):
            self.add_loss(keras.ops.sum(inputs) * self.value)
            return inputs if self.inside is None else self.inside(inputs)

    outer = Adds(1.0, Adds(2.0))
    outer(np.ones((1, 1)))
    assert [float(one) for one in keras_internals.own_losses(outer)] == [1.0]
    assert sorted(float(one) for one in outer.losses) == [1.0, 2.0]


def test_a_call_that_keras_does_not_notice():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    call, weights = layer.call, layer.weights
    other = keras.layers.Dense(2)
    other.build((None, 3))
    keras_internals.set_unnoticed(layer, "call", lambda inputs: call(inputs) + other.kernel[0, 0])
    before = layer(np.zeros((1, 3), "float32"))
    np.testing.assert_array_equal(before, np.full((1, 2), other.kernel[0, 0]))
    keras_internals.set_unnoticed(layer, "other", other)
    assert [id(one) for one in layer.weights] == [id(one) for one in weights]
    assert other not in keras_internals.flatten_layers(layer)
    keras_internals.delete_unnoticed(layer, "call")
    np.testing.assert_array_equal(layer(np.zeros((1, 3), "float32")), np.zeros((1, 2)))


def test_what_a_layer_was_constructed_with():
    class Scales(keras.layers.Layer):
        def __init__(self, by, start=0, **kwargs):
            super().__init__(**kwargs)
            self.by = by

        def get_config(self):  # It forgets an argument.
            return {**super().get_config(), "by": self.by}

    made = keras_internals.constructor_arguments(Scales(2.0, name="one", dtype="bfloat16"))
    assert keras.dtype_policies.get(made.pop("dtype")).name == "bfloat16"
    assert made == {"by": 2.0, "start": 0, "name": "one"}
    assert keras_internals.constructor_arguments(Scales(np.zeros(3))) is None


def test_where_a_symbolic_tensor_comes_from():
    layer = keras.layers.Dense(3)
    inputs = keras.Input((3,))
    second = layer(layer(inputs))
    assert keras_internals.history_of(second) == (layer, 1, 0)
    parts = keras.ops.split(second, 3, axis=-1)
    history = keras_internals.history_of(parts[2])
    assert (history.call, history.output) == (0, 2)
    assert keras_internals.operation_of(parts[2]) is history.operation
    assert isinstance(history.operation, keras.Operation)
    assert isinstance(keras_internals.operation_of(inputs), keras.layers.InputLayer)


def test_calls_of_an_operation_and_who_reads_it():
    layer, head = keras.layers.Dense(3), keras.layers.Add()
    inputs = keras.Input((3,))
    first = layer(inputs)
    second = layer(first)
    total = head([first, second])
    calls = keras_internals.calls_of(layer)
    assert [one.operation for one in calls] == [layer, layer]
    assert [[id(t) for t in one.inputs] for one in calls] == [[id(inputs)], [id(first)]]
    assert [[id(t) for t in one.outputs] for one in calls] == [[id(first)], [id(second)]]
    readers = keras_internals.readers_of(layer)
    assert [one.operation for one in readers] == [layer, head, head]
    assert readers[1].key == readers[2].key == keras_internals.calls_of(head)[0].key
    assert [id(t) for t in readers[1].inputs] == [id(first), id(second)]
    assert id(readers[1].outputs[0]) == id(total)


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_calls_in_a_model_and_its_operations(kind):
    layer = keras.layers.Dense(3)
    if kind == "sequential":
        model = keras.Sequential([keras.Input((3,)), layer])
    else:
        inputs = keras.Input((3,))
        model = keras.Model(inputs, layer(inputs))
    layer(keras.Input((3,)))  # in no model
    keys = [one.key for one in keras_internals.calls_of(layer)]
    assert [key in keras_internals.calls_in(model) for key in keys].count(True) == 1
    assert keys[-1] not in keras_internals.calls_in(model)
    operations = keras_internals.operations_in(model)
    assert [type(one) for one in operations] == [keras.layers.InputLayer, keras.layers.Dense]
    assert operations[1] is layer


def test_calls_in_their_order():
    inputs = keras.Input((2,))
    shared = keras.layers.Dense(2, name="shared")
    first = shared(inputs)
    joined = keras.layers.Add(name="add")([keras.layers.ReLU(name="relu")(first), first])
    model = keras.Model(inputs, shared(joined))
    shared(first)  # in no model
    calls = keras_internals.calls_in_order(model)
    assert [one.operation.name for one in calls] == ["shared", "relu", "add", "shared"]
    assert {one.key for one in calls} < keras_internals.calls_in(model)


def test_a_graph_is_run_by_a_function():
    layer, called = keras.layers.Dense(2, name="dense"), []
    inputs = keras.Input((2,))
    for model in (keras.Model(inputs, [layer(inputs)]), keras.Sequential([inputs, layer])):
        x = tf.ones((1, 2))
        found = keras_internals.run_graph(model, x, lambda one, x: called.append(one) or one(x) + 1)
        np.testing.assert_allclose(keras.tree.flatten(found)[0], layer(x) + 1)
    assert called == [layer, layer]


@pytest.mark.parametrize("symbolic", [False, True])
def test_masks(symbolic):
    tokens = keras.Input((3,), dtype="int32") if symbolic else tf.constant([[1, 0, 2]])
    embedded = keras.layers.Embedding(3, 2, mask_zero=True)(tokens)
    mask = keras_internals.mask_of(embedded)
    assert tuple(mask.shape)[1:] == (3,)
    assert keras_internals.mask_of(tokens) is None
    plain = keras.ops.copy(embedded)
    assert keras_internals.mask_of(plain) is None
    keras_internals.set_mask(plain, mask)
    assert keras_internals.mask_of(plain) is mask
    if not symbolic:
        pooled = keras.layers.GlobalAveragePooling1D()(plain)
        np.testing.assert_allclose(pooled[0], np.mean(np.asarray(embedded)[0, [0, 2]], axis=0))


@pytest.mark.parametrize("compiled", [False, True])
def test_is_compiled_by_xla(compiled):
    import tensorflow as tf

    found = []

    @tf.function(jit_compile=compiled)
    def outer(x):
        return tf.while_loop(lambda i, x: i < 2, inner, (0, x))[1]

    def inner(i, x):
        found.append(keras_internals.is_compiled_by_xla(x))
        return i + 1, x * 2.0

    eager = tf.ones(2)
    np.testing.assert_array_equal(outer(eager), [4.0, 4.0])
    assert set(found) == {compiled}
    assert not keras_internals.is_compiled_by_xla(eager)


@pytest.mark.parametrize("compiled", [False, True])
def test_is_recorded(compiled):
    def found(recorded):
        with tf.GradientTape() if recorded else contextlib.nullcontext():
            return gradient_tapes.is_recorded()

    def both():
        return tf.constant([found(True), found(False)])

    assert (tf.function(both) if compiled else both)().numpy().tolist() == [True, False]


def test_layers_of_convnext_are_those_in_it():
    model = keras.src.applications.convnext.ConvNeXt(
        (1,) * 4, (4,) * 4, drop_path_rate=0.5, weights=None, input_shape=(32, 32, 3)
    )
    own = keras_internals.layers_of_convnext()
    assert set(own) <= {type(layer) for layer in model.layers}


def test_fourier_transforms_are_computed_otherwise():
    numbers = np.ones((2, 3), "float32"), np.zeros((2, 3), "float32")
    asked = []

    def instead(transform, given, axes):
        asked.append(axes)
        return transform(given)

    with keras_internals.fourier_transforms(instead):
        received = [one(numbers)[0] for one in (keras.ops.fft, keras.ops.fft2, keras.ops.ifft2)]
    assert asked == [1, 2, 2]
    assert [float(keras.ops.sum(one)) for one in received] == [6.0, 6.0, 1.0]
    keras.ops.fft(numbers)
    assert len(asked) == 3


def test_configs_that_hold_classes():
    given = {"layer": keras.layers.Dense}
    with keras_internals.classes_in_configs():
        written = keras.saving.serialize_keras_object(given)
        assert keras.utils.deserialize_keras_object(written) == given
    with pytest.raises(TypeError, match="get_config"):
        keras.utils.serialize_keras_object(given)


def test_what_a_layer_is_called_with():
    inputs = keras.Input((3, 2))
    layer = keras.layers.MultiHeadAttention(1, 2)
    layer(inputs, value=inputs, training=False)
    ((args, kwargs),) = keras_internals.arguments_of(layer)
    assert args[0] is inputs and kwargs["value"] is inputs


def test_a_layer_that_makes_no_node_of_a_call():
    inputs, layer = keras.Input((3,)), keras.layers.Dense(2)
    with keras_internals.calls_as(layer, lambda x: keras.ops.relu(x)):
        made = layer(inputs)
        assert layer(np.ones((1, 3), "float32")).shape == (1, 2)
    assert type(keras_internals.operation_of(made)).__name__ == "Relu"
    assert type(layer) is keras.layers.Dense and not keras_internals.calls_of(layer)
    assert layer(inputs).shape == (None, 2)
