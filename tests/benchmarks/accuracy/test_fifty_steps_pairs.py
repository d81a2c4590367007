"""Each pair of networks of the fifty steps learns from its labels, and each loss has one pair."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.registry import components

BATCH, RATE = 64, 0.02
IMAGES = 50 * BATCH
MARGINS = {
    "transformer": 1.0,
    "segmenter": 0.3,
    "regressor": 0.5,
    "regressor of mean and variance": 0.3,
}


@pytest.fixture
def pairs():
    from benchmarks.accuracy import fifty_steps_pairs

    return fifty_steps_pairs


def test_each_loss_is_measured_once(pairs):
    from benchmarks import catalogue

    assert [pair.name for pair in pairs.PAIRS] == [*MARGINS]
    others = [identifier for pair in pairs.PAIRS for identifier in pair.knowledge]
    assert sorted([*catalogue.identifiers(), *others]) == sorted(components("loss"))


def constant(name, labels):
    """Returns the loss of the best output that is the same for each image."""
    if name in ("transformer", "segmenter"):
        shares = np.unique(labels, return_counts=True)[1] / labels.size
        return -(shares * np.log(shares)).sum()
    variances = labels.var(axis=0)
    return variances.mean() if name == "regressor" else 0.5 * (1 + np.log(variances)).mean()


@pytest.mark.slow
@pytest.mark.parametrize("is_teacher", [True, False], ids=["teacher", "student"])
@pytest.mark.parametrize("name", MARGINS)
def test_networks_learn(pairs, name, is_teacher):
    (pair,) = (pair for pair in pairs.PAIRS if pair.name == name)
    (images, classes), (held_out, held_out_classes) = mr.data.load_sample()
    labels = keras.ops.convert_to_numpy(pair.targets(images[:IMAGES], classes[:IMAGES]))
    keras.utils.set_random_seed(0)
    network = pair.network(is_teacher)
    network.compile(keras.optimizers.SGD(RATE, momentum=0.9), pair.supervision)
    epochs = 3 if is_teacher else 1
    network.fit(images[:IMAGES], labels, batch_size=BATCH, epochs=epochs, verbose=0)
    labels = keras.ops.convert_to_numpy(pair.targets(held_out[:512], held_out_classes[:512]))
    reached = network.evaluate(held_out[:512], labels, verbose=0)
    assert reached < constant(name, labels) - MARGINS[name]
