"""The adapters that reuse classifiers: what they find, compute and train."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.adapters.classifier_base import classifier_of

layers = keras.layers


def net(width, num_classes=3):
    return mr.models.convnet(num_classes=num_classes, widths=(4, width), input_shape=(8, 8, 1))


def adopted(adapter, student=6, teacher=8):
    models = net(student), net(teacher)
    for model in models:
        kernel, bias = model.get_layer("logits").get_weights()
        model.get_layer("logits").set_weights([kernel, np.linspace(-1.0, 1.0, len(bias))])
    adapter.adopt(*models)
    return models


@pytest.fixture
def maps(random):
    return [random.normal(size=(5, *s)).astype("float32") for s in ((4, 4, 6), (2, 2, 8))]


def test_the_classifier_is_found_behind_layers_that_change_nothing_and_in_nested_models():
    inputs = keras.Input((4,))
    dense = layers.Dense(3)
    cast = layers.Identity()(layers.Activation("linear", dtype="float32")(dense(inputs)))
    inner = keras.Model(inputs, cast)
    outer = keras.Input((4,))
    assert classifier_of(inner) is dense
    assert classifier_of(keras.Model(outer, inner(outer))) is dense
    assert classifier_of(keras.Sequential([keras.Input((4,)), layers.Dense(4), inner])) is dense
    sequential = keras.Sequential([keras.Input((3,)), layers.Dense(5), layers.Dense(2)])
    assert classifier_of(sequential) is sequential.layers[-1]


def ending_in(layer):
    inputs = keras.Input((4,))
    return keras.Model(inputs, layer(layers.Dense(3)(inputs)), name="odd")


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: ending_in(layers.Softmax()), "end in a Dense layer. .*'odd', which .* Softmax"),
        (lambda: ending_in(layers.Activation("relu")), "'odd', which ends in Activation"),
        (lambda: ending_in(keras.ops.softmax), "'odd', which ends in Softmax"),
        (Subclassed, "must be functional or a built Sequential model. Received: <Subclassed"),
        (lambda: keras.Sequential([layers.Dense(3)]), "must be functional or a built Sequential"),
        (lambda: "resnet56", "must be functional or a built Sequential .*Received: 'resnet56'"),
    ],
    ids=["softmax layer", "relu", "softmax op", "subclassed", "unbuilt", "no model"],
)
def test_models_without_a_dense_layer_at_the_end_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        classifier_of(model())


@pytest.mark.parametrize("use_relu", [True, False])
def test_the_regressor_connects_averages_and_asks_the_teachers_classifier(use_relu, maps, random):
    adapter = mr.adapters.SoftmaxRegressor(use_relu=use_relu)
    _, teacher_model = adopted(adapter)
    adapter(*maps)
    weights = [random.uniform(0.1, 1.0, size=w.shape) for w in adapter.get_weights()]
    adapter.set_weights(weights)
    kernel, gamma, beta, mean, variance = weights
    connected = (maps[0] @ kernel - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    connected = np.maximum(connected, 0.0) if use_relu else connected
    features = [connected.mean(axis=(1, 2)), maps[1].mean(axis=(1, 2))]
    classifier, bias = teacher_model.get_layer("logits").get_weights()
    for (feature, logits), expected in zip(adapter(*maps), features, strict=True):
        np.testing.assert_allclose(feature, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(logits, expected @ classifier + bias, rtol=1e-4, atol=1e-5)
    assert adapter.get_config()["use_relu"] is use_relu


def test_the_teachers_logits_are_the_teachers(random):
    adapter = mr.adapters.SoftmaxRegressor()
    student, teacher = adopted(adapter)
    images = random.normal(size=(4, 8, 8, 1)).astype("float32")
    output = mr.TapReader(teacher, ["stage2", "embedding"])(images)
    pupil = mr.TapReader(student, ["embedding"])(images).features["embedding"]
    for tap in ("stage2", "embedding"):
        _, (_, logits) = adapter(pupil, output.features[tap])
        np.testing.assert_allclose(logits, output.logits, rtol=1e-4, atol=1e-6)


def test_a_classifier_without_bias_serves_too(maps):
    inputs = keras.Input((8,))
    teacher = keras.Model(inputs, layers.Dense(3, use_bias=False)(inputs))
    adapter = mr.adapters.SoftmaxRegressor()
    adapter.adopt(teacher, teacher)
    _, (feature, logits) = adapter(*maps)
    np.testing.assert_allclose(logits, feature @ teacher.get_weights()[0], rtol=1e-5)


def test_class_activation_maps_are_the_kernel_at_every_place(maps):
    adapter = mr.adapters.ClassAttention()
    models = adopted(adapter)
    for attention, feature, model in zip(adapter(*maps), maps, models, strict=True):
        kernel = model.get_layer("logits").get_weights()[0]
        expected = np.zeros((*feature.shape[:3], 3))
        for place in np.ndindex(expected.shape[:3]):
            expected[place] = [feature[place] @ kernel[:, label] for label in range(3)]
        np.testing.assert_allclose(attention, expected, rtol=1e-4, atol=1e-6)
    assert adapter.weights == []


@pytest.mark.parametrize("identifier", ["softmax_regressor", "class_attention"])
def test_the_adopted_layers_are_not_the_adapters(identifier, maps):
    adapter = mr.adapters.get(identifier)
    models = adopted(adapter)
    adapter(*maps)
    theirs = {id(variable) for model in models for variable in model.variables}
    assert theirs.isdisjoint({id(variable) for variable in adapter.variables})
    assert not [one for one in adapter._flatten_layers() if one.name == "logits"]


@pytest.mark.parametrize(
    ("identifier", "trains_student"), [("softmax_regressor", False), ("class_attention", True)]
)
def test_gradient_reaches_the_students_classifier_and_never_the_teachers(
    identifier, trains_student, maps
):
    adapter = mr.adapters.get(identifier)
    kernels = [model.get_layer("logits").kernel.value for model in adopted(adapter)]
    student = tf.constant(maps[0])
    with tf.GradientTape() as tape:
        tape.watch(student)
        sides = keras.tree.flatten(adapter(student, maps[1]))
        value = sum(tf.reduce_sum(side**2) for side in sides)
    to_feature, to_student, to_teacher = tape.gradient(value, [student, *kernels])
    assert np.abs(to_feature).max() > 0
    assert to_teacher is None
    assert (to_student is not None) == trains_student


@pytest.mark.parametrize(
    ("identifier", "taps"), [("srrl", "embedding"), ("srrl", "stage2"), ("catkd", "stage2")]
)
def test_a_distiller_lends_its_models_classifiers(identifier, taps, random):
    images, labels = random.normal(size=(6, 8, 8, 1)).astype("float32"), np.arange(6) % 3
    student, teacher = net(6), net(8)
    knowledge = mr.Feature(identifier, at=taps, weight=1.0)
    distiller = mr.Distiller(
        student=student, teacher=teacher, knowledge=[knowledge], supervised_weight=0
    )
    distiller.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    before = [model.get_layer("logits").get_weights() for model in (student, teacher)]
    logs = [distiller.train_on_batch(images, labels, return_dict=True) for _ in range(3)]
    after = [model.get_layer("logits").get_weights() for model in (student, teacher)]
    assert logs[-1][identifier] < logs[0][identifier]
    assert np.array_equal(before[0][0], after[0][0]) == (identifier == "srrl")
    np.testing.assert_array_equal(before[1][0], after[1][0])


@pytest.mark.parametrize(("identifier", "tap"), [("srrl", "embedding"), ("catkd", "stage2")])
def test_a_saved_distiller_lends_them_again(identifier, tap, random, tmp_path):
    images, labels = random.normal(size=(6, 8, 8, 1)).astype("float32"), np.arange(6) % 3
    distiller = mr.Distiller(
        student=net(6), teacher=net(8), knowledge=[mr.Feature(identifier, at=tap, weight=1.0)]
    )
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.train_on_batch(images, labels)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras")
    expected = distiller.train_on_batch(images, labels, return_dict=True)
    actual = again.train_on_batch(images, labels, return_dict=True)
    np.testing.assert_allclose(actual[identifier], expected[identifier], rtol=1e-5)
    np.testing.assert_allclose(actual["loss"], expected["loss"], rtol=1e-5)


@pytest.mark.parametrize("identifier", ["softmax_regressor", "class_attention"])
def test_a_classifier_is_needed_that_takes_the_feature(identifier, maps):
    adapter = mr.adapters.get(identifier)
    shapes = [feature.shape for feature in maps]
    with pytest.raises(ValueError, match=r"reuses a model's classifier: call adopt\(student, te"):
        mr.adapters.get(identifier)(*maps)
    adopted(adapter)
    with pytest.raises(ValueError, match=r"classifier 'logits' sees, of 8 channels: .*teacher of"):
        adapter.build(shapes[0], shapes[0])


def test_class_attention_needs_maps_and_equal_classes(maps):
    adapter = mr.adapters.ClassAttention()
    adopted(adapter)
    with pytest.raises(ValueError, match=r"ClassAttention needs maps .* teacher of shape \(5, 8\)"):
        adapter.build(maps[0].shape, (5, 8))
    with pytest.raises(ValueError, match=r"sees, of 6 channels: .* student of shape"):
        adapter.build((5, 4, 4, 7), maps[1].shape)
    adapter.adopt(net(6, num_classes=4), net(8, num_classes=3))
    with pytest.raises(ValueError, match="a student with 4 and a teacher with 3"):
        adapter.build(*(feature.shape for feature in maps))
