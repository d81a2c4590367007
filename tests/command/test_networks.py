"""Loading models, taking off their softmax, and building students by name."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.command import networks
from modreduce_keras.command.mistakes import MistakeError

layers = keras.layers


def saved(tmp_path, model, name="teacher.keras"):
    model.save(tmp_path / name)
    return str(tmp_path / name)


def ending(*last):
    return keras.Sequential([keras.Input((4,)), *last])


@pytest.mark.parametrize(
    "last",
    [
        (layers.Dense(3, activation="softmax"),),
        (layers.Dense(3), layers.Softmax()),
        (layers.Dense(3), layers.Activation("softmax")),
    ],
    ids=["dense", "layer", "activation"],
)
def test_softmax_is_taken_off(last, tmp_path, random):
    model = ending(*last)
    x = random.normal(size=(5, 4)).astype("float32")
    loaded = networks.load(saved(tmp_path, model), "teacher")
    kernel, bias = (keras.ops.convert_to_numpy(one) for one in model.layers[0].weights)
    np.testing.assert_allclose(loaded(x), x @ kernel + bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(keras.ops.softmax(loaded(x)), model(x), rtol=1e-5)


def test_logits_stay(tmp_path, random):
    model = ending(layers.Dense(3))
    x = random.normal(size=(5, 4)).astype("float32")
    loaded = networks.load(saved(tmp_path, model), "teacher")
    np.testing.assert_array_equal(loaded(x), model(x))


def test_a_softmax_that_is_an_operation_is_taken_off(tmp_path, random):
    inputs = keras.Input((4,))
    logits = layers.Dense(3)(inputs)
    model = keras.Model(inputs, keras.ops.softmax(logits))
    loaded = networks.load(saved(tmp_path, model), "teacher")
    x = random.normal(size=(5, 4)).astype("float32")
    np.testing.assert_array_equal(loaded(x), keras.Model(inputs, logits)(x))


def test_other_ends_are_refused_with_the_mend(tmp_path):
    inputs = keras.Input((4,))
    ends = [layers.Dense(3, activation="softmax")(inputs) for _ in range(2)]
    average = keras.Model(inputs, layers.Average()(ends))
    with pytest.raises(ValueError, match=r"come from 'average\S*' \(Average\).*keras\.ops\.log"):
        networks.load(saved(tmp_path, average), "teacher")


def test_files_that_cannot_be_used(tmp_path):
    path = saved(tmp_path, ending(layers.Dense(3)))
    with pytest.raises(MistakeError, match=r"no file .*Did you mean 'teacher\.keras'"):
        networks.load(path.replace("teacher", "teach"), "teacher")
    (tmp_path / "weights.txt").touch()
    with pytest.raises(MistakeError, match=r"--student must be a file that model\.save\('student"):
        networks.load(str(tmp_path / "weights.txt"), "student")
    (tmp_path / "broken.keras").write_bytes(b"nothing")
    with pytest.raises(MistakeError, match=r"broken\.keras', which is no Keras file"):
        networks.load(str(tmp_path / "broken.keras"), "teacher")
    (tmp_path / "broken.h5").write_bytes(b"nothing")
    with pytest.raises(MistakeError, match=r"broken\.h5' cannot be loaded: "):
        networks.load(str(tmp_path / "broken.h5"), "teacher")
    several = keras.Model([one := keras.Input((1,)), two := keras.Input((1,))], one + two)
    with pytest.raises(MistakeError, match="one input"):
        networks.load(saved(tmp_path, several, "several.keras"), "teacher")


@pytest.mark.parametrize(
    ("student", "found"),
    [
        ("mobilenet_v3_small", ("keras", "MobileNetV3Small")),
        ("MobileNetV3Small", ("keras", "MobileNetV3Small")),
        ("efficientnet_b0", ("keras", "EfficientNetB0")),
        ("convnext_tiny", ("keras", "ConvNeXtTiny")),
        ("MobileNetV2", ("keras", "MobileNetV2")),
        ("keras:mobilenet_v2", ("keras", "MobileNetV2")),
        ("mr:mobilenet_v2", ("mr", "mobilenet_v2")),
        ("resnet20", ("mr", "resnet20")),
        ("wrn_16_2", ("mr", "wrn_16_2")),
    ],
)
def test_names(student, found):
    assert networks.found(student) == found


def test_names_that_say_too_little_or_nothing():
    with pytest.raises(MistakeError, match="is ambiguous: keras:mobilenet_v2 is that of"):
        networks.found("mobilenet_v2")
    with pytest.raises(MistakeError, match="Did you mean 'mobilenet_v3_small'"):
        networks.found("mobilnet_v3_smal")
    with pytest.raises(MistakeError, match=r"Received: 'keras:resnet20'"):
        networks.found("keras:resnet20")


def test_every_application_has_a_name_in_snake_case():
    for name in networks._applications():
        snake = networks._snake(name)
        assert snake == snake.lower()
        assert name in [one for where, one in [networks.found(f"keras:{snake}")] if where]


@pytest.mark.parametrize("pixels", ["0..1", "0..255", "-1..1"])
def test_an_application_gets_the_pixels_that_it_wants(pixels, random, monkeypatch):
    seen = {}

    def network(*, input_tensor, input_shape, weights, classes, classifier_activation, **options):
        seen.update(options, activation=classifier_activation, weights=weights)
        (inputs,) = keras.utils.get_source_inputs(input_tensor)
        flat = layers.Flatten()(input_tensor)
        return keras.Model(inputs, flat)

    def with_own(*, include_preprocessing, **options):
        return network(include_preprocessing=include_preprocessing, **options)

    monkeypatch.setattr(keras.applications, "MobileNetV3Small", with_own)
    monkeypatch.setattr(keras.applications, "EfficientNetB0", network)
    bytes_ = random.integers(0, 256, (2, 4, 4, 3)).astype("float32")
    given = {"0..1": bytes_ / 255, "0..255": bytes_, "-1..1": bytes_ / 127.5 - 1}[pixels]
    small = networks.build("mobilenet_v3_small", (4, 4, 3), 5, pixels)
    assert seen == {"include_preprocessing": False, "activation": None, "weights": None}
    np.testing.assert_allclose(small(given), (bytes_ / 127.5 - 1).reshape(2, -1), atol=1e-5)
    net = networks.build("efficientnet_b0", (4, 4, 3), 5, pixels)
    np.testing.assert_allclose(net(given), bytes_.reshape(2, -1), atol=1e-3)


def test_own_networks_by_name():
    student = networks.build("convnet", (12, 12, 1), 3, "0..1")
    assert student.input_shape == (None, 12, 12, 1)
    assert student.output_shape == (None, 3)
    assert student.name == "convnet"


def test_images_that_are_too_small_are_told_with_the_flag():
    with pytest.raises(MistakeError, match=r"images of \(28, 28, 1\): .* --image_size=N"):
        networks.build("keras:mobilenet_v2", (28, 28, 1), 3, "0..1")
    with pytest.raises(MistakeError, match="must be a saved model for tables"):
        networks.build("convnet", (7,), 3, "0..1")


def test_a_teacher_of_another_size_resizes(random):
    teacher = mr.models.get("convnet", num_classes=3, widths=(4,), input_shape=(8, 8, 1))
    assert networks.resized(teacher, (8, 8, 1)) is teacher
    larger = networks.resized(teacher, (16, 16, 1))
    x = random.normal(size=(2, 16, 16, 1)).astype("float32")
    means = x.reshape(2, 8, 2, 8, 2, 1).mean((2, 4))  # bilinear at half the size
    found = larger(x, training=False)  # Resizing trains what follows it, unless it is told
    np.testing.assert_allclose(found, teacher(means), rtol=1e-4, atol=1e-5)
    with pytest.raises(MistakeError, match="only heights and widths may differ"):
        networks.resized(teacher, (8, 8, 3))
