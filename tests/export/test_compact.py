"""Compact files: they compute the same bit for bit, and lack what no runtime reads."""

import keras
import numpy as np
import pytest
from keras import layers
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

import modreduce_keras as mr
from modreduce_keras.export.compact import compact
from tests.support.models.exporting import convnet, images


def two_inputs():
    parts = {name: keras.Input((4,), name=name) for name in ("left", "right")}
    return keras.Model(parts, layers.Dense(3)(layers.Subtract()(list(parts.values()))))


@pytest.fixture
def written(tmp_path, settled, monkeypatch):
    """Returns the file of a student as the converter made it, and as it is written."""

    def write(student, **arguments):
        converted = []
        monkeypatch.setattr(
            "modreduce_keras.export.tflite.compact",
            lambda content: (converted.append(content), compact(content))[1],
        )
        path = mr.export.to_tflite(settled(student), tmp_path / "student.tflite", **arguments)
        return converted[0], path.read_bytes()

    return write


def interpreter(content):
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_content=content)


@pytest.mark.parametrize("quantization", [None, "float16", "dynamic", "int8"])
def test_it_computes_the_same_bit_for_bit(quantization, written, random):
    ranges = {"representative": images(random, 40)} if quantization == "int8" else {}
    # Wide enough that "dynamic" has layers to quantize.
    files = written(convnet(widths=(16, 24)), quantization=quantization, **ranges)
    tensors = [interpreter(content).get_tensor_details() for content in files]
    assert {one["name"] for one in tensors[1]} >= {"image", "logits", ""}
    for plain, compacted in zip(*tensors, strict=True):
        np.testing.assert_equal({**compacted, "name": plain["name"]}, plain)
    for samples in (1, 5):
        inputs = images(random, samples)
        runners = [interpreter(content).get_signature_runner() for content in files]
        plain, compacted = (runner(image=inputs)["logits"] for runner in runners)
        np.testing.assert_array_equal(compacted, plain)
        assert np.ptp(plain) > 0


def test_signatures_stay_and_name_the_ends(written, random):
    plain, compacted = map(interpreter, written(two_inputs()))
    assert compacted.get_signature_list() == plain.get_signature_list()
    for details in (plain.get_input_details, plain.get_output_details):
        assert [one["index"] for one in details()] == [
            one["index"] for one in getattr(compacted, details.__name__)()
        ]
    names = {one["name"] for one in compacted.get_input_details()}
    assert names == {"left", "right"}
    assert [one["name"] for one in compacted.get_output_details()] == ["logits"]


def test_it_is_smaller_by_what_is_not_read(written, random):
    plain, compacted = written(convnet(), quantization="int8", representative=images(random, 40))
    for text in (b"stage1", b"MLIR Converted.", b"CONVERSION_METADATA", b"main"):
        assert plain.count(text)
        assert not compacted.count(text)
    assert compacted.count(b"min_runtime_version") == 1
    # Six channels of the second stage: zero points of its kernel and of its offset.
    zeros = np.uint32(6).tobytes() + bytes(6 * 8)
    assert (plain.count(zeros), compacted.count(zeros)) == (2, 1)
    assert len(compacted) < 0.75 * len(plain)


def test_the_data_of_buffers_are_aligned(written):
    _, content = written(convnet())
    start = np.frombuffer(content, "uint8").__array_interface__["data"][0]
    model = schema.Model.GetRootAs(content)
    buffers = [model.Buffers(place) for place in range(model.BuffersLength())]
    data = [one.DataAsNumpy() for one in buffers if one.DataLength()]
    places = [one.__array_interface__["data"][0] - start for one in data]
    assert [place % 16 for place in places] == [0] * 8


def test_the_first_buffer_is_empty_and_no_other(written):
    model = schema.Model.GetRootAs(written(convnet())[1])
    sizes = [model.Buffers(place).DataLength() for place in range(model.BuffersLength())]
    assert sizes[0] == 0
    assert all(sizes[1:])


def test_compacting_twice_changes_nothing(written):
    _, content = written(two_inputs())
    assert compact(content) == content


def test_weights_behind_the_flatbuffer_are_left_there(written):
    plain, _ = written(two_inputs())
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(plain))
    model.buffers[-1].offset = 1 << 31
    content = flatbuffer_utils.convert_object_to_bytearray(model)
    assert compact(content) is content
