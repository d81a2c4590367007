"""What holds for every registered adapter, over the registry."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import BATCH, DEGENERATE, assert_close, changed, degenerate, normal, with_labels

import modreduce_keras as mr
from modreduce_keras import knobs
from modreduce_keras.registry import components

every_adapter = pytest.mark.parametrize(
    ("identifier", "shapes"),
    [(name, shapes) for name, a in components("adapter").items() for shapes in a.example_shapes],
)


def new_adapter(identifier, **arguments):
    """Returns an adapter, and has it adopt two small models that end in a classifier."""
    adapter = mr.adapters.get(identifier, **components("adapter")[identifier].example_arguments)
    adapter = type(adapter).from_config({**adapter.get_config(), **arguments})
    adopt(adapter, ADOPTED)
    return adapter


def adopt(adapter, widths):
    if type(adapter).adopt is mr.adapters.Adapter.adopt:
        return
    # Named as every network of ours; wide enough for what the example shapes of adapters need.
    networks = [mr.models.get("convnet", num_classes=5, widths=(4, width)) for width in widths]
    adapter.adopt(*networks)


ADOPTED = (6, 8)


def adapted(adapter, pair, training=None):
    """Returns what an adapter makes of (student, teacher): a flat list for each side."""
    index = {"index": np.arange(BATCH)} if adapter.needs_index else {}
    outputs = adapter(*pair, training=training, **index)
    return [keras.tree.flatten(side) for side in outputs]


def example_pair(shapes, random):
    return [normal(shape, BATCH, random) for shape in shapes]


def with_batch(shapes):
    if all(isinstance(size, int) for size in shapes):
        return (None, *shapes)
    return [with_batch(shape) for shape in shapes]


@every_adapter
def test_adapter_survives_its_config(identifier, shapes, round_trip, random):
    adapter = new_adapter(identifier, name="renamed")
    again = round_trip(adapter)
    assert type(again) is type(adapter)
    assert again.get_config() == adapter.get_config()
    pair = example_pair(shapes, random)
    keras.utils.set_random_seed(0)
    adopt(again, ADOPTED)
    keras.utils.set_random_seed(0)
    adopt(adapter, ADOPTED)
    adapted(adapter, pair)
    adapted(again, pair)
    again.set_weights(adapter.get_weights())
    for ours, theirs in zip(adapted(again, pair), adapted(adapter, pair), strict=True):
        keras.tree.map_structure(np.testing.assert_array_equal, ours, theirs)


@every_adapter
def test_adapter_makes_what_its_losses_compare(identifier, shapes, random):
    adapter = new_adapter(identifier)
    pair = example_pair(shapes, random)
    outputs = adapted(adapter, pair)
    losses = [cls() for cls in components("loss").values() if cls.default_adapter == identifier]
    if not losses:
        student, teacher = outputs
        assert [side.shape for side in student] == [side.shape for side in teacher]
    index = {"index": np.arange(BATCH)} if adapter.needs_index else {}
    for loss in losses:
        student, teacher = adapter(*pair, **index)
        values = loss.call(with_labels(loss, teacher), student)
        assert tuple(values.shape) == (BATCH,)
        assert np.isfinite(values).all()


@every_adapter
def test_adapter_creates_its_weights_in_build_and_again_from_its_build_config(identifier, shapes):
    adapter = new_adapter(identifier)
    # Knobs, which change from outside, are there from the start.
    assert len(adapter.weights) == len(knobs.variables(adapter))
    adapter.build(*map(with_batch, shapes))
    again = new_adapter(identifier)
    again.build_from_config(adapter.get_build_config())
    sizes = [tuple(weight.shape) for weight in adapter.weights]
    assert [tuple(weight.shape) for weight in again.weights] == sizes


@every_adapter
def test_adapter_computes_in_low_precision_with_float32_weights(identifier, shapes, random):
    adapter = new_adapter(identifier, dtype="mixed_bfloat16")
    pair = example_pair(shapes, random)
    student, teacher = adapted(adapter, pair)
    floating = {weight.dtype for weight in adapter.trainable_weights}
    assert floating <= {"float32"}
    exact = new_adapter(identifier)
    adapted(exact, pair)
    exact.set_weights(adapter.get_weights())
    # Weights of an adopted classifier differ from one network to the next.
    if type(adapter).adopt is not mr.adapters.Adapter.adopt:
        return
    sides = zip([*student, *teacher], keras.tree.flatten(adapted(exact, pair)), strict=True)
    for low, high in sides:
        assert_close(tf.cast(low, "float32"), high, rtol=0.05, atol=0.05)


@every_adapter
def test_gradient_reaches_every_weight_of_an_adapter(identifier, shapes, random):
    adapter = new_adapter(identifier)
    pair = example_pair(shapes, random)
    adapted(adapter, pair)
    # What a stage of its own trains is left alone by the joint one.
    staged = {id(variable) for variable in adapter.pretraining_variables()}
    weights = [w.value for w in adapter.trainable_weights if id(w) not in staged]
    with tf.GradientTape() as tape:
        sides = keras.tree.flatten(adapted(adapter, pair))
        target = np.random.default_rng(1)
        loss = sum(
            tf.reduce_mean((tf.cast(side, "float32") - target.normal(size=side.shape)) ** 2)
            for side in sides
        )
    for gradient in tape.gradient(loss, weights):
        assert np.abs(gradient).max() > 1e-7


def outputs_and_gradient(adapter, pair, training):
    """Returns all outputs, and the gradient of their sum of squares to the student's features."""
    pair = [keras.tree.map_structure(tf.convert_to_tensor, side) for side in pair]
    student = keras.tree.flatten(pair[0])
    with tf.GradientTape() as tape:
        tape.watch(student)
        outputs = keras.tree.flatten(adapted(adapter, pair, training))
        total = sum(tf.reduce_sum(tf.cast(side, "float32") ** 2) for side in outputs)
    return outputs, tape.gradient(total, student)


