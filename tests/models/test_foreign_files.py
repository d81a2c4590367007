"""Tests of SavedModels and ONNX files as teachers, against the networks that wrote them."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.models import onnx_runtime

X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")


def net(width=8, head=None, name="network"):
    layers = [keras.layers.Dense(width, "relu"), keras.layers.Dense(3, head)]
    return keras.Sequential([keras.Input((4,), name="table"), *layers], name=name)


def saved_model(network, folder):
    network.export(folder / "network", format="tf_saved_model", verbose=False)
    return folder / "network"


def onnx(network, folder):
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    return mr.export.to_onnx(network, folder / "network.onnx")


KINDS = {
    "saved_model": (saved_model, mr.models.from_saved_model),
    "onnx": (onnx, mr.models.from_onnx),
}
every_kind = pytest.mark.parametrize("kind", list(KINDS))


def trained(teacher, student):
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge="kd")
    distiller.compile(keras.optimizers.SGD(0.1))
    distiller.fit(X, batch_size=4, shuffle=False, epochs=2, verbose=0)
    return distiller


@every_kind
def test_the_model_gives_what_the_network_gives_and_teaches_it(kind, tmp_path):
    network, (write, read) = net(), KINDS[kind]
    teacher = read(write(network, tmp_path))
    assert teacher.name == "network"
    assert (teacher.input_shape, teacher.output_shape) == ((None, 4), (None, 3))
    np.testing.assert_allclose(teacher.predict(X[:3], verbose=0), network(X[:3]), rtol=1e-5)
    first, second = net(5), net(5)
    second.set_weights(first.get_weights())
    trained(network, first)
    trained(teacher, second)
    for one, other in zip(first.weights, second.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-6)


@every_kind
def test_probabilities_and_layers_inside_are_refused(kind, tmp_path):
    write, read = KINDS[kind]
    teacher = read(write(net(head="softmax"), tmp_path))
    with pytest.raises(ValueError, match=r"ends in a softmax .*; z = keras.ops.log"):
        mr.Distiller(student=net(5), teacher=teacher, knowledge="kd")
    cache = mr.data.TeacherCache(tmp_path / "cache", teacher)
    with pytest.raises(ValueError, match=r"ends in a softmax.* p = teacher\.output; z = keras"):
        cache.fill(mr.data.with_index(tf.data.Dataset.from_tensor_slices((X, X[:, 0]))).batch(4))
    assert not cache.folder.exists()
    z = keras.ops.log(keras.ops.maximum(teacher.output, 1e-7))
    mr.Distiller(student=net(5), teacher=keras.Model(teacher.input, z), knowledge="kd")
    with pytest.raises(ValueError, match=r"Unknown tap 'dense'"):
        mr.Distiller(student=net(5), teacher=teacher, knowledge=mr.Feature("hint", at="dense"))


def test_a_distiller_is_saved_with_an_onnx_file_and_not_with_a_saved_model(tmp_path):
    student = net(5)
    distiller = trained(mr.models.from_saved_model(saved_model(net(), tmp_path)), student)
    with pytest.raises(ValueError, match=r"which no other file can hold.*distiller\.student\.save"):
        distiller.save(tmp_path / "distiller.keras")
    distiller.save_weights(tmp_path / "distiller.weights.h5")
    distiller = trained(mr.models.from_onnx(onnx(net(), tmp_path)), net(5))
    assert not distiller.jit_compile
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    np.testing.assert_allclose(
        loaded.evaluate(X, verbose=0), distiller.evaluate(X, verbose=0), rtol=1e-5
    )
    copy = mr.models.copy_model(distiller.teacher)
    np.testing.assert_allclose(copy(X), distiller.teacher(X), rtol=1e-5)


def test_a_model_of_a_saved_model_is_saved_and_loaded(tmp_path):
    model = mr.models.from_saved_model(saved_model(net(), tmp_path))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=False)
    np.testing.assert_array_equal(loaded(X), model(X))


def several_outputs(folder):
    inputs = keras.Input((4,), name="table")
    outputs = {
        name: keras.layers.Dense(size, name=name)(inputs) for name, size in (("a", 3), ("b", 2))
    }
    model = keras.Model(inputs, outputs)
    return model, saved_model(model, folder)


def test_of_several_outputs_one_is_chosen_or_all_by_name(tmp_path):
    model, folder = several_outputs(tmp_path)
    chosen = mr.models.from_saved_model(folder, output="b", name="teacher")
    np.testing.assert_allclose(chosen(X), model(X)["b"], rtol=1e-5)
    assert set(mr.models.from_saved_model(folder)(X)) == {"a", "b"}
    with pytest.raises(ValueError, match=r"output must be one of \['a', 'b'\]. Received"):
        mr.models.from_saved_model(folder, output="c")


def two_inputs(name):
    inputs = {key: keras.Input((4,), name=key) for key in ("left", "right")}
    return keras.Model(
        inputs, keras.layers.Dense(3)(inputs["left"] - 2.0 * inputs["right"]), name=name
    )


@every_kind
def test_several_inputs_are_taken_by_name(kind, tmp_path):
    network, (write, read) = two_inputs("network"), KINDS[kind]
    teacher = read(write(network, tmp_path))
    x = {"right": X, "left": X[::-1]}
    np.testing.assert_allclose(teacher(x), network(x), rtol=1e-5, atol=1e-6)
    distiller = mr.Distiller(student=two_inputs("student"), teacher=teacher, knowledge="kd")
    distiller.compile(run_eagerly=True)
    forward = distiller.forward(x, training=True)
    np.testing.assert_allclose(forward.teacher["student"].logits, network(x), rtol=1e-5, atol=1e-6)


@every_kind
def test_files_that_are_missing_or_damaged_are_told(kind, tmp_path):
    _, read = KINDS[kind]
    with pytest.raises(FileNotFoundError, match=r"path must be .*Received: path="):
        read(tmp_path / "nowhere")
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        (tmp_path / "a.onnx").write_bytes(b"damaged")
        with pytest.raises(ValueError, match=r"ONNX Runtime cannot run .*a\.onnx"):
            read(tmp_path / "a.onnx")


class Session:
    """A session of ONNX Runtime with inputs or outputs of a kind."""

    def __init__(self, shape=("n", 4), outputs=("logits",)):
        self._shape, self._outputs = list(shape), outputs

    def get_inputs(self):
        return [type("Input", (), {"name": "x", "shape": self._shape, "type": "tensor(float)"})]

    def get_outputs(self):
        return [type("Output", (), {"name": name}) for name in self._outputs]

    def run(self, names, fed):
        return [fed["x"] * (1 + self._outputs.index(names[0]))]


@pytest.mark.parametrize(
    ("session", "message"),
    [
        (Session((8, 4)), r"free number of samples.*\[8, 4\]"),
        (Session(("n", "m")), r"otherwise known sizes.*'m'"),
        (Session(outputs=("a", "b")), r"output must be one of \['a', 'b'\].*output=None"),
    ],
)
def test_onnx_files_that_do_not_fit_are_told(session, message, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_runtime, "opened", lambda *_: session)
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        mr.models.from_onnx(tmp_path / "a.onnx")


def test_an_output_of_an_onnx_file_is_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_runtime, "opened", lambda *_: Session(outputs=("a", "b")))
    (tmp_path / "a.onnx").write_bytes(b"")
    np.testing.assert_allclose(mr.models.from_onnx(tmp_path / "a.onnx", output="b")(X), 2 * X)


def test_the_runtime_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(
        ImportError, match=r"from_onnx runs .*pip install 'modreduce-keras\[onnx\]'"
    ):
        mr.models.from_onnx(tmp_path / "a.onnx")
