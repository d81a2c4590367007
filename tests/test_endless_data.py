"""Tests of every function that reads data: what never ends is refused, and other forms are read."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras import batches

random = np.random.default_rng(0)
X = random.random((32, 8, 8, 1)).astype("float32")
Y = np.arange(32) % 3
DATASET = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)


class Endless(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, number):
        return X[:8], Y[:8]


def forever():
    while True:
        yield X[:8], Y[:8]


def flow():
    generator = keras.src.legacy.preprocessing.image.ImageDataGenerator()
    return generator.flow(X, Y, batch_size=8, shuffle=False)


@pytest.fixture(scope="module")
def student():
    return mr.models.convnet(num_classes=3, widths=(4,), input_shape=(8, 8, 1))


@pytest.fixture(scope="module")
def exits():
    model = mr.models.convnet(num_classes=3, widths=(4, 4), input_shape=(8, 8, 1))
    return mr.models.exits(model, ["stage1"])


@pytest.fixture(scope="module")
def file(student, tmp_path_factory):
    return mr.export.to_tflite(student, tmp_path_factory.mktemp("file") / "student.tflite")


@pytest.fixture
def distiller(student):
    students = {name: keras.models.clone_model(student) for name in "ab"}
    peers = mr.PeerDistiller(students)
    peers.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return peers


@pytest.fixture
def readers(student, exits, file, distiller, tmp_path):
    """Returns the functions, each of the data alone, with the argument's name."""

    def to_int8(data):
        path = tmp_path / "int8.tflite"
        return mr.export.to_tflite(student, path, quantization="int8", representative=data)

    def monitored(data):
        monitor = mr.callbacks.PeerMonitor(data)
        monitor.set_model(distiller)
        monitor.on_train_begin()
        return monitor.measure()

    return {
        "verify": ("data", lambda data: mr.export.verify(file, student, data, repeats=1)),
        "to_tflite": ("representative", to_int8),
        "report": (
            "data",
            lambda data: mr.report(
                teacher=None, students=student, data=data, path=tmp_path / "page", repeats=1
            ),
        ),
        "early_exit_curve": ("x", lambda data: mr.evaluation.early_exit_curve(exits, data)),
        "quantize_aware": (
            "representative",
            lambda data: mr.quantize_aware(student, representative=data),
        ),
        "PeerMonitor": ("data", monitored),
        "fit": ("x", lambda data: distiller.fit(data, verbose=0)),
        "validation": (
            "validation x",
            lambda data: distiller.fit(DATASET, validation_data=data, verbose=0),
        ),
        "evaluate": ("x", lambda data: distiller.evaluate(data, verbose=0)),
        "predict": ("x", lambda data: distiller.predict(data, verbose=0)),
    }


READERS = ["verify", "to_tflite", "report", "early_exit_curve", "quantize_aware", "PeerMonitor"]
OF_KERAS = ["fit", "validation", "evaluate", "predict"]


@pytest.mark.parametrize("reader", READERS + OF_KERAS)
def test_what_never_ends_is_refused_before_it_is_read(reader, readers):
    argument, read = readers[reader]
    for data, remedy in (
        (DATASET.repeat(), r"dataset\.take\(n\)"),
        (DATASET.repeat().filter(lambda x, y: True), r"dataset\.take\(n\)"),
        (Endless(), r"\[dataset\[i\] for i in range\(n\)\]"),
    ):
        with pytest.raises(ValueError, match=rf"^{argument} must end: {remedy}.*never ends"):
            read(data)


@pytest.mark.parametrize("reader", READERS)
def test_generators_are_read_up_to_a_bound(reader, readers, monkeypatch):
    monkeypatch.setattr(batches, "LARGEST_UNSIZED", 6)
    argument, read = readers[reader]
    once = reader == "PeerMonitor"
    message = "only once" if once else "not ended after 6 batches"
    with pytest.raises(
        TypeError if once else ValueError, match=rf"^{argument} (is|has) .*{message}"
    ):
        read(forever())
    read(list(itertools.islice(forever(), 5)))


@pytest.mark.parametrize("reader", READERS)
def test_an_image_data_generator_ends_by_its_length(reader, readers):
    readers[reader][1](flow())


def test_figures_are_those_of_arrays_whatever_the_form(readers):
    verify, report = (readers[name][1] for name in ("verify", "report"))
    expected = verify((X, Y))
    confusion = report((X, Y)).figures["student"].confusion
    for make in (flow, lambda: (part for part in DATASET), lambda: DATASET.filter(lambda *_: True)):
        figures = verify(make())
        assert figures.samples == len(X)
        assert figures.accuracy == expected.accuracy
        np.testing.assert_array_equal(report(make()).figures["student"].confusion, confusion)


def test_the_ranges_are_those_of_arrays_whatever_the_form(student):
    plain = mr.quantize_aware(student, representative=X)
    for data in (flow(), DATASET, list(DATASET), (part for part in DATASET)):
        other = mr.quantize_aware(student, representative=data)
        for own, expected in zip(other.get_weights(), plain.get_weights(), strict=True):
            np.testing.assert_allclose(own, expected, rtol=1e-6)


def test_a_stage_before_training_refuses_what_never_ends(student):
    hint = mr.Feature("hint", at="stage1", adapter=None, staged=True)
    staged = mr.Distiller(
        student=keras.models.clone_model(student), teacher=student, knowledge=[hint]
    )
    staged.compile("sgd")
    with pytest.raises(ValueError, match=r"^x must end: .*steps_per_epoch=n reads as many"):
        staged.pretrain(DATASET.repeat(), verbose=0)
    staged.pretrain(DATASET.repeat(), steps_per_epoch=2, shuffle=False, verbose=0)


def test_steps_bound_what_never_ends_as_in_keras(distiller):
    data, steps = DATASET.repeat(), 3
    few = {"steps_per_epoch": steps, "validation_steps": steps}
    distiller.fit(data, validation_data=data, **few, shuffle=False, verbose=0)
    distiller.evaluate(data, steps=steps, verbose=0)
    outputs = distiller.predict(data, steps=steps, verbose=0)
    assert {len(leaf) for leaf in keras.tree.flatten(outputs)} == {8 * steps}
