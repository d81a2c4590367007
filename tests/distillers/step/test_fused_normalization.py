"""Tests of the fused batch normalization: equal to Keras' layer, and used only where it can be."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr
from modreduce_keras.distillers.step import fused_normalization as module
from modreduce_keras.distillers.step.fused_normalization import fused_normalization

SHAPES = [(16, 5), (8, 7, 5), (4, 6, 6, 8), (2, 3, 4, 4, 6), (1, 4), (1, 1, 1, 3)]
EPSILONS = {"float32": 2.0**-23, "mixed_bfloat16": 2.0**-8, "mixed_float16": 2.0**-11}


def pass_of(layer, x, direction, fused, call=None):
    """Returns the outputs of a training pass, its gradients, and all weights after it."""
    call = call or layer

    @tf.function
    def run(x):
        with tf.GradientTape() as tape, fused_normalization([layer] if fused else []):
            tape.watch(x)
            y = call(x, training=True)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) * direction)
        return y, tape.gradient(loss, [x, *(v.value for v in layer.trainable_variables)])

    y, gradients = run(x)
    values = [y, *gradients, *(weight.value for weight in layer.weights)]
    return [tf.cast(value, tf.float64).numpy() for value in values]


def both_passes(layer, x, call=None):
    """Returns what `pass_of` does by Keras and fused, from the same weights."""
    direction = np.random.default_rng(1).normal(size=x.shape).astype("float32")
    before = layer.get_weights()
    by_keras = pass_of(layer, x, direction, fused=False, call=call)
    layer.set_weights(before)
    return by_keras, pass_of(layer, x, direction, fused=True, call=call)


def drawn(layer, shape):
    """Builds a layer with weights that are not trivial, and returns inputs for it."""
    random = np.random.default_rng(0)
    layer.build((None, *shape[1:]))
    layer.set_weights([random.uniform(0.5, 1.5, w.shape) for w in layer.weights])
    return tf.cast(random.normal(2.0, 3.0, shape), layer.compute_dtype)


@pytest.fixture
def kernel_runs(monkeypatch):
    """Counts how often the fused kernel runs."""
    runs = []

    def counted(*arguments):
        runs.append(arguments)
        return normalize(*arguments)

    normalize = module.normalize_batch
    monkeypatch.setattr(module, "normalize_batch", counted)
    return runs


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("policy", EPSILONS)
def test_a_layer_equals_keras(shape, policy, kernel_runs):
    layer = layers.BatchNormalization(dtype=policy, momentum=0.9)
    expected, received = both_passes(layer, drawn(layer, shape))
    assert len(kernel_runs) == 1
    # The dtype's own rounding at the size of the values; statistics are float32 always.
    for place, (one, other) in enumerate(zip(expected, received, strict=True)):
        rounding = EPSILONS[policy] if place < 2 else EPSILONS["float32"]
        tolerance = max(8 * rounding, 5e-6) * max(1.0, np.abs(one).max())
        np.testing.assert_allclose(other, one, rtol=0, atol=tolerance)


@pytest.mark.parametrize("without", ["scale", "center"])
def test_a_layer_without_scale_or_offset_equals_keras(without, kernel_runs):
    layer = layers.BatchNormalization(**{without: False})
    expected, received = both_passes(layer, drawn(layer, (4, 3, 3, 5)))
    assert len(kernel_runs) == 1
    for one, other in zip(expected, received, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


def test_the_moving_variance_is_of_the_population(kernel_runs):
    layer = layers.BatchNormalization(momentum=0.0)
    x = drawn(layer, (3, 2))
    with fused_normalization([layer]):
        layer(x, training=True)
    np.testing.assert_allclose(layer.moving_variance, np.var(x, axis=0), rtol=1e-5)
    assert len(kernel_runs) == 1


def test_a_layer_that_runs_twice_updates_twice(kernel_runs):
    layer = layers.BatchNormalization(momentum=0.8)

    def twice(x, training):
        return layer(2.0 * layer(x, training=training), training=training)

    expected, received = both_passes(layer, drawn(layer, (6, 4)), call=twice)
    assert len(kernel_runs) == 2
    for one, other in zip(expected, received, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


class OwnNormalization(layers.BatchNormalization):
    """Does something else than its base class."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask) + 1.0


