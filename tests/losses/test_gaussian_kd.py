"""The divergence of normal distributions, against sums of p log(p / q) over a fine grid."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

POSITIVE = {"log": np.exp, "softplus": lambda raw: np.log1p(np.exp(raw))}


def by_sums(teacher, student, positive, least=1e-6):
    """KL(N_t ‖ N_s) of each number, from densities on a grid, summed over the numbers."""
    values = np.zeros(teacher.shape[:-1])
    numbers = teacher.shape[-1] // 2
    for place in np.ndindex(*teacher.shape[:-1]):
        for number in range(numbers):
            (m, v), (n, w) = (
                (side[place][number], positive(side[place][numbers + number]) + least)
                for side in (teacher.astype("float64"), student)
            )
            grid = m + np.sqrt(v) * np.linspace(-12.0, 12.0, 4001)
            log_p = -0.5 * (np.log(2 * np.pi * v) + (grid - m) ** 2 / v)
            log_q = -0.5 * (np.log(2 * np.pi * w) + (grid - n) ** 2 / w)
            values[place] += np.sum(np.exp(log_p) * (log_p - log_q)) * (grid[1] - grid[0])
    return values.reshape(len(values), -1).mean(axis=1)


@pytest.mark.parametrize("shape", [(3, 2), (3, 6), (2, 2, 4)], ids=str)
@pytest.mark.parametrize("variance", POSITIVE)
def test_gaussian_kd_equals_numpy(variance, shape, random, assert_equals_numpy):
    teacher, student = random.normal(size=(2, *shape)).astype("float32")
    loss = mr.losses.GaussianKD(variance=variance)
    assert_equals_numpy(loss, lambda t, s: by_sums(t, s, POSITIVE[variance]), teacher, student)


def test_close_distributions_keep_their_digits():
    teacher = np.array([[0.5, 0.3]], "float32")
    student = teacher + np.array([[0.0, 1e-3]], "float32")
    difference = float(teacher[0, 1]) - float(student[0, 1])
    expected = 0.5 * (np.expm1(difference) - difference)
    np.testing.assert_allclose(mr.losses.GaussianKD().call(teacher, student), expected, rtol=1e-2)


def test_variances_that_vanish_stay_finite():
    teacher, student = np.array([[3.0, -200.0]]), np.array([[3.0, -90.0], [1.0, -90.0]])
    loss = mr.losses.GaussianKD(least_variance=0.01)
    values = loss.call(np.repeat(teacher, 2, axis=0), student)
    np.testing.assert_allclose(values, [0.0, 0.5 * 4.0 / 0.01], rtol=1e-5)


def test_a_student_learns_mean_and_variance_beside_its_labels(random):
    def likelihood(y, outputs):
        mean, log_variance = keras.ops.split(outputs, 2, axis=-1)
        far = keras.ops.square(y - mean) / keras.ops.exp(log_variance)
        return 0.5 * keras.ops.mean(log_variance + far, axis=-1)

    def network():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])

    teacher, student = network(), network()
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge="gaussian_kd")
    distiller.compile(keras.optimizers.SGD(0.0), likelihood)
    x, y = random.normal(size=(8, 4)).astype("float32"), random.normal(size=(8, 1))
    sides = [np.array(one(x), "float64") for one in (teacher, student)]
    logs = distiller.fit(x, y, batch_size=8, verbose=0).history
    assert logs["gaussian_kd"][0] == pytest.approx(by_sums(*sides, np.exp).mean(), rel=1e-4)
    mean, raw = sides[1][:, :1], sides[1][:, 1:]
    expected = 0.5 * np.mean(raw + (y - mean) ** 2 / np.exp(raw))
    assert logs["likelihood"][0] == pytest.approx(expected, rel=1e-5)


def test_what_does_not_fit_is_refused():
    odd = np.ones((4, 3), "float32")
    with pytest.raises(ValueError, match="GaussianKD needs as many variances as means"):
        mr.losses.GaussianKD().call(odd, odd)
    with pytest.raises(ValueError, match="variance must be"):
        mr.losses.GaussianKD(variance="plain")
    with pytest.raises(ValueError, match="least_variance must be"):
        mr.losses.GaussianKD(least_variance=0.0)
    nets = [keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)]) for _ in range(2)]
    distiller = mr.Distiller(student=nets[0], teacher=nets[1], knowledge="gaussian_kd")
    with pytest.raises(ValueError, match="takes the outputs for plain numbers, and to the comp"):
        distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))


@pytest.mark.slow
def test_the_term_falls_in_fifty_steps(random):
    def network():
        hidden = keras.layers.Dense(16, activation="tanh")
        return keras.Sequential([keras.Input((6,)), hidden, keras.layers.Dense(4)])

    distiller = mr.Distiller(student=network(), teacher=network(), knowledge="gaussian_kd")
    distiller.compile(keras.optimizers.Adam(0.02), loss=None)
    history = distiller.fit(
        random.normal(size=(32, 6)), epochs=50, batch_size=32, verbose=0
    ).history
    assert history["gaussian_kd"][-1] < history["gaussian_kd"][0] / 10
