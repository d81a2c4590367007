"""ONNX files: every kind of student becomes one that ONNX Runtime runs, where its packages are."""

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr
from tests.support.models.by_rows import (
    DATA,
    LABELS,
    SWAPPED,
    every_damage,
    linear,
    other_architectures,
)
from tests.support.models.exporting import CLASSES, CLOSE, convnet, images

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")


@pytest.fixture(scope="module")
def student():
    return linear(np.eye(3))


@pytest.fixture(scope="module")
def file(student, tmp_path_factory):
    return mr.export.to_onnx(student, tmp_path_factory.mktemp("own") / "own.onnx")


def words():
    inputs = keras.Input((None,), dtype="int32")
    states = layers.Conv1D(6, 3)(layers.Embedding(7, 5)(inputs))
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(states)))


def lstm():
    inputs = keras.Input((5, 3))
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.LSTM(4)(inputs)))


def grouped():
    inputs = keras.Input((6, 6, 4))
    maps = layers.Conv2D(8, 3, groups=2, activation="gelu")(inputs)
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(maps)))


@keras.saving.register_keras_serializable(package="tests")
class Weighs(layers.Layer):
    """A layer that holds a tensor, which is no variable."""

    def build(self, shape):
        self.by = keras.ops.arange(1.0, 1.0 + shape[-1])

    def call(self, inputs):
        return self.by * inputs


def holds_a_tensor():
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(CLASSES)(Weighs()(inputs)))