@pytest.mark.parametrize(
    "layer",
    [
        layers.BatchNormalization(axis=1),
        layers.BatchNormalization(synchronized=True),
        layers.BatchNormalization(renorm=True),
        layers.BatchNormalization(trainable=False),
        layers.BatchNormalization(dtype="float64"),
        OwnNormalization(),
    ],
    ids=["first axis", "synchronized", "renormalizes", "frozen", "float64", "own call"],
)
def test_where_it_cannot_be_equal_keras_computes(layer, kernel_runs):
    expected, received = both_passes(layer, drawn(layer, (4, 3, 5)))
    assert not kernel_runs
    for one, other in zip(expected, received, strict=True):
        np.testing.assert_array_equal(other, one)


def test_with_a_mask_keras_computes(kernel_runs):
    layer = layers.BatchNormalization()
    x = drawn(layer, (4, 3, 5))
    mask = tf.constant(np.random.default_rng(0).uniform(size=(4, 3)) > 0.5)
    with fused_normalization([layer]):
        layer(x, training=True, mask=mask)
    assert not kernel_runs


def test_inference_is_by_keras(kernel_runs):
    layer = layers.BatchNormalization()
    x = drawn(layer, (4, 5))
    expected = layer(x, training=False)
    with fused_normalization([layer]):
        np.testing.assert_array_equal(layer(x, training=False), expected)
    assert not kernel_runs


def test_the_layer_is_left_as_it_was():
    layer, with_call = layers.BatchNormalization(), layers.BatchNormalization()
    for one in (layer, with_call):
        one.build((None, 3))
    own = vars(with_call)["call"] = lambda inputs, training=None, mask=None: inputs
    with pytest.raises(RuntimeError), fused_normalization([layer, with_call, layer]):
        with fused_normalization([layer]):
            pass
        assert "call" in vars(layer)
        assert vars(with_call)["call"] is own
        raise RuntimeError
    assert "call" not in vars(layer)


def student_of(kind):
    inputs = keras.Input((8, 8, 3))
    body = [layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(name="norm")]
    if kind == "nested":
        body = [keras.Sequential([keras.Input((8, 8, 3)), *body], name="body")]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(3)]
    if kind == "subclassed":
        return Subclassed([*body, *head])
    return keras.Sequential([inputs, *body, *head])


