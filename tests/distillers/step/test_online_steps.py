"""Steps of every online method against the same steps written by hand, in plain TensorFlow."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.registry import components
from tests.support.equations import online_equations as equations
from tests.support.equations.by_hand import cross_entropy, distances, huber, kd
from tests.support.equations.online_by_hand import CLASSES, IMAGE, ByHand, network, scatter

BATCH, LEARNING_RATE, ONLINE_WEIGHT = 6, 0.03, 0.7


def mean_teacher(move):
    """Which part of PCL's averages stays at the move of that number, from zero."""
    return min(1.0 - 1.0 / (move + 1), 0.999)


def every_second(move):
    return 0.0 if move % 2 == 1 else 1.0


class Method(NamedTuple):
    """A row of the table.

    Attributes:
        identifier: Of the aggregator.
        equation: The function of `online_equations`.
        arguments: Of the aggregator.
        branches: What `mr.models.branch` is called with, for peers that share a trunk.
        views: Whether each peer sees something else.
        keep: How past selves follow; `None` without.
        epochs: Epochs to train for; if several, past selves follow at the end of each.
        steps: Steps of an epoch: several where the method has a memory.
    """

    identifier: str
    equation: Any
    arguments: Mapping[str, Any] = MappingProxyType({})
    branches: dict[str, Any] | None = None
    views: bool = False
    keep: Any = None
    epochs: int = 1
    steps: int = 1


MODREDUCE = {"variant": "modreduce"}
METHODS = {
    "mean": Method("mean", equations.mean),
    "mean, branches": Method("mean", equations.mean, branches={}),
    "CL-ILR": Method("leave_one_out_mean", equations.leave_one_out_mean),
    "CL-ILR, branches": Method(
        "leave_one_out_mean",
        equations.leave_one_out_mean,
        branches={"trunk_gradient": "mean"},
    ),
    "mutual": Method("mutual", equations.mutual),
    "weighted_average": Method("weighted_average", equations.weighted_average),
    "weighted_average, modreduce": Method(
        "weighted_average",
        partial(equations.weighted_average, variant="modreduce"),
        MODREDUCE,
        steps=2,
    ),
    "fully_connected": Method("fully_connected", equations.fully_connected),
    "ONE, branches": Method("one", equations.one, branches={}),
    "ONE, modreduce": Method("one", partial(equations.one, variant="modreduce"), MODREDUCE),
    "OKDDip": Method("okddip", equations.okddip),
    "OKDDip, branches": Method("okddip", equations.okddip, branches={}),
    "OKDDip, reference": Method(
        "okddip", partial(equations.okddip, variant="reference"), {"variant": "reference"}
    ),
    "OKDDip, constant": Method(
        "okddip", partial(equations.okddip, through=False), {"trains_through_targets": False}
    ),
    "PCL": Method("pcl", equations.pcl, views=True, keep=mean_teacher, steps=3),
    "PCL, branches": Method(
        "pcl", equations.pcl, branches={}, views=True, keep=mean_teacher, steps=3
    ),
    "PCL, modreduce": Method(
        "pcl",
        partial(equations.pcl, variant="modreduce"),
        MODREDUCE,
        keep=mean_teacher,
        epochs=2,
        steps=2,
    ),
    "KDCL, naive": Method("kdcl", partial(equations.kdcl, rule="naive"), {"rule": "naive"}),
    "KDCL, linear": Method("kdcl", partial(equations.kdcl, rule="linear"), {"rule": "linear"}),
    "KDCL, min_logit": Method("kdcl", equations.kdcl, views=True),
    "codistillation": Method(
        "codistillation", equations.codistillation, {"refresh": 2}, keep=every_second, steps=3
    ),
}

# The others run eagerly, which is fast; with five peers all do.
COMPILED = ["weighted_average, modreduce", "ONE, branches", "OKDDip", "PCL"]