KINDS = {
    "convnet": (convnet, lambda random: images(random)),
    "branch": (
        lambda: mr.models.branch(convnet(), at="stage1", branches=2).students["branch_1"],
        lambda random: images(random),
    ),
    "early exit": (
        lambda: mr.SelfDistiller(convnet(), exits=["stage1"]).exit_model("stage1"),
        lambda random: images(random),
    ),
    "recurrent": (lstm, lambda random: random.normal(size=(9, 5, 3))),
    # Keras compiles such convolutions with XLA, and computes GELU from erfc.
    "grouped convolutions and GELU": (grouped, lambda random: random.normal(size=(9, 6, 6, 4))),
    "a layer that holds a tensor": (holds_a_tensor, lambda random: random.normal(size=(9, 4))),
    "integers of any length": (words, lambda random: random.integers(0, 7, (9, 11))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_student_exports(kind, tmp_path, settled, random):
    make, data = KINDS[kind]
    student, path = settled(make()), tmp_path / "student.onnx"
    assert mr.export.to_onnx(student, str(path)) == path
    assert list(tmp_path.iterdir()) == [path]
    onnx.checker.check_model(path, full_check=True)
    figures = mr.export.verify(path, student, data(random), repeats=1)
    assert figures.largest_difference < CLOSE
    assert figures.agreement == 1.0


def test_normalization_is_folded_and_the_precision_full(tmp_path, settled, random):
    twin = settled(convnet())
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        student = convnet()
    finally:
        keras.config.set_dtype_policy("float32")
    student.set_weights(twin.get_weights())
    path = mr.export.to_onnx(student, tmp_path / "student.onnx")
    assert mr.export.verify(path, twin, images(random), repeats=1).largest_difference < CLOSE
    graph = onnx.load(path).graph
    assert not {"BatchNormalization", "Sub", "Sqrt"} & {node.op_type for node in graph.node}
    assert {one.data_type for one in graph.initializer} <= {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.INT64,
        onnx.TensorProto.INT32,
    }


def test_inputs_keep_their_names(tmp_path, settled, random):
    parts = {"right side": keras.Input((3,), name="right side"), "2": keras.Input((4,), name="2")}
    both = layers.Concatenate()([layers.Dense(5)(parts["2"]), parts["right side"]])
    student = settled(keras.Model(parts, layers.Dense(CLASSES)(both)))
    data = {"2": random.normal(size=(9, 4)), "right side": random.normal(size=(9, 3))}
    path = mr.export.to_onnx(student, tmp_path / "student.onnx")
    assert mr.export.verify(path, student, data, repeats=1).largest_difference < CLOSE
    session = runtime.InferenceSession(str(path))
    arrays = {name: array.astype("float32") for name, array in data.items()}
    given = {"right_side": arrays["right side"], "input_2": arrays["2"]}
    (logits,) = session.run(["logits"], given)
    np.testing.assert_allclose(logits, student(arrays), atol=1e-5)


def test_figures_by_hand(student, tmp_path):
    path = mr.export.to_onnx(linear(SWAPPED), tmp_path / "other.onnx")
    figures = mr.export.verify(path, student, (DATA, LABELS), least_agreement=0.5, threads=2)
    assert (figures.agreement, figures.accuracy, figures.student_accuracy) == (0.5, 0.25, 0.75)
    assert figures.largest_difference == pytest.approx(1.0)
    assert figures.size == len(path.read_bytes())
    assert (figures.threads, figures.samples) == (2, 4)
    assert 0 < figures.milliseconds < 100
    with pytest.raises(mr.export.VerificationError, match=r"50\.00 % of 4 samples.*97 %"):
        mr.export.verify(path, student, DATA, repeats=1)


def test_the_runtime_has_one_thread_unless_told_otherwise(student, file, monkeypatch):
    given, real = [], runtime.InferenceSession

    def session(path, options, **arguments):
        given.append(options.intra_op_num_threads)
        return real(path, options, **arguments)

    monkeypatch.setattr(runtime, "InferenceSession", session)
    told = [mr.export.verify(file, student, DATA, repeats=1, **x) for x in ({}, {"threads": 3})]
    assert given == [figures.threads for figures in told] == [1, 3]


# What is refused


@pytest.fixture
def refused(tmp_path):
    """Asserts that an export is refused with a message, and leaves nothing behind."""

    def refuse(student, match, error=ValueError, name="student.onnx"):
        with pytest.raises(error, match=match):
            mr.export.to_onnx(student, tmp_path / name)
        assert not list(tmp_path.iterdir())

    return refuse


def test_operations_that_onnx_lacks(refused, capfd):
    inputs = keras.Input((3,))
    erfinv = keras.Model(inputs, layers.Dense(CLASSES)(keras.ops.erfinv(inputs)))
    refused(erfinv, r"lacks: \['Erfinv'\]\. Replace their layers.*to_saved_model")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["TextVectorization", "StringLookup", "IntegerLookup"])
def test_tables_are_named(kind, refused):
    inputs = keras.Input((1,), dtype="int64" if kind == "IntegerLookup" else "string")
    vocabulary = [3, 4] if kind == "IntegerLookup" else ["a", "b"]
    found = getattr(layers, kind)(vocabulary=vocabulary, name="look")(inputs)
    states = layers.GlobalAveragePooling1D()(layers.Embedding(9, 4)(found))
    refused(keras.Model(inputs, layers.Dense(CLASSES)(states)), r"tables.*'look'.*to_saved_model")


def test_what_the_converter_gets_wrong(refused, random):
    network = mr.models.exits(convnet(), ["stage1"])
    refused(mr.EarlyExit(network, threshold=0.5), r"cannot be converted to ONNX.*said: .*Conv")


def test_what_the_converter_says_is_handed_on(refused, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such layer")

    monkeypatch.setattr("tf2onnx.convert.from_function", fail)
    refused(convnet(), r"'convnet' cannot be converted to ONNX.*said: no such layer")


def test_only_plain_students_and_files(refused):
    branches = mr.models.branch(convnet(), at="stage1", branches=2)
    refused(branches, r"branches\.students\['branch_0'\]")
    refused(convnet(), r"path must be a file that ends in '\.onnx'. Received", name="a.tflite")
    refused(convnet(), "folder that exists", FileNotFoundError, name="missing/a.onnx")


# What is not the student


@every_damage
def test_a_damaged_file_is_found(damage, student, file, tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(damage(file.read_bytes()))
    with pytest.raises(mr.export.VerificationError, match="ONNX Runtime cannot read it") as told:
        mr.export.verify(path, student, DATA)
    assert told.value.verification is None


@other_architectures
def test_the_file_of_another_architecture_is_found(kernel, shape, match, student, tmp_path):
    path = mr.export.to_onnx(linear(kernel, shape), tmp_path / "a.onnx")
    with pytest.raises(mr.export.VerificationError, match=match):
        mr.export.verify(path, student, DATA)


def foreign(path, nodes, outputs, kind):
    """Writes a graph of another program."""
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node(*node) for node in nodes],
        "foreign",
        [helper.make_tensor_value_info("x", kind, [None, 3])],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
    )
    opset = [helper.make_opsetid("", 15)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("kind", "nodes", "match"),
    [
        ("FLOAT", [("Relu", ["x"], ["y"]), ("Abs", ["x"], ["z"])], r"outputs \['y', 'z'\]"),
        ("STRING", [("Identity", ["x"], ["y"])], r"'features' is object of shape \(-1, 3\)"),
        ("DOUBLE", [("Identity", ["x"], ["y"])], r"'features' is float64 of shape \(-1, 3\)"),
        ("FLOAT", [("MatMul", ["x", "x"], ["y"])], "ONNX Runtime fails to run it"),
    ],
    ids=["outputs", "strings", "doubles", "sizes"],
)
def test_files_of_other_programs(kind, nodes, match, student, tmp_path):
    outputs = [name for _, _, made in nodes for name in made]
    path = foreign(tmp_path / "a.onnx", nodes, outputs, getattr(onnx.TensorProto, kind))
    with pytest.raises(mr.export.VerificationError, match=match):
        mr.export.verify(path, student, DATA)
