"""Tests of a teacher's outputs from arrays, files and functions, without a distiller."""

import builtins
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.data import TeacherOutputs

LOGITS = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
X = np.arange(12.0, dtype="float32").reshape(6, 2)


def rows_of(attached):
    (stored,) = attached["teacher_outputs"].values()
    return stored["logits"]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_softened_probabilities_are_those_of_the_logits(temperature):
    (z,) = TeacherOutputs(probabilities=PROBABILITIES).rows(np.arange(6))
    powers = PROBABILITIES.astype("float64") ** (1 / temperature)
    softened = keras.ops.softmax(z / temperature).numpy()
    np.testing.assert_allclose(softened, powers / powers.sum(axis=1, keepdims=True), rtol=1e-5)
    of_logits = keras.ops.softmax(LOGITS / temperature).numpy()
    np.testing.assert_allclose(softened, of_logits, rtol=1e-5)


def test_probabilities_of_zero_are_clipped():
    (z,) = TeacherOutputs(probabilities=np.eye(2), clip=1e-3).rows([0])
    np.testing.assert_allclose(z, [[0.0, np.log(1e-3)]], rtol=1e-6)
    weight = np.exp(np.log(1e-7) / 4)
    assert f"{100 * weight:.1f} %" in " ".join(TeacherOutputs.__doc__.split())


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        (np.array([0.2, 1.0]), {}),
        (np.array([[0.2, 0.9], [1.0, 0.0]]), {"independent": True}),
    ],
    ids=["one", "labels"],
)
def test_independent_probabilities_become_logits_of_sigmoids(given, arguments):
    (z,) = TeacherOutputs(probabilities=given, clip=1e-4, **arguments).rows([0, 1])
    expected = np.clip(given, 1e-4, 1 - 1e-4).reshape(2, -1)
    np.testing.assert_allclose(keras.ops.sigmoid(z), expected, rtol=1e-3, atol=2e-4)


def write_parquet(path, index=None):
    from pyarrow import parquet, table

    columns = {f"class_{i}": LOGITS[:, i] for i in range(3)}
    columns |= {} if index is None else {"sample": index}
    parquet.write_table(table(columns), path)
    return path


@pytest.mark.parametrize("form", ["array", "float16", "npy", "parquet", "parquet_index", "index"])
def test_sources_give_the_rows_of_samples(form, tmp_path):
    index, samples = np.array([7, 3, 9, 0, 5, 4]), [4, 0, 9]
    if form in ("array", "float16"):
        source = LOGITS if form == "array" else LOGITS.astype("float16")
        outputs = TeacherOutputs(logits=source)
        samples = [2, 0, 5]
        expected = source[samples]
    elif form == "npy":
        np.save(tmp_path / "z.npy", LOGITS)
        outputs, samples = TeacherOutputs(logits=str(tmp_path / "z.npy")), [2, 0, 5]
        expected = LOGITS[samples]
        assert isinstance(outputs._stored.tables[0], np.memmap)
    elif form == "parquet":
        pytest.importorskip("pyarrow")
        outputs = TeacherOutputs(logits=write_parquet(tmp_path / "z.parquet"), index=index)
        expected = LOGITS[[5, 3, 2]]
    elif form == "parquet_index":
        pytest.importorskip("pyarrow")
        path = write_parquet(tmp_path / "z.parquet", index)
        outputs = TeacherOutputs(logits=path, index="sample")
        outputs = TeacherOutputs.from_config(outputs.get_config())
        expected = LOGITS[[5, 3, 2]]
    else:
        outputs, expected = TeacherOutputs(logits=LOGITS, index=index), LOGITS[[5, 3, 2]]
    (rows,) = outputs.rows(samples)
    assert rows.dtype == "float32"
    np.testing.assert_array_equal(rows, expected.astype("float32"))


