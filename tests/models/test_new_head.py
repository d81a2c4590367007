"""with_classifier: a new classifier on a trained body, of models that we did not write."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

L = keras.layers
X = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")


def small(*ending, shape=(8, 8, 3), name="body"):
    inputs = keras.Input(shape)
    x = L.Dense(5, activation="relu", name="features")(inputs)
    for layer in ending:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def mobilenet(**arguments):
    return keras.applications.MobileNet(
        alpha=0.25, weights=None, input_shape=(32, 32, 3), **arguments
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: mobilenet(classes=7),  # a convolution, flattened, and softmax
        lambda: mobilenet(include_top=False),
        lambda: mobilenet(include_top=False, pooling="avg"),
    ],
    ids=["with its head", "maps", "pooled"],
)
def test_mobilenet_gets_a_head_with_the_weights_of_its_body(make):
    model = make()
    student = mr.models.with_classifier(model, 3)
    at = next(one.name for one in model.layers if one.name.endswith("conv_pw_13_relu"))
    pooled = keras.Model(model.input, model.get_layer(at).output)(X)
    pooled = np.asarray(pooled, "float64").mean((1, 2))
    kernel, bias = student.get_layer("logits").get_weights()
    np.testing.assert_allclose(student(X), pooled @ kernel + bias, rtol=1e-4, atol=1e-5)
    assert student.get_layer(at) is model.get_layer(at)
    assert not [one for one in student.layers if one.name.startswith("conv_preds")]


@pytest.mark.parametrize(
    ("ending", "reads"),
    [
        ([L.GlobalAveragePooling2D(name="pool"), L.Dropout(0.5), L.Dense(7)], "pool"),
        ([L.Flatten(name="flat"), L.Dense(7), L.Activation("softmax")], "flat"),
        ([L.Flatten(name="flat"), L.Dense(7), keras.ops.sigmoid], "flat"),
        ([L.Flatten(), L.Dense(7, activation="tanh", name="pooler")], "pooler"),
        ([L.Flatten(), L.Dense(7), L.ReLU(name="hidden")], "hidden"),
        ([L.Flatten(name="flat")], "flat"),
    ],
    ids=["dropout", "softmax", "sigmoid", "tanh", "relu", "flat"],
)
def test_what_the_new_head_reads(ending, reads):
    model = small(*ending)
    student = mr.models.with_classifier(model, 3)
    head = student.layers[-1]
    assert (head.name, head.units) == ("logits", 3)
    assert student.layers[-2].name == reads
    assert mr.models.with_classifier(model, 3, at="features").layers[-3].name == "features"


@pytest.mark.parametrize("shape", [(6, 3), (4, 4, 4, 3)], ids=["sequence", "volume"])
def test_sequences_and_volumes_are_averaged(shape):
    student = mr.models.with_classifier(small(shape=shape), 3, dropout=0.5)
    assert [layer.name for layer in student.layers[-3:]] == ["embedding", "dropout", "logits"]


def test_names_of_the_body_are_kept():
    body = small(L.Dense(4, activation="relu", name="embedding"), name="named")
    student = mr.models.with_classifier(body, 2)
    assert [layer.name for layer in student.layers[-2:]] == ["new_embedding", "logits"]
    assert student.name == "named"


def test_a_pretrained_body_is_distilled_at_two_rates(tmp_path):
    body = small()
    student = mr.models.with_classifier(body, 3)
    teacher = small(L.GlobalAveragePooling2D(), L.Dense(3), name="teacher")
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge="kd")
    rates = {"logits": keras.optimizers.SGD(0.1), "student": keras.optimizers.SGD(0.0)}
    distiller.compile(rates, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before, head = body.get_weights(), student.get_layer("logits").get_weights()
    distiller.train_on_batch(X[:, :8, :8], np.arange(4) % 3)
    for one, other in zip(body.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(student.get_layer("logits").get_weights()[0] - head[0]).max() > 0
    student.save(tmp_path / "student.keras")
    stored = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_allclose(stored(X[:, :8, :8]), student(X[:, :8, :8]), atol=1e-6)


def nested():
    inner = small(L.GlobalAveragePooling2D(), L.Dense(7), name="inner")
    return keras.Sequential([keras.Input((8, 8, 3)), inner], name="outer")


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (small(), {"num_classes": 0}, "num_classes must be"),
        (small(), {"dropout": 1.0}, "dropout must be a number from 0 to below 1"),
        (small(), {"at": "none"}, "at must name a layer of 'body', one of"),
        (keras.Sequential(), {}, "takes a functional or a built Sequential model"),
        (nested(), {}, "lies in the nested model 'inner'"),
        (small(L.Reshape((2, 2, 2, 2, 20))), {}, "A classifier reads vectors"),
    ],
)
def test_what_it_refuses(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.models.with_classifier(model, **{"num_classes": 3, **arguments})
