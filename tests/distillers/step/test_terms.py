"""Terms and gradients of a distiller of one's own."""

import warnings
from typing import ClassVar

import keras
import numpy as np
import pytest
from keras import ops

import modreduce_keras as mr
from modreduce_keras.distillers import GradientPolicy, Outputs, Term

pytestmark = pytest.mark.usefixtures("eagerly")


def logits(outputs: Outputs, student: str = "a"):
    return ops.cast(outputs.students[student].logits, "float32")


class Own(mr.PeerDistiller):
    """Two peers with one more term, which a test makes."""

    term = None

    def build_terms(self):
        return [*super().build_terms(), self.term]


@pytest.fixture
def peers(net, cross_entropy):
    def build(term, **arguments):
        distiller = Own({"a": net(), "b": net()}, aggregator="mean")
        distiller.term = term
        distiller.compile("sgd", cross_entropy, **arguments)
        return distiller

    return build


def mean_square(outputs):
    return ops.mean(logits(outputs) ** 2, axis=-1)


def test_a_term_of_ones_own_is_logged_and_weighed(peers, images, labels):
    with_term = peers(Term("square", mean_square, 0.5, "a"))
    outputs = with_term.forward(images, training=True, labels=labels)
    expected = np.mean(ops.convert_to_numpy(mean_square(outputs)))
    logs = with_term.train_on_batch(images, labels, return_dict=True)
    others = sum(float(logs[f"{name}/{term}"]) for name in "ab" for term in ("ce", "online"))
    np.testing.assert_allclose(logs["a/square"], expected, rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], others + 0.5 * expected, rtol=1e-5)


def test_a_term_trains_the_network_of_its_student(peers, images, labels):
    def broken(outputs):
        return logits(outputs, "b")[:, 0] * np.nan

    distiller = peers(Term("broken", broken, 1.0, "b"), on_nonfinite="skip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first skipped step warns
        distiller.train_on_batch(images, labels)
    assert {name: distiller.skipped_steps[name] for name in "ab"} == {"a": 0, "b": 1}


@pytest.mark.parametrize("name", ["ce", "online", "loss"])
def test_a_name_that_the_logs_have_is_refused(peers, name):
    student = None if name == "loss" else "a"
    with pytest.raises(ValueError, match=f"different names in the logs.*{name}"):
        peers(Term(name, mean_square, 1.0, student))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda outputs: 2.0, r"term 'own' of 'a' must return a tensor.*Received: 2.0"),
        (lambda outputs: ops.mean(logits(outputs)), "term 'own' of 'a'.*Received: a scalar"),
        (lambda outputs: mean_square(outputs)[:3], r"shape \(3,\) for \d+ examples"),
    ],
)
def test_values_that_are_not_one_for_each_example_are_refused(
    peers, values, message, images, labels
):
    distiller = peers(Term("own", values, 1.0, "a"))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        distiller.train_on_batch(images, labels)


def test_a_network_that_there_is_not_is_refused(peers):
    message = r"network of the term 'own' must be one of \['a', 'b', 'aggregator'\]"
    with pytest.raises(ValueError, match=rf"{message}.* Did you mean 'aggregator'.*'agregator'"):
        peers(Term("own", mean_square, 1.0, network="agregator"))
    peers(Term("own", mean_square, None, network="agregator"))  # only logged


@pytest.mark.parametrize(("argument", "given"), [("compute", 1.0), ("weight", "much")])
def test_what_is_no_function_is_refused(argument, given):
    arguments = {"compute": mean_square, "weight": 1.0, argument: given}
    with pytest.raises(TypeError, match=f"{argument} of the term 'own' must be a function"):
        Term("own", **arguments)


class Clipped(mr.PeerDistiller):
    """Peers whose gradients are clipped to a norm of .01 each."""

    def transform_gradients(self, gradients):
        changed = []
        for own in self.policy.by_network(gradients).values():
            norm = ops.sqrt(sum(ops.sum(gradient**2) for gradient, _ in own)) if own else 1.0
            changed += [(g * ops.minimum(1.0, 0.01 / norm), v) for g, v in own]
        return changed


@pytest.mark.parametrize("on_nonfinite", [None, "skip"])
def test_gradients_are_clipped_by_student(net, cross_entropy, on_nonfinite, images, labels):
    distiller = Clipped({"a": net(), "b": net()}, aggregator="mean")
    distiller.compile(
        keras.optimizers.SGD(1.0),
        cross_entropy,
        on_nonfinite=on_nonfinite,
        fused_normalization=False,
    )
    before = {name: one.get_weights() for name, one in distiller.students.items()}
    trained = {
        name: [id(v) for v in one.trainable_variables] for name, one in distiller.students.items()
    }
    distiller.train_on_batch(images, labels)
    for name, one in distiller.students.items():
        moved = [
            np.sum((ops.convert_to_numpy(v) - old) ** 2)
            for v, old in zip(one.weights, before[name], strict=True)
            if id(v) in trained[name]
        ]
        np.testing.assert_allclose(np.sqrt(sum(moved)), 0.01, rtol=1e-3)


class Without(mr.Distiller):
    """Returns what a test gives in the place of terms or of a policy."""

    given: ClassVar[dict] = {}

    def build_terms(self):
        return self.given.get("build_terms", super().build_terms())

    def build_gradient_policy(self, *args):
        return self.given.get("build_gradient_policy", super().build_gradient_policy(*args))


@pytest.mark.parametrize(
    ("method", "given", "arguments"),
    [
        ("build_terms", None, {}),
        ("build_terms", [1.0], {}),
        ("build_gradient_policy", None, {}),
        ("build_gradient_policy", GradientPolicy({}), {"on_nonfinite": "skip"}),
    ],
)
def test_what_a_distiller_has_to_return_is_said(net, cross_entropy, method, given, arguments):
    distiller = Without(student=net(), teacher=net(name="teacher"), knowledge=[mr.Response("kd")])
    distiller.given = {method: given}
    with pytest.raises(TypeError, match=f"{method} of Without must return"):
        distiller.compile("sgd", cross_entropy, **arguments)
