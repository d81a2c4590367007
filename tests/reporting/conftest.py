"""A report of a teacher, two students and a file, made once for all tests that only look at it."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from tests.support.models.exporting import CLASSES, convnet

SAMPLES = 70
NAMES = ["T-shirt/top", "a|b *c*", "<b>bold</b> & co", "plain"]
ODD = "<i>odd</i> | student_2"


@pytest.fixture(scope="session")
def networks():
    """A teacher and two students of different size, whose answers are spread over the classes."""
    keras.utils.set_random_seed(7)
    found = {
        "teacher": convnet(widths=(6, 8), name="big"),
        "plain": convnet(name="plain"),
        ODD: convnet(widths=(3, 4), name="odd"),
    }
    for model in found.values():
        *_, kernel, bias = model.get_weights()
        weights = [*model.get_weights()[:-2], 3 * kernel, bias]
        model.set_weights(weights)
    return found


@pytest.fixture(scope="session")
def data():
    """Images from 0 to 1, and labels."""
    random = np.random.default_rng(3)
    images = random.random((SAMPLES, 8, 8, 1)).astype("float32")
    return images, random.integers(0, CLASSES, SAMPLES)


@pytest.fixture(scope="session")
def file(networks, tmp_path_factory):
    return mr.export.to_tflite(networks["plain"], tmp_path_factory.mktemp("file") / "plain.tflite")


@pytest.fixture(scope="session")
def histories():
    return {
        "teacher": {"val_accuracy": [0.5, 0.75], "loss": [2.0, 1.0]},
        ODD: {"val_accuracy": [0.1, 0.2, 0.4, 0.3]},
    }


@pytest.fixture(scope="session")
def write(networks, data, file, histories):
    """Writes the report, with some arguments replaced."""

    def write(path, **arguments):
        students = {name: model for name, model in networks.items() if name != "teacher"}
        given = {
            "teacher": networks["teacher"],
            "students": students,
            "exports": {"plain": {"plain.tflite": file}},
            "data": data,
            "path": path,
            "histories": histories,
            "class_names": NAMES,
            "repeats": 2,
            "bins": 5,
            "batch_size": 32,
            "gallery": 5,
            **arguments,
        }
        return mr.report(**given)

    return write


@pytest.fixture(scope="session")
def made(write, tmp_path_factory):
    return write(tmp_path_factory.mktemp("report") / "page")


@pytest.fixture(scope="session")
def logits(networks, data):
    """What the networks put out, in float64."""
    return {
        name: np.asarray(model(data[0], training=False), "float64")
        for name, model in networks.items()
    }