def test_attach_keeps_rows_with_their_samples():
    several = TeacherOutputs(logits=[LOGITS, -LOGITS], index=[5, 4, 3, 2, 1, 0])
    attached = several.attach({"a": X})
    np.testing.assert_array_equal(attached["sample_index"], np.arange(6))
    np.testing.assert_array_equal(rows_of(attached)[1], -LOGITS[::-1])
    samples = mr.data.with_index(tf.data.Dataset.from_tensor_slices((X, X[:, 0])))
    for x, _ in several.attach(samples.shuffle(6, seed=2).batch(4)):
        first, second = rows_of(x)
        expected = LOGITS[5 - x["sample_index"].numpy()]
        np.testing.assert_array_equal(first, expected)
        np.testing.assert_array_equal(second, -expected)
        assert first.shape[1:] == (3,)


def test_other_arrays_than_the_samples_are_refused():
    outputs = TeacherOutputs(logits=LOGITS)
    with pytest.raises(ValueError, match=r"x alone.*attach\(x\), y.* Received: a tuple"):
        outputs.attach((X, X[:, 0]))
    with pytest.raises(ValueError, match=r"applied once.*Received: data with an index"):
        outputs.attach(outputs.attach(X))
    of_others = TeacherOutputs(logits=LOGITS, index=[7, 3, 9, 0, 5, 4])
    with pytest.raises(ValueError, match=r"samples 0 to 5.* leave out index=.*up to 9"):
        of_others.attach(X)


def test_a_function_is_called_by_parts_on_arrays():
    sizes = []

    def function(x):
        sizes.append(len(x))
        return x @ np.ones((2, 3))

    x = np.random.default_rng(0).normal(size=(1500, 2)).astype("float32")
    attached = TeacherOutputs(logits=function, shape=(3,)).attach(x)
    assert sizes == [1024, 476]
    np.testing.assert_allclose(rows_of(attached), x @ np.ones((2, 3)), rtol=1e-5)


def test_a_function_is_called_for_one_batch_of_a_dataset_at_a_time():
    running, most = set(), []

    def function(x):
        running.add(float(x[0, 0]))
        most.append(len(running))
        time.sleep(0.01)  # in which another thread would call it
        running.remove(float(x[0, 0]))
        return x @ np.ones((1, 3))

    samples = np.arange(32.0, dtype="float32")[:, None]
    dataset = mr.data.with_index(tf.data.Dataset.from_tensor_slices(samples)).batch(2)
    attached = list(TeacherOutputs(logits=function, shape=(3,)).attach(dataset))
    assert most == [1] * 16
    found = np.concatenate([rows_of(x) for x in attached])
    np.testing.assert_array_equal(found, samples @ np.ones((1, 3)))


NAN = np.where(np.arange(18).reshape(6, 3) == 4, np.nan, LOGITS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either logits= or probabilities="),
        ({"logits": LOGITS, "probabilities": LOGITS}, "either logits= or probabilities="),
        ({"logits": NAN}, "finite numbers. Received: NaN or infinity in 1 of 6 rows"),
        ({"logits": PROBABILITIES}, "looks like probabilities.*probabilities="),
        ({"probabilities": LOGITS}, "from 0 to 1"),
        ({"probabilities": PROBABILITIES[:, :2]}, "independent=True"),
        ({"logits": "z.txt"}, "z.txt"),
        ({"logits": [LOGITS, LOGITS[:5]]}, "equal shapes for the same samples"),
        ({"logits": LOGITS, "index": np.arange(5)}, "different one for each of the 6 rows"),
        ({"logits": LOGITS, "index": [0, 1, 2, 2, 3, 4]}, "5 different numbers"),
        ({"logits": LOGITS, "index": [-1, 1, 2, 6, 3, 4]}, "whole numbers from 0"),
        ({"logits": LOGITS, "index": "id"}, "column of a Parquet file only"),
        ({"logits": LOGITS, "shape": (4,)}, r"shape must be that of .* \(3,\)"),
        ({"logits": LOGITS, "teachers": 2}, "teachers must be"),
        ({"logits": LOGITS, "independent": True}, "independent is of probabilities"),
        ({"logits": np.tanh}, "shape of the outputs of one sample"),
        ({"logits": [np.tanh, LOGITS], "shape": (3,)}, "functions and of stored outputs"),
        ({"logits": np.tanh, "shape": (3,), "index": [1]}, "index is of stored outputs"),
        ({"logits": np.array(["a"])}, "array of numbers"),
        ({"logits": LOGITS.tolist()}, r"np\.asarray\(logits\)"),
        ({"probabilities": [0.2, 0.7]}, r"np\.asarray\(probabilities\)"),
        ({"logits": []}, "for each of several"),
        ({"logits": LOGITS, "clip": 0.5}, "clip must be"),
    ],
)
def test_mistakes_are_told(arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        TeacherOutputs(**arguments)
    assert "Received: " in str(error.value)


def test_samples_without_a_row_are_told():
    outputs = TeacherOutputs(logits=LOGITS)
    with pytest.raises(ValueError, match=r"no row of the samples \[6, 8\].*0 to 5"):
        outputs.rows([0, 6, 8])
    with pytest.raises(ValueError, match=r"no row of the samples \[2\].*the 6 of index="):
        TeacherOutputs(logits=LOGITS, index=[1, 3, 5, 7, 9, 11]).rows([1, 2])
    with pytest.raises(ValueError, match=r"\(6 rows\).*arrays of \[5\] samples"):
        outputs.attach(X[:5])
    data = mr.data.with_index(tf.data.Dataset.range(7)).batch(7)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"no row of the samples \[6\]"):
        next(iter(outputs.attach(data)))
    with pytest.raises(ValueError, match=r"outputs\.attach\(dataset\) takes .* with an index"):
        outputs.attach(tf.data.Dataset.range(6).batch(2))


