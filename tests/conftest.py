"""What several test files share: seeds, devices, reference numbers and small models."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from modreduce_keras import registry

GOLDEN = Path(__file__).with_name("golden")

# Before TensorFlow initialises: one CPU that counts as two, for the tests of several replicas.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


@pytest.fixture
def random() -> np.random.Generator:
    """A source of inputs that gives the same ones in every run."""
    return np.random.default_rng(0)


@pytest.fixture
def logical_cpus() -> list[str]:
    """Names of the two logical CPU devices."""
    return ["CPU:0", "CPU:1"]


@pytest.fixture
def two_replicas(logical_cpus) -> tf.distribute.Strategy:
    """A MirroredStrategy of two replicas on the CPU."""
    return tf.distribute.MirroredStrategy(logical_cpus)


@pytest.fixture
def golden():
    """Loads `golden/NAME.npz` as a dict of arrays."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return {key: arrays[key] for key in arrays}

    return load


@pytest.fixture
def scratch_registry(monkeypatch):
    """A copy of the registry that forgets what the test registers."""
    copy = {kind: dict(components) for kind, components in registry._components.items()}
    monkeypatch.setattr(registry, "_components", copy)


@pytest.fixture
def gradient():
    """Returns the gradient of the sum of `function(values)` with respect to `values`."""

    def differentiate(function, values):
        values = tf.convert_to_tensor(values)
        with tf.GradientTape() as tape:
            tape.watch(values)
            result = function(values)
        return tape.gradient(result, values)

    return differentiate


@pytest.fixture
def finite_differences():
    """Returns the gradient of a scalar float64 function by central differences."""

    def differentiate(function, values: np.ndarray, step: float = 1e-6) -> np.ndarray:
        values = np.array(values, "float64")
        gradient = np.zeros_like(values)
        for index in np.ndindex(values.shape):
            ends = []
            for sign in (1.0, -1.0):
                moved = values.copy()
                moved[index] += sign * step
                ends.append(function(moved))
            gradient[index] = (ends[0] - ends[1]) / (2.0 * step)
        return gradient

    return differentiate
