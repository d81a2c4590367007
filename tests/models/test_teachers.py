"""Trained teachers from Keras files of other names, and the shared ones on CIFAR-100."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr

SHARED = Path(
    os.environ.get("MODREDUCE_KERAS_SHARED", Path(__file__).parents[3].joinpath("shared"))
)
GIVEN = {"widths": (4, 6), "input_shape": (8, 8, 3)}


def foreign(classes=5, width=6, rescalings=((0.5, -1.0),)):
    """Returns a network of a convnet's layout, with other names and paddings of its own."""
    inputs = maps = keras.Input((8, 8, 3), name="pixels")
    for scale, offset in rescalings:
        maps = layers.Rescaling(scale, offset)(maps)
    for index, filters in enumerate((4, width)):
        maps = layers.Conv2D(filters, 3, 2, "same", use_bias=False, name=f"conv{index}")(maps)
        maps = layers.ReLU()(layers.BatchNormalization(name=f"bn{index}")(maps))
    maps = layers.GlobalAveragePooling2D()(maps)
    return keras.Model(inputs, layers.Dense(classes, name="fc")(maps))


@pytest.fixture
def saved(tmp_path, settled):
    """Saves a network and returns it with the path."""

    def save(model):
        model = settled(model)
        model.save(tmp_path / "teacher.keras")
        return model, tmp_path / "teacher.keras"

    return save


@pytest.mark.parametrize("rescalings", [(), ((0.5, -1.0),), ((0.5, 0.0), (2.0, [1.0, 2.0, 3.0]))])
def test_teacher_gives_what_the_file_gives(rescalings, saved, random):
    trained, path = saved(foreign(rescalings=rescalings))
    teacher = mr.models.load_teacher(path, "convnet", widths=(4, 6), name="wise")
    images = random.uniform(0, 255, size=(3, 8, 8, 3)).astype("float32")
    output = mr.TapReader(teacher, ["stage1", "stage2"])(images)
    np.testing.assert_allclose(output.logits, trained(images), rtol=1e-5, atol=1e-4)
    assert output.features["stage2"].shape == (3, 2, 2, 6)
    assert teacher.name == "wise"
    assert not any(isinstance(layer, keras.Model) for layer in teacher.layers)
    assert keras.models.clone_model(teacher).count_params() == trained.count_params()


def test_normalized_images_pass_no_rescaling(saved, random):
    trained, path = saved(foreign())
    teacher = mr.models.load_teacher(path, "convnet", normalized=True, widths=(4, 6))
    images = random.uniform(0, 255, size=(3, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(teacher(0.5 * images - 1.0), trained(images), rtol=1e-5, atol=1e-4)
    assert not any(isinstance(layer, layers.Rescaling) for layer in teacher.layers)


def test_weights_are_copied_and_not_shared(settled, random):
    source = settled(foreign(rescalings=()))
    model = mr.models.get("convnet", num_classes=5, **GIVEN)
    assert mr.models.import_keras_weights(model=model, source=source) is model
    images = random.normal(size=(3, 8, 8, 3)).astype("float32")
    expected = source.predict(images, verbose=0)
    source.set_weights([0 * weights for weights in source.get_weights()])
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            lambda: foreign(width=7),
            r"layout of the model 'convnet'. Received: 'conv1', Conv2D of shapes "
            r"\[\(3, 3, 4, 7\)\], "
            r"in the place of 'stage2_conv', Conv2D of shapes \[\(3, 3, 4, 6\)\]",
        ),
        (lambda: foreign(classes=4), "'fc', Dense of .* in the place of 'logits'"),
        (
            lambda: keras.Sequential([foreign(), layers.Dense(3, name="more")]),
            r"'convnet', 5. Received: 6; left over are \['more'\]",
        ),
        (
            lambda: keras.Model((whole := foreign()).input, whole.layers[-2].output),
            r"'convnet', 5. Received: 4; left over are \['logits'\]",
        ),
    ],
)
def test_another_layout_is_refused_and_nothing_is_changed(source, message):
    model = mr.models.get("convnet", num_classes=5, **GIVEN)
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        mr.models.import_keras_weights(model=model, source=source())
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_models_are_needed(saved):
    model = mr.models.get("convnet", num_classes=5, **GIVEN)
    with pytest.raises(TypeError, match=r"must be a keras.Model. Received: 'teacher.keras'"):
        mr.models.import_keras_weights(model=model, source="teacher.keras")
    _, path = saved(foreign())
    with pytest.raises(ValueError, match=r"Unknown model identifier. .* Received: 'resnet18'"):
        mr.models.load_teacher(path, "resnet18")
    with pytest.raises(ValueError, match=r"in the place of 'stem_conv'"):
        mr.models.load_teacher(path, "resnet8")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.joinpath("teachers").is_dir(), reason="needs the shared teachers")
def test_shared_teachers_are_as_good_as_measured_elsewhere():
    tfds = pytest.importorskip("tensorflow_datasets")
    data = tfds.load(
        "cifar100", split="test", data_dir=SHARED / "tfds", download=False, batch_size=10_000
    )
    batch = next(iter(data.as_numpy_iterator()))
    images, labels = batch["image"].astype("float32"), batch["label"]
    for identifier, accuracy in (("resnet20", 0.6883), ("resnet56", 0.7263)):
        path = SHARED / "teachers" / f"cifar100_{identifier}.keras"
        teacher = mr.models.load_teacher(path, identifier)
        logits = teacher.predict(images, batch_size=500, verbose=0)
        assert np.mean(np.argmax(logits, axis=-1) == labels) == pytest.approx(accuracy, abs=1e-6)
