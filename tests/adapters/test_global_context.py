"""The context block against NumPy, with weights drawn at random."""

import numpy as np
import pytest

import modreduce_keras as mr


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def by_hand(maps, block):
    """f + W_2 ReLU(LN(W_1 Σ_j a_j f_j)) + biases, sample by sample in float64."""
    weights = {one.path.split("/", 1)[-1]: np.array(one, "float64") for one in block.weights}

    def find(name):
        return next(value for path, value in weights.items() if path.endswith(name))

    w, w1, b1 = find("attention/kernel"), find("narrow/kernel"), find("narrow/bias")
    gamma, beta, w2, b2 = map(find, ("norm/gamma", "norm/beta", "widen/kernel", "widen/bias"))
    made = []
    for sample in maps.astype("float64"):
        flat = sample.reshape(-1, sample.shape[-1])
        shares = softmax((flat @ w)[:, 0])
        inside = (shares[:, None] * flat).sum(axis=0) @ w1 + b1
        normal = (inside - inside.mean()) / np.sqrt(inside.var() + 1e-5)
        made.append(sample + np.maximum(gamma * normal + beta, 0.0) @ w2 + b2)
    return np.array(made)


@pytest.mark.parametrize("shape", [(4, 3, 6), (5, 6)], ids=["maps", "sequence"])
def test_context_equals_numpy(shape, random):
    student, teacher = random.normal(size=(2, 2, *shape)).astype("float32")
    adapter = mr.adapters.GlobalContext()
    np.testing.assert_allclose(adapter(student, teacher)[0], student, atol=0.02)  # W_2 is small
    assert adapter.alignment is None
    for weight in adapter.weights:
        weight.assign(random.normal(size=weight.shape))
    sides = zip(adapter(student, teacher), (student, teacher), strict=True)
    for (made, maps), block in zip(
        sides, (adapter.student_context, adapter.teacher_context), strict=True
    ):
        np.testing.assert_allclose(made, by_hand(maps, block), rtol=1e-4, atol=1e-5)