def students_of(method, peers, random):
    """Returns students of unequal architectures, or the branches of one model."""
    normalize = method.identifier == "pcl"
    if method.branches is None:
        # OKDDip compares embeddings of equal widths.
        wider = 0 if method.identifier == "okddip" else 1
        students = {
            f"p{i}": network(3 + i % 2, i % 2, 8 + wider * i, normalize, name=f"p{i}")
            for i in range(peers)
        }
        given = students
    else:
        names = [f"p{i}" for i in range(peers)]
        given = mr.models.branch(
            network(depth=1, normalize=normalize),
            at="trunk",
            branches=peers,
            names=names,
            **method.branches,
        )
        students = dict(given.students)
    distinct = {id(v): v for s in students.values() for v in s.trainable_variables}
    scatter(distinct.values(), random)
    return given, students


def data(random, batches):
    images = random.normal(size=(batches * BATCH, *IMAGE))
    images = 0.5 * images + random.normal(size=(batches * BATCH, 1, 1, IMAGE[-1]))
    return images.astype("float32"), random.integers(CLASSES, size=batches * BATCH)


def views_of(images, shifts):
    return [tf.constant(images, "float64") + shift for shift in shifts]


def train(distiller, hand, images, labels, epochs, shifts, eagerly):
    """Trains both and returns the logs of both, of each epoch."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(LEARNING_RATE), loss, run_eagerly=eagerly)
    history = distiller.fit(
        images, labels, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0
    ).history
    expected = []
    for _ in range(epochs):
        logs = [
            hand.step(
                views_of(images[first : first + BATCH], shifts),
                labels[first : first + BATCH],
                LEARNING_RATE,
            )
            for first in range(0, len(images), BATCH)
        ]
        expected.append({name: np.mean([one[name] for one in logs]) for name in logs[0]})
    return history, expected


def assert_equal_runs(distiller, students, hand, history, expected, rtol=1e-6):
    assert set(history) == set(expected[0])
    for name, values in history.items():
        by_hand = [logs[name] for logs in expected]
        np.testing.assert_allclose(values, by_hand, rtol=rtol, atol=3e-7, err_msg=name)
    for student, own in zip(students.values(), hand.peers, strict=True):
        compare(student.trainable_variables, [*own.trunk, *own.head])
        compare(student.non_trainable_variables, own.statistics, rtol=1e-6)
    aggregator = distiller.aggregator
    compare(aggregator.trainable_variables, hand.weights)
    compare(aggregator.non_trainable_variables, hand.statistics, rtol=1e-6)


def compare(variables, expected, rtol=0):
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable, value, rtol=rtol, atol=1e-6, err_msg=variable.path)


@pytest.mark.parametrize("peers", [2, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", METHODS)
def test_steps_equal_those_by_hand(name, peers, random):
    method = METHODS[name]
    peers = max(peers, components("aggregator")[method.identifier].least_peers)
    given, students = students_of(method, peers, random)
    shifts = [0.2 * i if method.views else 0.0 for i in range(peers)]
    views = [lambda x, by=by: x + by for by in shifts] if method.views else None
    distiller = mr.PeerDistiller(
        given,
        aggregator=mr.aggregators.get(method.identifier, **method.arguments),
        online_weight=ONLINE_WEIGHT,
        student_inputs=views,
    )
    scatter(distiller.aggregator.trainable_variables, random)
    hand = ByHand(
        students,
        distiller.aggregator,
        method.equation,
        online_weight=ONLINE_WEIGHT,
        keep=method.keep,
        every=method.steps if method.epochs > 1 else 1,
        shared=method.branches is not None,
        trunk_scale=1.0 / peers if method.branches and "trunk_gradient" in method.branches else 1.0,
    )
    variables = distiller.trainable_variables
    before = [variable.numpy().copy() for variable in variables]
    images, labels = data(random, method.steps)
    eagerly = not (peers < 5 and name in COMPILED)
    history, expected = train(distiller, hand, images, labels, method.epochs, shifts, eagerly)
    # KDCL solves for the shares up to some 1e-7 of the loss; PCL's sums over five peers differ by
    # 1.3e-6 on processors without AVX-512.
    rtol = {"KDCL, linear": 1e-5, "PCL, modreduce": 2e-6}.get(name, 1e-6)
    assert_equal_runs(distiller, students, hand, history, expected, rtol)
    for variable, then in zip(variables, before, strict=True):
        moved = np.abs(variable - then).max() > 1e-4
        # A batch normalization follows.
        assert moved != (name == "ONE, branches" and variable.path.endswith("gate/bias"))


# ModReduce

KINDS = {
    "response": lambda: [mr.Response("kd")],
    "feature": lambda: [
        mr.Response("kd"),
        mr.Feature("hint", at="embedding", adapter=None, weight=3.0),
    ],
    "relation": lambda: [mr.Response("kd"), mr.Relation("rkd_distance", at="embedding")],
    "labels": lambda: [],
    "all": lambda: [
        mr.Response("kd", weight=0.5),
        mr.Feature("hint", at="embedding", adapter=None, weight=3.0),
        mr.Relation("rkd_distance", at="embedding", weight=2.0),
    ],
}
WEIGHTS = {
    "response": {"kd": 1.0},
    "feature": {"kd": 1.0, "hint": 3.0},
    "relation": {"kd": 1.0, "rkd_distance": 25.0},
    "labels": {},
    "all": {"kd": 0.5, "hint": 3.0, "rkd_distance": 2.0},
}
MULTIPLIERS = {"response": 10.0, "relation": 0.5, "all": 2.0}


def offline_by_hand(teacher, images, names):
    """Returns each student's offline losses, with what each of them weighs in the total."""
    read = keras.Model(teacher.input, [teacher.get_layer("embedding").output, teacher.output])
    theirs, logits_t = (tf.cast(one, "float64") for one in read(images, training=False))

    def losses(labels, logits, embeddings):
        for name, z, h in zip(names, logits, embeddings, strict=True):
            terms = {
                "ce": cross_entropy(labels, z),
                "kd": kd(logits_t, z, 4.0),
                "hint": tf.reduce_mean((h - theirs) ** 2) if h.shape == theirs.shape else None,
                "rkd_distance": huber(distances(h) - distances(theirs)),
            }
            weights = {"ce": 1.0, **WEIGHTS[name]}
            scale = MULTIPLIERS[name] / sum(weights.values()) if name in MULTIPLIERS else 1.0
            shares = {term: (1.0 - 0.3) * scale * weight for term, weight in weights.items()}
            yield {term: terms[term] for term in weights}, shares

    return losses


