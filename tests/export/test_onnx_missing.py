"""Without the packages of ONNX, errors name the extra that brings them."""

import sys

import pytest

import modreduce_keras as mr
from tests.support.models.exporting import convnet

EXTRA = r"pip install 'modreduce-keras\[onnx\]'"


@pytest.mark.parametrize("package", ["onnx", "tf2onnx"])
def test_the_converter_is_missing(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"tf2onnx.*{EXTRA}"):
        mr.export.to_onnx(convnet(), tmp_path / "student.onnx")
    assert not list(tmp_path.iterdir())


def test_the_runtime_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = tmp_path / "student.onnx"
    path.write_bytes(b"a file")
    with pytest.raises(ImportError, match=rf"onnxruntime.*{EXTRA}"):
        mr.export.verify(path, convnet(), [])
