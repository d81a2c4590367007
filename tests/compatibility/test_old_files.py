"""Files that an earlier version wrote are read, and training goes on from them as it did then."""

import shutil
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.support.trainings import old_trainings

HERE = Path(__file__).parent
CLOSE = {"rtol": 1e-5, "atol": 1e-4}
"""Processors round differently; on one machine the numbers are equal to the last bit."""
WITHOUT_GRADIENT = ("stage2/bias", "convolution/bias")
"""Biases that a normalization follows: their gradient is rounding alone, and Adam makes steps of a
hundredth of its sign."""


def then(name):
    """Returns what the earlier version gave."""
    with np.load(HERE / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays}


def assert_as_then(distiller, found, expected):
    assert list(found) == list(expected)
    variables = enumerate(distiller.variables)
    rounded = [f"variable {n:03}" for n, v in variables if v.path.endswith(WITHOUT_GRADIENT)]
    for key, value in found.items():
        close = {"atol": 0.02} if key.endswith(tuple(rounded)) else CLOSE
        np.testing.assert_allclose(value, expected[key], **close, err_msg=key)


@pytest.mark.parametrize("name", old_trainings.MODELS)
def test_a_keras_file_goes_on_as_it_did(name):
    distiller, expected = keras.saving.load_model(HERE / f"{name}.keras"), then(name)
    for key, value in old_trainings.state(distiller).items():
        np.testing.assert_array_equal(value, expected.pop(key), err_msg=key)
    assert_as_then(distiller, old_trainings.answers(name, distiller), expected)


@pytest.mark.parametrize("name", old_trainings.RUNS)
def test_a_run_goes_on_as_it_did(name, tmp_path):
    shutil.copytree(HERE / name, tmp_path / name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Step 1 was skipped")
        distiller, history = old_trainings.run(name, 2, tmp_path / name, epochs=2)
    histories = {f"history: {log}": values for log, values in history.items()}
    assert_as_then(distiller, {**old_trainings.state(distiller), **histories}, then(name))
    assert bool(distiller.loss_scales) == (name == "float16")
    skipped = {"student": 2} if name == "skip" else dict.fromkeys(distiller.skipped_steps, 0)
    assert distiller.skipped_steps == skipped
