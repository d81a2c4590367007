"""Quantizations of a trained network: what is in the files, how large they are, how they agree."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

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


def tensors(path):
    """Returns the details of the tensors of a file, and which of them are constants."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    return interpreter.get_tensor_details()


def dtypes(path):
    return {np.dtype(one["dtype"]).name for one in tensors(path)}


# Least agreement, largest difference of logits of some ten, least gain in size.
EXPECTED = {
    None: (1.0, 1e-4, 1.0),
    "float16": (0.995, 5e-2, 1.85),
    "dynamic": (0.97, 3.0, 3.0),
    "int8": (0.97, 3.0, 3.0),
}


@pytest.mark.parametrize("quantization", EXPECTED)
def test_a_trained_student_stays_what_it_is(quantization, files, student, sample):
    least, largest, gain = EXPECTED[quantization]
    data = sample[2:]
    figures = mr.export.verify(files[quantization], student, data, least_agreement=least)
    print(quantization, figures, files[None].stat().st_size / figures.size, flush=True)
    expected = student.predict(data[0], verbose=0).argmax(axis=-1)
    assert figures.student_accuracy == (expected == data[1]).mean() > 0.7
    assert abs(figures.accuracy - figures.student_accuracy) <= 1 - figures.agreement
    assert figures.largest_difference < largest
    assert files[None].stat().st_size / figures.size >= gain


def test_full_precision_is_float32(files):
    assert dtypes(files[None]) <= {"float32", "int32"}


def test_float16_keeps_weights_in_half(files):
    kinds = [np.dtype(one["dtype"]).name for one in tensors(files["float16"])]
    assert {"float16", "float32"} <= set(kinds) <= {"float16", "float32", "int32"}


def test_dynamic_keeps_weights_in_integers(files):
    large = [one for one in tensors(files["dynamic"]) if len(one["shape"]) == 4]
    weights = [one for one in large if np.prod(one["shape"]) > 1024 and one["shape"][0] > 1]
    assert {np.dtype(one["dtype"]).name for one in weights} == {"int8"}


def test_int8_computes_in_integers_between_float_ends(files):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(files["int8"]))
    ends = [interpreter.get_input_details()[0], interpreter.get_output_details()[0]]
    assert {one["dtype"] for one in ends} == {np.float32}
    inside = {one["index"] for one in ends}
    kinds = {np.dtype(t["dtype"]).name for t in tensors(files["int8"]) if t["index"] not in inside}
    assert kinds <= {"int8", "int32"}
    per_channel = [len(one["quantization_parameters"]["scales"]) for one in tensors(files["int8"])]
    assert {16, 32, 64} <= set(per_channel)


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


def refused(student, path, match, error=ValueError, **arguments):
    with pytest.raises(error, match=match):
        mr.export.to_tflite(student, path / "a.tflite", **arguments)
    assert not list(path.iterdir())


def test_int8_needs_samples(student, sample, tmp_path):
    int8 = {"quantization": "int8"}
    refused(student, tmp_path, "give representative=.*Received: representative=None", **int8)
    few = {**int8, "representative": sample[0][:31]}
    refused(student, tmp_path, "at least 32 samples.*Received: 31", **few)
    wrong = {**int8, "representative": sample[0][:40, :20]}
    refused(student, tmp_path, r"representative must have.*Received: \(40, 20, 28, 1\)", **wrong)
    nothing = {**int8, "representative": 100}
    refused(
        student, tmp_path, "representative must be a dataset.*of type int", TypeError, **nothing
    )


@pytest.mark.parametrize("quantization", [None, "float16", "dynamic"])
def test_samples_that_nothing_reads_are_refused(quantization, student, sample, tmp_path):
    given = {"quantization": quantization, "representative": sample[0][:40]}
    refused(student, tmp_path, "for quantization='int8' alone. Received", **given)


def test_operations_without_integers_are_refused(tmp_path, random):
    inputs = keras.Input((4,))
    student = keras.Model(inputs, keras.layers.Dense(3)(keras.ops.sin(inputs)))
    data = {"quantization": "int8", "representative": random.normal(size=(40, 4))}
    refused(student, tmp_path, "quantization='dynamic' or 'float16'", **data)
