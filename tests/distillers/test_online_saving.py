"""Online runs that are saved and restored go on exactly as if nothing had happened."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.registry import components
from tests.support.equations.online_by_hand import CLASSES, IMAGE, network, scatter

pytestmark = pytest.mark.slow

BATCH, STEPS = 4, 2

# Identifier, arguments, and whether the peers share a trunk.
CASES = {
    "mean": ("mean", {}, False),
    "CL-ILR, branches": ("leave_one_out_mean", {}, True),
    "mutual": ("mutual", {}, False),
    "weighted_average": ("weighted_average", {}, False),
    "weighted_average, modreduce": ("weighted_average", {"variant": "modreduce"}, False),
    "fully_connected": ("fully_connected", {}, False),
    "ONE, branches": ("one", {}, True),
    "ONE, modreduce": ("one", {"variant": "modreduce", "batch_normalization": True}, False),
    "OKDDip": ("okddip", {"units": 2}, False),
    "OKDDip, constant": ("okddip", {"trains_through_targets": False}, False),
    "PCL": ("pcl", {"decay": 0.6}, False),
    "PCL, branches": ("pcl", {}, True),
    "PCL, modreduce": ("pcl", {"variant": "modreduce"}, False),
    "KDCL": ("kdcl", {"rule": "naive"}, False),
    "codistillation": ("codistillation", {"refresh": 3}, False),
}


def distiller_of(name, eagerly=True):
    """Returns a compiled distiller whose groups have optimizers of their own."""
    identifier, arguments, shared = CASES[name]
    peers = components("aggregator")[identifier].least_peers
    names = [f"p{i}" for i in range(peers)]
    if shared:
        pattern = network(3, normalize=True)
        students = mr.models.branch(pattern, at="trunk", branches=peers, names=names)
    else:
        normalize = identifier == "pcl"
        students = {one: network(3 + i, 0, 8, normalize) for i, one in enumerate(names)}
    distiller = mr.PeerDistiller(
        students,
        aggregator=mr.aggregators.get(identifier, **arguments),
        online_weight=mr.schedules.SigmoidRampUp(steps=6),
    )
    optimizers = {
        group: keras.optimizers.SGD(0.1, momentum=0.9)
        if group == "aggregator"
        else keras.optimizers.Adam(0.01)
        for group, variables in distiller.variable_groups().items()
        if variables
    }
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(optimizers, loss, run_eagerly=eagerly)
    return distiller


@pytest.fixture
def data(random):
    images = random.normal(size=(BATCH * STEPS, *IMAGE)) + random.normal(size=(8, 1, 1, IMAGE[-1]))
    return images.astype("float32"), random.integers(CLASSES, size=BATCH * STEPS)


def fit(distiller, data):
    """Trains for two epochs and returns the logs."""
    size = {"batch_size": BATCH} if len(data) > 1 else {}
    return distiller.fit(*data, **size, epochs=2, shuffle=False, verbose=0).history


def assert_goes_on_alike(restored, distiller, data):
    assert fit(restored, data) == fit(distiller, data)
    for one, other in ((restored, distiller), (restored.optimizer, distiller.optimizer)):
        for variable, expected in zip(one.variables, other.variables, strict=True):
            np.testing.assert_array_equal(variable, expected, err_msg=expected.path)


@pytest.mark.parametrize("name", CASES)
def test_a_keras_file_goes_on_exactly(name, data, random, tmp_path):
    distiller = distiller_of(name)
    scatter(distiller.aggregator.trainable_variables, random)
    fit(distiller, data)
    distiller.save(tmp_path / "peers.keras")
    restored = keras.saving.load_model(tmp_path / "peers.keras")
    assert int(restored.step) == 2 * STEPS
    assert_goes_on_alike(restored, distiller, data)


def test_every_aggregator_is_saved():
    here = {
        name
        for name, cls in components("aggregator").items()
        if cls.__module__.startswith("modreduce_keras.")
    }
    assert {identifier for identifier, *_ in CASES.values()} == here


@pytest.mark.parametrize("name", ["PCL, branches", "weighted_average, modreduce"])
def test_a_weight_file_goes_on_exactly_in_a_new_distiller(name, data, tmp_path):
    distiller = distiller_of(name, eagerly=name == "PCL, branches")
    fit(distiller, data)
    distiller.save_weights(tmp_path / "peers.weights.h5")
    restored = distiller_of(name, eagerly=name == "PCL, branches")
    restored.load_weights(tmp_path / "peers.weights.h5")
    assert_goes_on_alike(restored, distiller, data)


def test_modreduce_goes_on_with_its_memory(random, tmp_path):
    samples, shape = 8, (8, 8, 1)

    def net(widths, name):
        return mr.models.get("convnet", num_classes=3, widths=widths, input_shape=shape, name=name)

    def build():
        knowledge = mr.ModReduce.paper_knowledge(samples, batch_size=8, stages=["stage2"])
        # The paper's 16384 negatives take seconds a step.
        memory = mr.adapters.ContrastiveMemory(samples=samples, negatives=5, units=4)
        knowledge["relation"][1] = mr.Relation("crd", at="embedding", adapter=memory, weight=0.8)
        modreduce = mr.ModReduce(
            teacher=teacher,
            students={name: net((3, 4 + i), name) for i, name in enumerate(knowledge)},
            knowledge=knowledge,
            multipliers=mr.ModReduce.PAPER_MULTIPLIERS,
            steps=8,
        )
        optimizers = {name: keras.optimizers.Adam(0.01) for name in knowledge}
        optimizers["aggregator"] = keras.optimizers.SGD(0.1, momentum=0.9)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        modreduce.compile(optimizers, loss, run_eagerly=True)
        return modreduce

    images = random.normal(size=(samples, *shape)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((images, np.arange(samples) % 3))
    data = (mr.data.with_index(dataset).batch(BATCH),)
    teacher = net((4, 6), "teacher")
    modreduce = build()
    memory = modreduce.knowledge["relation"][1].adapter
    before = [variable.numpy() for variable in memory.non_trainable_variables]
    fit(modreduce, data)
    moved = zip(memory.non_trainable_variables, before, strict=True)
    assert all(not np.array_equal(variable, then) for variable, then in moved)
    modreduce.save(tmp_path / "modreduce.keras")
    restored = keras.saving.load_model(tmp_path / "modreduce.keras")
    modreduce.save_weights(tmp_path / "modreduce.weights.h5")
    again = build()
    again.load_weights(tmp_path / "modreduce.weights.h5")
    for one in (restored, again):
        for variable, expected in zip(one.variables, modreduce.variables, strict=True):
            np.testing.assert_array_equal(variable, expected, err_msg=expected.path)
    assert_goes_on_alike(restored, modreduce, data)
