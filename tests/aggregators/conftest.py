"""What the tests of several aggregators share: golden peers, losses and NumPy equations."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr


@pytest.fixture
def golden_group(golden):
    """Loads a golden file with its peers' arrays in the order that aggregators take."""

    def load(name):
        arrays = golden(name)
        for key in ("logits", "mean_teacher_logits"):
            if key in arrays:
                arrays[key] = arrays[key].transpose(1, 0, 2)
        if "features" in arrays:
            arrays["features"] = list(arrays["features"])
        return arrays

    return load


@pytest.fixture
def cross_entropy():
    """Returns the mean cross-entropy of logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture
def online():
    """Returns what each peer's online loss is: (peers,), with golden files' temperature of 3."""
    kd = mr.losses.KD(temperature=3.0)

    def losses(result, logits):
        targets, weights = np.asarray(result["targets"]), result.get("source_weights")
        if weights is None:
            targets, weights = targets[:, :, None], np.ones((targets.shape[1], 1))
        return [
            sum(
                float(weight) * float(kd(targets[:, i, source], logits[:, i]))
                for source, weight in enumerate(np.asarray(weights)[i])
            )
            for i in range(logits.shape[1])
        ]

    return losses


@pytest.fixture
def softmax():
    """Returns softmax over the last axis in float64."""

    def compute(logits):
        shifted = np.exp(np.asarray(logits, "float64") - np.max(logits, axis=-1, keepdims=True))
        return shifted / shifted.sum(axis=-1, keepdims=True)

    return compute