@pytest.mark.parametrize(
    "names",
    [["feature", "response"], pytest.param(list(KINDS), marks=pytest.mark.slow)],
    ids=["2", "5"],
)
@pytest.mark.parametrize("name", ["fully_connected", "ONE, modreduce", "OKDDip"])
def test_a_step_of_modreduce_equals_one_by_hand(name, names, random):
    method = METHODS[name]
    names = ["labels", *names] if name == "OKDDip" and len(names) == 2 else names
    teacher = network(5, name="teacher")
    scatter(teacher.trainable_variables, random)
    students = {kind: network(3 + i % 2, i % 2, name=kind) for i, kind in enumerate(names)}
    for student in students.values():
        scatter(student.trainable_variables, random)
    distiller = mr.ModReduce(
        teacher=teacher,
        students=students,
        knowledge={kind: KINDS[kind]() for kind in names},
        aggregator=mr.aggregators.get(method.identifier, **method.arguments),
        online_weight=0.3,
        multipliers={kind: m for kind, m in MULTIPLIERS.items() if kind in names},
    )
    scatter(distiller.aggregator.trainable_variables, random)
    images, labels = data(random, 1)
    hand = ByHand(
        students,
        distiller.aggregator,
        method.equation,
        online_weight=0.3,
        temperature=4.0,
        offline=offline_by_hand(teacher, images, names),
    )
    fixed = [variable.numpy() for variable in teacher.variables]
    shifts = [0.0] * len(names)
    eagerly = not (len(names) == 2 and name == "fully_connected")
    history, expected = train(distiller, hand, images, labels, 1, shifts, eagerly)
    assert_equal_runs(distiller, students, hand, history, expected)
    for variable, value in zip(teacher.variables, fixed, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_every_aggregator_has_a_step_by_hand():
    here = {
        name
        for name, cls in components("aggregator").items()
        if cls.__module__.startswith("modreduce_keras.")
    }
    assert {method.identifier for method in METHODS.values()} == here