@every_adapter
@pytest.mark.parametrize("kind", DEGENERATE)
def test_adapter_stays_finite_where_samples_coincide(identifier, shapes, kind, random):
    adapter, pair = new_adapter(identifier), example_pair(shapes, random)
    for sides in (
        [changed(degenerate(kind), pair[0]), pair[1]],
        [pair[0], changed(degenerate(kind), pair[1])],
    ):
        outputs, gradients = outputs_and_gradient(adapter, sides, training=True)
        assert all(np.isfinite(side).all() for side in outputs)
        assert all(g is None or np.isfinite(g).all() for g in gradients)


@every_adapter
@pytest.mark.parametrize("size", [50.0, 500.0])
def test_adapter_stays_finite_for_large_features(identifier, shapes, size, random):
    adapter, pair = new_adapter(identifier), example_pair(shapes, random)
    sides = changed(lambda t: size * t, pair)
    outputs, gradients = outputs_and_gradient(adapter, sides, training=True)
    assert all(np.isfinite(side).all() for side in outputs)
    assert all(np.isfinite(g).all() for g in gradients)


@every_adapter
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_adapter_takes_features_of_low_precision(identifier, shapes, dtype, random):
    adapter, pair = new_adapter(identifier), example_pair(shapes, random)
    low = changed(lambda t: tf.cast(t, dtype), pair)
    exact = changed(lambda t: tf.cast(t, "float32"), low)
    adapted(adapter, exact)
    for ours, theirs in zip(adapted(adapter, low), adapted(adapter, exact), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert_close(tf.cast(a, "float32"), tf.cast(b, "float32"), rtol=0.02, atol=0.02)


@every_adapter
def test_adapter_takes_a_batch_of_one(identifier, shapes, random):
    adapter, pair = new_adapter(identifier), example_pair(shapes, random)
    adapted(adapter, pair)
    one = changed(lambda t: t[:1], pair)
    index = {"index": np.arange(1)} if adapter.needs_index else {}
    for side in keras.tree.flatten(adapter(*one, training=True, **index)):
        assert np.isfinite(side).all()
