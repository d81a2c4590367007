"""Inputs for the tests of aggregators: whatever one asks for beside the logits."""

import numpy as np

IMAGE = (32, 32, 3)
WIDTH = 16


def some_logits(peers, random, batch=4, classes=7):
    """Returns logits of peers that differ, (batch, peers, classes)."""
    return (3.0 * random.normal(size=(batch, peers, classes))).astype("float32")


def needed(aggregator, peers, random, batch=4, classes=7):
    """Returns what an aggregator is called with beside the logits, by name."""

    def normal(*shape):
        return random.normal(size=(batch, *shape)).astype("float32")

    everything = {
        "features": lambda: [normal(WIDTH) for _ in range(peers)],
        "trunk": lambda: normal(8, 8, 5),
        "inputs": lambda: normal(*IMAGE),
        "labels": lambda: random.integers(classes, size=batch).astype("int32"),
        "averages": lambda: some_logits(peers, random, batch, classes),
        "temperature": lambda: np.float32(3.0),
        "independent": lambda: False,
        "plain_numbers": lambda: False,
    }
    return {name: everything[name]() for name in aggregator.needs}


def rows(given, which):
    """Returns some rows of everything that has one for each example."""
    chosen = {}
    for name, value in given.items():
        if isinstance(value, list):
            chosen[name] = [one[which] for one in value]
        else:
            chosen[name] = value[which] if np.ndim(value) else value
    return chosen
