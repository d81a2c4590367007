"""What the outputs are, and what peers teach one another, fit together."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from tests.support.equations.bernoulli import binary_kd, mixture, sigmoid
from tests.support.models.output_kinds import (
    ONE_HOT,
    SEVERAL_HOT,
    X,
    bce,
    net,
    peers,
    predicted,
    softmax,
    standing,
)


def test_peers_with_one_logit_teach_one_another_as_yes_or_no():
    distiller = peers(1, aggregator="mutual")
    assert (distiller.online_loss.identifier, float(distiller.online_loss.temperature)) == (
        "binary_kd",
        3.0,
    )
    distiller.compile(standing(), bce(), run_eagerly=True)
    logs = distiller.fit(X, SEVERAL_HOT[:, 0], verbose=0).history
    logits = predicted(distiller)
    expected = binary_kd(logits["b"], logits["a"], 3.0).mean()
    assert logs["a/online"][0] == pytest.approx(expected, rel=1e-4)


def dense_layer(distiller, logits):
    """Returns what the aggregator's dense layer makes of all logits."""
    kernel, bias = distiller.aggregator.get_weights()
    return np.concatenate(list(logits.values()), axis=-1) @ kernel + bias


TARGETS = {
    "mean": lambda distiller, logits: (logits["a"] + logits["b"]) / 2,
    "weighted_average": lambda distiller, logits: (logits["a"] + logits["b"]) / 2,  # at first
    "leave_one_out_mean": lambda distiller, logits: logits["b"],
    "mutual": lambda distiller, logits: logits["b"],
    "codistillation": lambda distiller, logits: logits["b"],
    "fully_connected": dense_layer,
}
"""What the first of two peers learns from."""


@pytest.mark.parametrize("aggregator", [*TARGETS, "pcl"])
def test_peers_with_several_labels_need_binary_kd(aggregator):
    with pytest.raises(ValueError, match=r"online_loss='kd' .*independent labels: "):
        peers(aggregator=aggregator).compile("sgd", bce())


@pytest.mark.parametrize("aggregator", TARGETS)
def test_peers_teach_one_another_label_by_label(aggregator):
    distiller = peers(aggregator=aggregator, online_loss="binary_kd")
    distiller.compile(standing(), bce(), run_eagerly=True)
    logs = distiller.fit(X, SEVERAL_HOT, verbose=0).history
    logits = predicted(distiller)
    expected = binary_kd(TARGETS[aggregator](distiller, logits), logits["a"], 4.0).mean()
    assert logs["a/online"][0] == pytest.approx(expected, rel=1e-4)


def test_modreduce_takes_binary_kd_too():
    students = {name: net() for name in ("response", "feature")}

    def made(**arguments):
        knowledge = {
            "response": [mr.Response("binary_kd")],
            "feature": [mr.Relation("rkd_distance", at="hidden")],
        }
        return mr.ModReduce(
            teacher=net(name="teacher"), students=students, knowledge=knowledge, **arguments
        )

    with pytest.raises(ValueError, match="online_loss='binary_kd'"):
        made().compile("sgd", bce())
    modreduce = made(online_loss=mr.losses.BinaryKD(temperature=2.0), aggregator="mean")
    modreduce.compile(standing(), bce(), run_eagerly=True)
    logs = modreduce.fit(X, SEVERAL_HOT, verbose=0).history
    logits = predicted(modreduce)
    mean = np.mean(list(logits.values()), axis=0)
    for name, own in logits.items():
        expected = binary_kd(mean, own, 2.0).mean()
        assert logs[f"{name}/online"][0] == pytest.approx(expected, rel=1e-4)


def test_codistillation_mixes_label_by_label():
    distiller = peers(number=3, aggregator="codistillation", online_loss="binary_kd")
    distiller.compile(standing(), bce(), run_eagerly=True)
    logs = distiller.fit(X, SEVERAL_HOT, verbose=0).history
    logits = predicted(distiller)
    target = mixture([logits["b"], logits["c"]], [0.5, 0.5], 4.0)
    expected = binary_kd(target, logits["a"], 4.0).mean()
    assert logs["a/online"][0] == pytest.approx(expected, rel=1e-4)


def test_okddip_mixes_label_by_label():
    distiller = peers(number=3, aggregator="okddip", online_loss="binary_kd")
    distiller.compile(standing(), bce(), run_eagerly=True)
    logs = distiller.fit(X, SEVERAL_HOT, verbose=0).history
    logits = predicted(distiller)
    leader = mixture([logits["a"], logits["b"]], [0.5, 0.5], 4.0)
    expected = binary_kd(leader, logits["c"], 4.0).mean()
    assert logs["c/online"][0] == pytest.approx(expected, rel=1e-4)
    distance = np.linalg.norm(sigmoid(logits["a"]) - sigmoid(logits["b"]), axis=1).mean()
    assert logs["diversity"][0] == pytest.approx(distance, rel=1e-4)


@pytest.mark.parametrize("units", [1, 5])
def test_kdcl_is_of_classes_alone(units):
    distiller = peers(units, aggregator="kdcl", online_loss="binary_kd")
    with pytest.raises(ValueError, match=r"'kdcl' takes .*aggregator='mean' or 'mutual'"):
        distiller.compile("sgd", bce())
    peers(units, aggregator="mutual", online_loss="binary_kd").compile("sgd", bce())


@pytest.mark.parametrize(
    ("units", "loss", "labels", "compared", "online"),
    [
        (1, bce(), SEVERAL_HOT[:, :1], sigmoid, "logit_l1"),
        (5, bce(), SEVERAL_HOT, sigmoid, "logit_mse"),
        (1, "mse", X[:, :1], lambda z: z, "logit_mse"),
        (5, "mse", X[:, :5], lambda z: z, "logit_l1"),
        (
            5,
            keras.losses.CategoricalCrossentropy(from_logits=True),
            ONE_HOT,
            softmax,
            "logit_mse",
        ),
    ],
)
def test_the_diversity_of_okddip_is_that_of_what_the_outputs_are(
    units, loss, labels, compared, online
):
    aggregator = mr.aggregators.OKDDip(variant="reference")
    distiller = peers(units, 3, aggregator=aggregator, online_loss=online)
    distiller.compile(standing(), loss, run_eagerly=True)
    logs = distiller.fit(X, labels, verbose=0).history
    logits = predicted(distiller)
    distance = np.linalg.norm(compared(logits["a"]) - compared(logits["b"]), axis=1).mean()
    assert distance > 1e-3
    assert logs["diversity"][0] == pytest.approx(distance, rel=1e-4)
