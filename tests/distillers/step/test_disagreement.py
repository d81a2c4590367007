"""Tests of samples that count less where several teachers disagree, against NumPy in float64."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(6, 4)).astype("float32")
SHARES = np.array([0.75, 0.25])


def entropy(p):
    return -(p * np.log(p)).sum(axis=-1)


def softmax(z):
    return np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)


def sigmoids(z):
    p = 1 / (1 + np.exp(-z))
    return np.stack([p, 1 - p], axis=-1)


def divergence(p):
    mixture = np.tensordot(SHARES, p, 1)
    return entropy(mixture) - np.tensordot(SHARES, entropy(p), 1)


def variance(z):
    return np.tensordot(SHARES, np.square(z - np.tensordot(SHARES, z, 1)), 1).mean(axis=-1)


MEASURES = {
    "kd": lambda z: divergence(softmax(z)),
    "binary_kd": lambda z: divergence(sigmoids(z)).mean(axis=-1),
    "logit_mse": variance,
}


@pytest.mark.parametrize("positions", [(), (2,)], ids=["samples", "positions"])
@pytest.mark.parametrize("loss", list(MEASURES))
def test_the_weight_is_that_of_the_formula(loss, positions):
    z = RANDOM.normal(size=(2, 6, *positions, 3)) * 3
    z[1, 0] = z[0, 0]
    student = RANDOM.normal(size=(6, *positions, 3)).astype("float32")

    def values(**arguments):
        knowledge = mr.Response(loss, teacher_weights=[3.0, 1.0], **arguments)
        knowledge.build(student.shape, [z[0].shape] * 2)
        pair = student, [one.astype("float32") for one in z]
        return knowledge(*pair, by_position=True).numpy(), knowledge(*pair).numpy()

    (plain, _), (weighted, per_sample) = values(), values(disagreement=0.8)
    expected = np.exp(-0.8 * MEASURES[loss](z))
    np.testing.assert_allclose(weighted / plain, expected, rtol=1e-3)
    assert weighted[0] == pytest.approx(plain[0], rel=1e-5)
    np.testing.assert_allclose(
        per_sample, weighted.reshape(6, -1).mean(axis=1), rtol=1e-5, atol=1e-7
    )


def test_it_counts_in_training_and_is_kept_in_a_config():
    z = RANDOM.normal(size=(2, 6, 3)).astype("float32") * 3
    outputs = mr.data.TeacherOutputs(logits=list(z))
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    kd = mr.Response("kd", disagreement=2.0, teacher_weights=list(SHARES))
    distiller = mr.Distiller(student=student, teacher=outputs, knowledge=kd)
    distiller.compile(keras.optimizers.SGD(0.0))
    logs = distiller.fit(outputs.attach(X), batch_size=6, verbose=0).history
    mixture = np.log(np.tensordot(SHARES, softmax(z.astype("float64") / 4), 1)) * 4
    each = mr.losses.KD(temperature=4.0).call(mixture.astype("float32"), student(X)).numpy()
    expected = (each * np.exp(-2.0 * MEASURES["kd"](z.astype("float64")))).mean()
    np.testing.assert_allclose(logs["kd"][0], expected, rtol=1e-4)
    assert mr.Response.from_config(kd.get_config()).disagreement == 2.0


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"disagreement must be .* above 0.*Received"):
        mr.Response("kd", disagreement=0.0)
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    outputs = mr.data.TeacherOutputs(logits=np.zeros((6, 3)))
    with pytest.raises(ValueError, match="there is one: leave out disagreement"):
        kd = mr.Response("kd", disagreement=1.0)
        mr.Distiller(student=student, teacher=outputs, knowledge=kd)