def test_what_a_function_or_a_later_row_gives_is_checked(tmp_path, monkeypatch):
    wrong = TeacherOutputs(probabilities=lambda x: x, shape=(2,))
    with pytest.raises(ValueError, match="from 0 to 1"):
        wrong.attach(X)
    with pytest.raises(ValueError, match=r"must return an array of shape \(6, 3\).*\(6, 2\)"):
        TeacherOutputs(logits=lambda x: x, shape=(3,)).attach(X)
    probable = TeacherOutputs(logits=lambda x: PROBABILITIES[: len(x)], shape=(3,))
    with pytest.raises(ValueError, match=r"looks like probabilities.*probabilities="):
        probable.attach(X)
    np.testing.assert_array_equal(rows_of(probable.attach(X[:1])), PROBABILITIES[:1])
    np.save(tmp_path / "z.npy", NAN)
    monkeypatch.setattr("modreduce_keras.data.output_rows._CHUNK", 1)
    outputs = TeacherOutputs(logits=tmp_path / "z.npy")
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 2 rows"):
        outputs.rows([0, 1])
    np.save(tmp_path / "p.npy", np.concatenate([LOGITS, PROBABILITIES]))
    with pytest.raises(ValueError, match="looks like probabilities"):
        TeacherOutputs(logits=tmp_path / "p.npy").rows([6, 7])


def test_parquet_without_its_package_is_told(tmp_path, monkeypatch):
    (tmp_path / "z.parquet").write_bytes(b"")

    def missing(name, *args, real=builtins.__import__, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        TeacherOutputs(logits=tmp_path / "z.parquet")


def test_a_config_has_paths_and_shapes(tmp_path):
    np.save(tmp_path / "p.npy", PROBABILITIES)
    config = TeacherOutputs(probabilities=[tmp_path / "p.npy"] * 2, clip=1e-3).get_config()
    assert TeacherOutputs.from_config(config).get_config() == config
    for content in (LOGITS, PROBABILITIES[:, :2], None):
        if content is None:
            (tmp_path / "p.npy").unlink()
            loaded = TeacherOutputs.from_config(config)
        else:
            np.save(tmp_path / "p.npy", content)
            with pytest.warns(UserWarning, match="Files of a teacher's outputs are not used: .* "):
                loaded = TeacherOutputs.from_config(config)
        assert (loaded.shape, len(loaded.models), loaded.clip) == ((3,), 2, 1e-3)
        with pytest.raises(ValueError, match="holds neither arrays nor functions"):
            loaded.attach(X)
