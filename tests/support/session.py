"""What all tests share: seeds, devices, reference numbers, small models, and their order."""

import gc
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from tensorflow.python import pywrap_tfe

from modreduce_keras import registry
from modreduce_keras.keras_internals.traced_gradients import release_unused_graphs
from tests.support import tiers, tracing

GOLDEN = Path(__file__).parents[1] / "golden"

# Before TensorFlow initialises: one CPU that counts as two, for the tests of several replicas.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

# Whoever sets TensorFlow's seed makes it forget its kernels as well. Each test sets the seed and
# needs the same kernels, and to make them anew takes a quarter of the suite's time. The random
# numbers of Keras do not depend on them.
pywrap_tfe.TFE_ContextClearCaches = lambda context: None

# Most graphs of the tests run once or twice: to optimise them takes longer than it saves.
tracing.share_one_stack()
tracing.leave_graphs_as_they_are()
tracing.leave_data_untuned()

# Nothing that is there when the tests begin is ever freed: modules, and the tests themselves. To
# look through it again and again takes a tenth of the suite's time.
gc.disable()


def pytest_collection_finish():
    """Has garbage collected from now on, among what the tests make."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


def pytest_runtest_logfinish():
    """Lets the graphs of a test be freed: millions of objects would stay, and be looked through."""
    release_unused_graphs()


LONGEST = "test_distribution.py"


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items):
    """Marks what the fast tier leaves out, and puts the tests that take longest first.

    At the end, one worker waits for what the other has begun.
    """
    # Workers compare the names of their tests, and an address differs from one to the other.
    unstable = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if unstable:
        raise pytest.UsageError(f"ids= must name the parameters of {unstable[:3]}")
    long = {item for item in items if item.get_closest_marker("slow")}
    tiers.split(items)
    items.sort(key=lambda item: (item.path.name != LONGEST, item not in long))


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


@pytest.fixture
def eagerly(request, monkeypatch):
    """Runs the steps of Keras models as they stand, unless the test is marked `graph`.

    Tracing a step takes seconds, running it on small models milliseconds. For tests of what a step
    gives, not of how it is traced.
    """
    if request.node.get_closest_marker("graph") is None:
        always = property(lambda model: True, lambda model, value: None)
        monkeypatch.setattr(keras.Model, "run_eagerly", always)


@pytest.fixture
def forgets_flags():
    """Forgets the command-line flags of the scripts that the test imports."""
    known = set(flags.FLAGS)
    yield
    for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)


@pytest.fixture
def random() -> np.random.Generator:
    """A source of inputs that gives the same ones in every run."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def logical_cpus() -> list[str]:
    """Names of the two logical CPU devices."""
    return ["CPU:0", "CPU:1"]


@pytest.fixture(scope="session")
def two_replicas(logical_cpus) -> tf.distribute.Strategy:
    """A MirroredStrategy of two replicas on the CPU.

    One for all tests: a second one in a process would number its collective operations anew, and
    TensorFlow takes two of the same number for one operation.
    """
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
def round_trip():
    """Returns a component rebuilt from the config that Keras saves."""

    def rebuild(component):
        config = keras.saving.serialize_keras_object(component)
        return keras.saving.deserialize_keras_object(config)

    return rebuild


@pytest.fixture
def settled(random):
    """Gives a model weights and statistics as training leaves them, so that classes differ."""

    def settle(model):
        for variable in model.variables:
            if "seed" in variable.path:
                continue
            values = random.normal(scale=0.3, size=variable.shape)
            positive = "variance" in variable.path or "gamma" in variable.path
            variable.assign(np.abs(values) + 0.5 if positive else values)
        return model

    return settle


@pytest.fixture
def policy(request):
    """Runs the test under a global policy of Keras, given by `indirect=True`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(getattr(request, "param", before))
    yield keras.config.dtype_policy().name
    keras.config.set_dtype_policy(before)


@pytest.fixture
def mixed_bfloat16(policy):
    """Runs the test under Keras' global policy of low precision."""
    keras.config.set_dtype_policy("mixed_bfloat16")


@pytest.fixture
def mixed_float16(policy):
    """The same, with a range so small that gradients want a scale."""
    keras.config.set_dtype_policy("mixed_float16")


@pytest.fixture
def average_pooled():
    """Returns adaptive average pooling of maps, window by window, in float64."""

    def pool(maps: np.ndarray, height: int, width: int) -> np.ndarray:
        def edges(size, target):
            return [
                slice(int(np.floor(i * size / target)), int(np.ceil((i + 1) * size / target)))
                for i in range(target)
            ]

        windows = [
            [maps[:, rows, columns] for columns in edges(maps.shape[2], width)]
            for rows in edges(maps.shape[1], height)
        ]
        means = [[window.astype("float64").mean((1, 2)) for window in row] for row in windows]
        return np.array(means).transpose(2, 0, 1, 3)

    return pool


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
