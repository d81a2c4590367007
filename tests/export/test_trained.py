"""Quantizations of a trained student: its classes stay, and its file shrinks."""

import keras
import pytest
import tensorflow as tf

import modreduce_keras as mr

pytestmark = pytest.mark.slow

SEEN, TEST = 2000, 1000


@pytest.fixture(scope="module")
def sample():
    (images, classes), (test_images, test_classes) = mr.data.load_sample()
    return images[:SEEN], classes[:SEEN], test_images[:TEST], test_classes[:TEST]


@pytest.fixture(scope="module")
def student(sample):
    """A network that is right on most images."""
    keras.utils.set_random_seed(0)
    model = mr.models.get("convnet", num_classes=10, widths=(16, 32, 64))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    model.fit(*sample[:2], batch_size=64, epochs=3, verbose=0)
    return model


@pytest.fixture(scope="module")
def files(student, sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    ranges = {"int8": sample[0][:200]}
    return {
        name: mr.export.to_tflite(
            student, folder / f"{name}.tflite", quantization=name, representative=ranges.get(name)
        )
        for name in (None, "float16", "dynamic", "int8")
    }


# Least agreement, largest difference of logits of some ten, least gain in size.
EXPECTED = {
    None: (1.0, 1e-4, 1.0),
    "float16": (0.995, 5e-2, 1.9),
    "dynamic": (0.97, 1.0, 3.2),
    "int8": (0.97, 1.0, 3.35),
}


@pytest.mark.parametrize("quantization", EXPECTED)
def test_a_trained_student_stays_what_it_is(quantization, files, student, sample):
    least, largest, gain = EXPECTED[quantization]
    data = sample[2:]
    figures = mr.export.verify(files[quantization], student, data, least_agreement=least)
    expected = student.predict(data[0], verbose=0).argmax(axis=-1)
    assert figures.student_accuracy == (expected == data[1]).mean() > 0.7
    assert abs(figures.accuracy - figures.student_accuracy) <= 1 - figures.agreement
    assert figures.largest_difference < largest
    assert files[None].stat().st_size / figures.size >= gain


def test_ranges_come_from_the_representative_samples(student, sample, files, tmp_path):
    path = tmp_path / "a.tflite"
    mr.export.to_tflite(student, path, quantization="int8", representative=sample[0][:200] / 100.0)
    with pytest.raises(mr.export.VerificationError, match="from data unlike these") as told:
        mr.export.verify(path, student, sample[2:], repeats=1)
    own = mr.export.verify(files["int8"], student, sample[2:], repeats=1)
    assert told.value.verification.accuracy < own.accuracy - 0.1


@pytest.mark.parametrize("form", ["dataset of (x, y)", "dataset of x", "tuple", "list of batches"])
def test_representative_samples_come_in_many_forms(form, student, sample, files, tmp_path):
    images, classes = sample[0][:200], sample[1][:200]
    both = tf.data.Dataset.from_tensor_slices((images, classes))
    forms = {
        "dataset of (x, y)": both.batch(64),
        "dataset of x": both.map(lambda x, y: x).batch(200),
        "tuple": (images, classes),
        "list of batches": [(images[:1], classes[:1]), (images[1:], classes[1:])],
    }
    path = tmp_path / "a.tflite"
    mr.export.to_tflite(student, path, quantization="int8", representative=forms[form])
    figures = mr.export.verify(path, student, sample[2], repeats=1)
    own = mr.export.verify(files["int8"], student, sample[2], repeats=1)
    assert figures.largest_difference == own.largest_difference
