"""What holds for every registered adapter, over the registry."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras import knobs
from modreduce_keras.registry import components
from tests.support.inputs.cases import (
    BATCH,
    DEGENERATE,
    assert_close,
    changed,
    degenerate,
    normal,
    with_labels,
)
from tests.support.inputs.method_examples import adapter_shapes, example_arguments

every_adapter = pytest.mark.parametrize(
    ("identifier", "shapes"),
    [(name, shapes) for name in components("adapter") for shapes in adapter_shapes(name)],
)


@pytest.fixture(scope="module")
def networks():
    """Two small models that end in a classifier, of the widths that the example shapes need."""
    keras.utils.set_random_seed(0)
    return [mr.models.get("convnet", num_classes=5, widths=(4, width)) for width in (6, 8)]


@pytest.fixture
def new_adapter(networks):
    """Makes an adapter with its example arguments, which has adopted the two models."""

    def make(identifier, **arguments):
        adapter = mr.adapters.get(identifier, **example_arguments("adapter", identifier))
        adapter = type(adapter).from_config({**adapter.get_config(), **arguments})
        adapter.adopt(*networks)
        return adapter

    return make


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
def test_adapter_survives_its_config(identifier, shapes, new_adapter, networks, round_trip, random):
    adapter = new_adapter(identifier, name="renamed")
    again = round_trip(adapter)
    assert type(again) is type(adapter)
    assert again.get_config() == adapter.get_config()
    pair = example_pair(shapes, random)
    again.adopt(*networks)
    for one in (adapter, again):
        one.build(*map(with_batch, shapes))
    again.set_weights(adapter.get_weights())
    for ours, theirs in zip(adapted(again, pair), adapted(adapter, pair), strict=True):
        keras.tree.map_structure(np.testing.assert_array_equal, ours, theirs)


@every_adapter
def test_adapter_makes_what_its_losses_compare(identifier, shapes, new_adapter, random):
    adapter = new_adapter(identifier)
    pair = example_pair(shapes, random)
    outputs = adapted(adapter, pair)
    losses = [cls() for cls in components("loss").values() if cls.default_adapter == identifier]
    # FSP's adapter is also that of losses on one feature, which refuse two.
    losses = [one for one in losses if not (one.one_feature and isinstance(pair[0], list))]
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
def test_adapter_creates_its_weights_in_build_and_again_from_its_build_config(
    identifier, shapes, new_adapter
):
    adapter = new_adapter(identifier)
    # Knobs, which change from outside, are there from the start.
    assert len(adapter.weights) == len(knobs.variables(adapter))
    adapter.build(*map(with_batch, shapes))
    again = new_adapter(identifier)
    again.build_from_config(adapter.get_build_config())
    sizes = [tuple(weight.shape) for weight in adapter.weights]
    assert [tuple(weight.shape) for weight in again.weights] == sizes


@every_adapter
def test_adapter_computes_in_low_precision_with_float32_weights(
    identifier, shapes, new_adapter, random
):
    adapter = new_adapter(identifier, dtype="mixed_bfloat16")
    pair = example_pair(shapes, random)
    student, teacher = adapted(adapter, pair)
    floating = {weight.dtype for weight in adapter.trainable_weights}
    assert floating <= {"float32"}
    exact = new_adapter(identifier)
    exact.build(*map(with_batch, shapes))
    exact.set_weights(adapter.get_weights())
    sides = zip([*student, *teacher], keras.tree.flatten(adapted(exact, pair)), strict=True)
    for low, high in sides:
        assert_close(tf.cast(low, "float32"), high, rtol=0.05, atol=0.05)


@every_adapter
def test_gradient_reaches_every_weight_of_an_adapter(identifier, shapes, new_adapter, random):
    adapter = new_adapter(identifier)
    pair = example_pair(shapes, random)
    adapter.build(*map(with_batch, shapes))
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


def assert_trains_finitely(adapter, shapes, cases):
    """Raises unless outputs and gradients are finite when a new adapter's first batch is a case.

    The gradient is that of the outputs' sum of squares to the student's features. Each case, a
    pair by its name, starts with the weights and states that the adapter was built with.
    """
    adapter.build(*map(with_batch, shapes))
    start = adapter.get_weights()
    for case, pair in cases.items():
        adapter.set_weights(start)
        pair = [keras.tree.map_structure(tf.convert_to_tensor, side) for side in pair]
        student = keras.tree.flatten(pair[0])
        with tf.GradientTape() as tape:
            tape.watch(student)
            outputs = keras.tree.flatten(adapted(adapter, pair, training=True))
            total = sum(tf.reduce_sum(tf.cast(side, "float32") ** 2) for side in outputs)
        gradients = tape.gradient(total, student)
        assert all(np.isfinite(side).all() for side in outputs), case
        assert all(g is None or np.isfinite(g).all() for g in gradients), case


@every_adapter
def test_adapter_stays_finite_where_samples_coincide(identifier, shapes, new_adapter, random):
    student, teacher = example_pair(shapes, random)
    cases = {}
    for kind in DEGENERATE:
        collapse = degenerate(kind)
        cases[f"student: {kind}"] = [changed(collapse, student), teacher]
        cases[f"teacher: {kind}"] = [student, changed(collapse, teacher)]
    assert_trains_finitely(new_adapter(identifier), shapes, cases)


@every_adapter
def test_adapter_stays_finite_for_large_features(identifier, shapes, new_adapter, random):
    pair = example_pair(shapes, random)
    cases = {f"times {size}": changed(lambda t, s=size: s * t, pair) for size in (50.0, 500.0)}
    assert_trains_finitely(new_adapter(identifier), shapes, cases)


@every_adapter
def test_adapter_takes_features_of_low_precision(identifier, shapes, new_adapter, random):
    adapter, pair = new_adapter(identifier), example_pair(shapes, random)
    adapter.build(*map(with_batch, shapes))
    for dtype in ("bfloat16", "float16"):
        low = changed(lambda t, d=dtype: tf.cast(t, d), pair)
        exact = changed(lambda t: tf.cast(t, "float32"), low)
        for ours, theirs in zip(adapted(adapter, low), adapted(adapter, exact), strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert_close(tf.cast(a, "float32"), tf.cast(b, "float32"), rtol=0.02, atol=0.02)


@every_adapter
def test_adapter_takes_a_batch_of_one(identifier, shapes, new_adapter, random):
    adapter, pair = new_adapter(identifier), example_pair(shapes, random)
    adapter.build(*map(with_batch, shapes))
    one = changed(lambda t: t[:1], pair)
    index = {"index": np.arange(1)} if adapter.needs_index else {}
    for side in keras.tree.flatten(adapter(*one, training=True, **index)):
        assert np.isfinite(side).all()
