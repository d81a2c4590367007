"""Ends of int8 files: integers that stand for floats, and images in uint8 as they come."""

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr
from modreduce_keras.export.interpreter import TFLiteFile

ENDS = ("float32", "int8", "uint8")


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).normal(size=(48, 6)).astype("float32")


@pytest.fixture(scope="module")
def student():
    keras.utils.set_random_seed(3)
    stack = [layers.Dense(8, activation="relu"), layers.Dense(3, name="logits")]
    return keras.Sequential([keras.Input((6,), name="x"), *stack])


@pytest.fixture(scope="module")
def files(student, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ends")
    int8 = {"quantization": "int8", "representative": data}
    return {io: mr.export.to_tflite(student, folder / f"{io}.tflite", io=io, **int8) for io in ENDS}


def interpreter_of(path, samples=None):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    if samples is not None:
        details = interpreter.get_input_details()[0]
        interpreter.resize_tensor_input(details["index"], [samples, *details["shape"][1:]])
    interpreter.allocate_tensors()
    return interpreter


def ends_of(path):
    interpreter = interpreter_of(path)
    return interpreter.get_input_details()[0], interpreter.get_output_details()[0]


def run(path, integers):
    """Returns the output of a file for what it is fed as it is."""
    interpreter = interpreter_of(path, len(integers))
    given, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.set_tensor(given["index"], integers)
    interpreter.invoke()
    return interpreter.get_tensor(output["index"])


def kinds(path):
    return {one["op_name"] for one in interpreter_of(path)._get_ops_details()}


@pytest.mark.parametrize("io", ENDS)
def test_ends_have_the_type_that_is_asked_for(io, files):
    assert [np.dtype(one["dtype"]).name for one in ends_of(files[io])] == [io, io]


def test_ends_of_int8_leave_no_conversion_in_the_file(files):
    assert {"QUANTIZE", "DEQUANTIZE"} <= kinds(files["float32"])
    assert kinds(files["int8"]).isdisjoint({"QUANTIZE", "DEQUANTIZE"})


@pytest.mark.parametrize("io", ["int8", "uint8"])
def test_integers_are_quantized_by_the_file_s_own_scale(io, files, data):
    """Worked out here from what LiteRT says, against the file that does it itself."""
    given, output = ends_of(files[io])
    ends = np.iinfo(io)
    (scale, zero), (out_scale, out_zero) = given["quantization"], output["quantization"]
    integers = np.clip(np.rint(data / np.float32(scale)) + zero, ends.min, ends.max).astype(io)
    expected = out_scale * (run(files[io], integers).astype("float64") - out_zero)
    file = TFLiteFile(files[io], threads=1)
    file.bind({"x": (None, 6)}, {"x": "float32"})
    found = file.run({"x": data})
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    # The one that quantizes for itself rounds halves in its own way.
    assert np.abs(found - run(files["float32"], data)).max() < 1.01 * out_scale


@pytest.mark.parametrize("io", ENDS)
def test_agreement_is_judged_on_the_same_numbers(io, files, student, data):
    classes = student.predict(data, verbose=0).argmax(-1)
    figures = mr.export.verify(files[io], student, (data, classes), repeats=1)
    assert figures.agreement == figures.accuracy >= 0.97
    assert figures.largest_difference < 3 * ends_of(files["int8"])[1]["quantization"][0]


def test_what_is_beyond_the_range_is_cut_off_and_nan_is_the_middle(files):
    file = TFLiteFile(files["int8"], threads=1)
    file.bind({"x": (None, 6)}, {"x": "float32"})
    low, high, nothing = (np.full((1, 6), value, "float32") for value in (-1e9, 1e9, np.nan))
    np.testing.assert_array_equal(file.run({"x": low}), file.run({"x": np.full_like(low, -np.inf)}))
    np.testing.assert_array_equal(file.run({"x": high}), file.run({"x": np.full_like(low, np.inf)}))
    np.testing.assert_array_equal(file.run({"x": nothing}), file.run({"x": np.zeros_like(low)}))


@pytest.mark.slow
@pytest.mark.parametrize("io", ["int8", "uint8"])
def test_a_quantization_aware_student_has_integers_at_its_ends(io, student, data, tmp_path):
    quantized = mr.quantize_aware(student, representative=data)
    path = mr.export.to_tflite(quantized, tmp_path / "a.tflite", quantization="int8", io=io)
    assert [np.dtype(one["dtype"]).name for one in ends_of(path)] == [io, io]
    step = ends_of(path)[1]["quantization"][0]
    figures = mr.export.verify(path, quantized, data, repeats=1)
    assert figures.largest_difference < 1.01 * step


@pytest.mark.slow
def test_a_last_layer_in_float_gives_integers_too(data, tmp_path):
    inputs = keras.Input((6,))
    last = layers.Activation("elu", name="last")(layers.Dense(3)(inputs))
    given = {"quantization": "int8", "representative": data, "allow_float": ["last"]}
    student = keras.Model(inputs, last)
    path = mr.export.to_tflite(student, tmp_path / "a.tflite", io="int8", **given)
    assert [one["dtype"] for one in ends_of(path)] == [np.int8, np.int8]
    assert mr.export.verify(path, student, data, repeats=1).agreement >= 0.97


@pytest.mark.slow
def test_several_inputs_have_scales_of_their_own(data, tmp_path):
    parts = {"a": keras.Input((6,), name="a"), "b": keras.Input((6,), name="b")}
    student = keras.Model(parts, layers.Dense(3)(layers.Concatenate()(list(parts.values()))))
    given = {"a": data, "b": 100 * data}
    path = mr.export.to_tflite(
        student, tmp_path / "a.tflite", quantization="int8", representative=given, io="int8"
    )
    figures = mr.export.verify(path, student, given, repeats=1)
    assert figures.agreement >= 0.97


# Images in uint8


def resized(images):
    return layers.Rescaling(1 / 255)(layers.Resizing(6, 6)(images))


IMAGES = {
    "rescaled": layers.Rescaling(1 / 255),
    "around zero": layers.Rescaling(1 / 127.5, offset=-1.0),
    "cast": lambda images: keras.ops.cast(images, "float32") / 255.0,
    "normalized": layers.Normalization(mean=[120.0, 110.0, 100.0], variance=[60.0, 50.0, 70.0]),
    "by a function": layers.Lambda(lambda images: keras.ops.cast(images, "float32") / 127.5 - 1.0),
    "resized": resized,
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in IMAGES if name != "rescaled"]


@pytest.fixture
def images():
    images = np.random.default_rng(1).integers(0, 256, (40, 12, 12, 3)).astype("uint8")
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 0, 255
    return images


def of_images(prepare):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((12, 12, 3), dtype="uint8", name="image")
    maps = layers.Conv2D(4, 3, strides=2, padding="same")(prepare(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(maps)))


@pytest.mark.parametrize("name", ["rescaled", *SLOW])
def test_images_stay_in_uint8(name, images, tmp_path):
    student = of_images(IMAGES[name])
    path = mr.export.to_tflite(
        student, tmp_path / "a.tflite", quantization="int8", representative=images, io="int8"
    )
    given, output = ends_of(path)
    assert (given["dtype"], output["dtype"]) == (np.uint8, np.int8)
    assert given["quantization"] == (1.0, 0)
    assert "CAST" not in kinds(path)
    scale, zero = output["quantization"]
    expected = student.predict(images, verbose=0)
    found = scale * (run(path, images).astype("float64") - zero)
    assert np.abs(found - expected).max() < 0.05 * np.ptp(expected)
    figures = mr.export.verify(path, student, images, repeats=1, least_agreement=0.0)
    assert figures.largest_difference == pytest.approx(np.abs(found - expected).max(), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("io", ["float32", "int8"])
def test_token_indices_stay_what_they_are(io, tmp_path, random):
    inputs = keras.Input((5,), dtype="int32")
    tokens = random.integers(0, 9, (40, 5)).astype("int32")
    student = keras.Model(
        inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(layers.Embedding(9, 4)(inputs)))
    )
    path = mr.export.to_tflite(
        student, tmp_path / "a.tflite", quantization="int8", representative=tokens, io=io
    )
    assert [np.dtype(one["dtype"]).name for one in ends_of(path)] == ["int32", io]
    assert mr.export.verify(path, student, tokens, repeats=1).agreement >= 0.97


# What is refused


def refused(student, path, match, error=ValueError, **arguments):
    with pytest.raises(error, match=match):
        mr.export.to_tflite(student, path / "a.tflite", **arguments)
    assert not list(path.iterdir())


@pytest.mark.parametrize("quantization", [None, "float16", "dynamic"])
def test_other_files_have_no_integers_at_their_ends(quantization, student, tmp_path):
    match = "io and allow_float are for quantization='int8'.*Received: .*io='int8'"
    refused(student, tmp_path, match, quantization=quantization, io="int8")


def test_types_have_names(student, data, tmp_path):
    given = {"quantization": "int8", "representative": data}
    match = r"io must be one of \['float32', 'int8', 'uint8'\]. Received: io='int16'"
    refused(student, tmp_path, match, io="int16", **given)


@pytest.mark.parametrize(
    ("values", "received"),
    [(lambda x: x / 255.0, "float64 from 0 to 1"), (lambda x: x.astype("int32") - 1, "from -1 to")],
)
def test_images_that_are_no_uint8_are_refused(values, received, images, tmp_path):
    given = {"quantization": "int8", "representative": values(images)}
    match = rf"values that the student takes, uint8 from 0 to 255: .*astype\('uint8'\).*{received}"
    refused(of_images(IMAGES["rescaled"]), tmp_path, match, **given)
