"""Graph attention: both variants by NumPy, several layers, large scores, errors."""

import numpy as np
import pytest

import modreduce_keras as mr


def graph(queries, keys, bounded):
    """Returns the weights (heads, batch, batch), one after the other, in float64."""
    batch, heads, _ = queries.shape
    weights = np.zeros((heads, batch, batch))
    for h in range(heads):
        for i in range(batch):
            scores = np.array([np.dot(queries[i, h], keys[j, h]) for j in range(batch)])
            scores = np.exp(np.tanh(scores) if bounded else scores)
            weights[h, i] = scores / scores.sum()
    return weights


def mhgd(teacher, student, variant):
    """Returns the values per sample from the equation, in float64."""
    batch, heads, _ = student[0].shape
    values = np.zeros(batch)
    for pair in range(0, len(student), 2):
        sides = [
            graph(*side[pair : pair + 2], variant == "reference") for side in (teacher, student)
        ]
        of, onto = sides if variant == "plain" else sides[::-1]
        for i in range(batch):
            for h in range(heads):
                for j in range(batch):
                    values[i] += of[h, i, j] * np.log(of[h, i, j] / onto[h, i, j]) / heads
    return values


@pytest.fixture
def sides(random):
    """Two pairs of layers, whose heads are wider in the teacher."""
    return [
        [random.normal(size=(4, 3, width)) for width in widths]
        for widths in ((4, 4, 3, 3), (2, 2, 2, 2))
    ]


@pytest.mark.parametrize("variant", ["plain", "reference"])
@pytest.mark.parametrize("layers", [2, 4])
def test_mhgd_equals_numpy(variant, layers, sides, gradient, finite_differences):
    teacher, student = (side[:layers] for side in sides)
    loss = mr.losses.MHGD(variant=variant)
    expected = mhgd(teacher, student, variant)
    np.testing.assert_allclose(loss.call(teacher, student), expected, rtol=1e-5)
    for moved in range(layers):

        def replaced(values, moved=moved):
            return [*student[:moved], values, *student[moved + 1 :]]

        numeric = finite_differences(
            lambda values: mhgd(teacher, replaced(values), variant).sum(), student[moved]
        )
        exact = gradient(lambda values: loss.call(teacher, replaced(values)), student[moved])
        np.testing.assert_allclose(exact, numeric, rtol=1e-4, atol=1e-6)


def test_the_variants_take_opposite_directions(sides):
    teacher, student = sides
    teacher, student = ([0.01 * one for one in side] for side in (teacher, student))
    there = mr.losses.MHGD().call(teacher, student)
    back = mr.losses.MHGD(variant="reference").call(student, teacher)
    np.testing.assert_allclose(there, back, rtol=1e-3, atol=1e-12)


def test_large_scores_are_exact():
    # Each sample attends to one other alone: the weights of the rest underflow.
    queries = np.array([500.0, -500.0, 500.0], "float32").reshape((3, 1, 1))
    keys = np.array([500.0, 0.0, -500.0], "float32").reshape((3, 1, 1))
    values = mr.losses.MHGD().call([queries, keys], [-queries, keys])
    np.testing.assert_allclose(values, np.full(3, 500.0 * 1000.0), rtol=1e-6)
    values = mr.losses.MHGD(variant="reference").call([queries, keys], [-queries, keys])
    shares = np.exp([1.0, 0.0, -1.0]) / np.exp([1.0, 0.0, -1.0]).sum()
    np.testing.assert_allclose(values, np.full(3, 2 * (shares[0] - shares[2])), rtol=1e-5)


@pytest.mark.parametrize("variant", ["plain", "reference"])
def test_a_batch_of_one_has_one_weight(variant, sides):
    teacher, student = ([one[:1] for one in side] for side in sides)
    np.testing.assert_array_equal(mr.losses.MHGD(variant=variant).call(teacher, student), [0.0])


def test_a_constant_on_the_keys_changes_no_graph(sides):
    teacher, student = sides
    moved = [one + 3.0 * (place % 2) for place, one in enumerate(teacher)]
    loss = mr.losses.MHGD()
    np.testing.assert_allclose(
        loss.call(moved, student), loss.call(teacher, student), rtol=1e-4, atol=1e-5
    )


def test_it_is_a_relation_with_heads_of_its_own():
    assert mr.losses.MHGD.kind == "relation"
    assert mr.losses.MHGD.default_adapter == "attention_heads"
    assert mr.losses.MHGD.default_weight == 1.0
    assert mr.losses.MHGD(variant="reference").get_config()["variant"] == "reference"


def test_an_unknown_variant():
    message = r"variant must be one of \['plain', 'reference'\]. Received: variant='paper'"
    with pytest.raises(ValueError, match=message):
        mr.losses.MHGD(variant="paper")


@pytest.mark.parametrize(
    "shapes",
    [
        ([(4, 3, 2), (4, 3, 2)], [(4, 2, 2), (4, 2, 2)]),
        ([(4, 3, 2), (4, 3, 2)], [(4, 3, 2)]),
        ([(4, 3, 2)] * 2, [(4, 3, 2)] * 4),
        ([(4, 3, 2), (4, 3, 5)], [(4, 3, 2), (4, 3, 2)]),
        ([(4, 6), (4, 6)], [(4, 6), (4, 6)]),
    ],
    ids=["heads", "keys missing", "pairs", "widths", "no heads"],
)
def test_queries_and_keys_that_do_not_belong_together(shapes):
    teacher, student = ([np.ones(shape) for shape in side] for side in shapes)
    with pytest.raises(ValueError, match=r"MHGD needs queries and keys .* Received: teacher of"):
        mr.losses.MHGD().call(teacher, student)


def test_a_tensor_instead_of_lists():
    with pytest.raises(ValueError, match=r"teacher of shape \(4, 6\) and student of shape \(4, 5"):
        mr.losses.MHGD().call(np.ones((4, 6)), np.ones((4, 5)))