class Subclassed(keras.Model):
    """Runs its layers in a row."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def call(self, inputs, training=None):
        for part in self.parts:
            normalizes = isinstance(part, layers.BatchNormalization)
            inputs = part(inputs, training=training) if normalizes else part(inputs)
        return inputs


@pytest.fixture
def step_of(cross_entropy):
    """Runs two steps of a distiller on random images and returns its logs and the weights."""

    def run(student, size, knowledge=(), **arguments):
        random = np.random.default_rng(0)
        images = random.normal(size=(12, size, size, 3)).astype("float32")
        teacher = keras.Sequential(
            [keras.Input((size, size, 3)), layers.Flatten(name="flat"), layers.Dense(3)]
        )
        teacher.layers[-1].set_weights([random.normal(size=w.shape) for w in teacher.weights])
        student(images)
        keep = arguments.pop("weights", None)
        if keep is not None:
            student.set_weights(keep)
        distiller = mr.Distiller(
            student=student, teacher=teacher, knowledge=[mr.Response("kd"), *knowledge]
        )
        distiller.compile(keras.optimizers.SGD(0.01), cross_entropy, **arguments)
        history = distiller.fit(images, np.arange(12) % 3, batch_size=4, verbose=0, shuffle=False)
        return history.history, student.get_weights()

    return run


@pytest.mark.parametrize("kind", ["sequential", "nested", "subclassed"])
def test_a_training_equals_keras(kind, step_of, kernel_runs):
    keras.utils.set_random_seed(0)
    student = student_of(kind)
    student(np.zeros((1, 8, 8, 3), "float32"))
    start = student.get_weights()
    logs, weights = step_of(student, 8, weights=start, fused_normalization=False)
    assert not kernel_runs
    fused_logs, fused_weights = step_of(student, 8, weights=start)
    normalizations = [
        layer for layer in student._flatten_layers() if isinstance(layer, layers.BatchNormalization)
    ]
    assert len(kernel_runs) == len(normalizations)
    assert fused_logs["loss"] == pytest.approx(logs["loss"], rel=1e-4)
    for one, other in zip(weights, fused_weights, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=2e-4 * max(1.0, np.abs(one).max()))


def resnet20():
    return mr.models.get("resnet20", num_classes=10)


def mobilenet_v2():
    return keras.applications.MobileNetV2(
        weights=None, classes=10, classifier_activation=None, alpha=0.35, input_shape=(64, 64, 3)
    )


@pytest.mark.parametrize("network", [resnet20, pytest.param(mobilenet_v2, marks=pytest.mark.slow)])
def test_a_deep_network_differs_no_more_than_keras_from_itself(network, cross_entropy):
    """Rounding grows through a network; it does so by Keras' own operations as well."""
    keras.utils.set_random_seed(0)
    student = network()
    random = np.random.default_rng(0)
    images = random.normal(size=(16, *student.input_shape[1:])).astype("float32")
    labels = np.arange(16) % 10
    start = student.get_weights()

    def gradients(images, fused):
        student.set_weights(start)
        parts = student._flatten_layers() if fused else []
        with tf.GradientTape() as tape, fused_normalization(parts):
            loss = cross_entropy(labels, student(images, training=True))
        return tape.gradient(loss, [v.value for v in student.trainable_variables])

    def distance(one, other):
        pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True)]
        return np.sqrt(sum(np.sum((a - b) ** 2) for a, b in pairs))

    by_keras = gradients(images, fused=False)
    moved = gradients(images + 1e-6 * random.normal(size=images.shape), fused=False)
    assert distance(gradients(images, fused=True), by_keras) < 2 * distance(moved, by_keras)


def test_a_normalization_can_be_tapped(step_of, kernel_runs):
    hint = [mr.Relation("rkd_distance", student="norm", teacher="flat")]
    student = student_of("sequential")
    start = student.get_weights()
    logs, _ = step_of(student, 8, hint, weights=start, fused_normalization=False)
    hint = [mr.Relation("rkd_distance", student="norm", teacher="flat")]
    fused_logs, _ = step_of(student, 8, hint, weights=start)
    assert len(kernel_runs) == 1
    assert fused_logs["rkd_distance"] == pytest.approx(logs["rkd_distance"], rel=1e-4)


def test_several_steps_in_one_execution(step_of, kernel_runs):
    student = student_of("sequential")
    start = student.get_weights()
    logs, weights = step_of(student, 8, weights=start)
    assert kernel_runs
    several, moved = step_of(student, 8, weights=start, steps_per_execution=3)
    assert several["loss"] == pytest.approx(logs["loss"], rel=1e-5)
    for one, other in zip(weights, moved, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def test_an_adapters_normalization_is_fused_too(kernel_runs, net, teacher, images, labels):
    knowledge = [mr.Feature("reviewkd", at=["stage1", "stage2"])]
    distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=knowledge)
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.train_on_batch(images, labels)
    own = [
        layer
        for layer in distiller._flatten_layers()
        if isinstance(layer, layers.BatchNormalization)
    ]
    in_students = [
        layer
        for layer in distiller.student._flatten_layers()
        if isinstance(layer, layers.BatchNormalization)
    ]
    assert len(own) > len(in_students)
    assert len(kernel_runs) == len(own)


def test_the_switch_is_checked_and_saved(tmp_path, net, teacher, cross_entropy):
    distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=[mr.Response("kd")])
    with pytest.raises(ValueError, match="fused_normalization must be True or False"):
        distiller.compile("sgd", cross_entropy, fused_normalization="yes")
    distiller.compile("sgd", cross_entropy, fused_normalization=False)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    assert loaded.get_compile_config()["fused_normalization"] is False
