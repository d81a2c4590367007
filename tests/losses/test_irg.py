"""The instance relationship graph: each part by NumPy, what is left out, errors."""

import numpy as np
import pytest

import modreduce_keras as mr

PARTS = ("vertex_weight", "edge_weight", "transformation_weight")


def graph(layer):
    distances = np.array([[((a - b) ** 2).sum() for b in layer] for a in layer])
    return distances / distances.max()


def irg(teacher, student, vertex=1.0, edge=1.0, transformation=1.0):
    """Returns the values per sample of lists of layers, term by term, in float64."""
    batch, layers = len(student[0]), len(student)
    values = np.zeros(batch)
    graphs = [[graph(layer) for layer in side] for side in (teacher, student)]
    for i in range(batch):
        for layer in range(layers):
            for j in range(batch):
                difference = graphs[1][layer][i, j] - graphs[0][layer][i, j]
                values[i] += edge * difference**2 / (batch * layers)
        if teacher[-1].shape == student[-1].shape:
            values[i] += vertex * np.mean((student[-1][i] - teacher[-1][i]) ** 2)
        for layer in range(layers - 1):
            change = [np.mean((g[layer] - g[layer + 1]) ** 2) for g in graphs]
            values[i] += transformation * (change[1] - change[0]) ** 2 / (layers - 1)
            if all(side[layer].shape == side[layer + 1].shape for side in (teacher, student)):
                moves = [((s[layer] - s[layer + 1]) ** 2).sum(axis=1) for s in (teacher, student)]
                moves = [move / move.max() for move in moves]
                values[i] += transformation * (moves[1][i] - moves[0][i]) ** 2 / (layers - 1)
    return values


WIDTHS = {
    "one layer": ([4], [3]),
    "equal": ([4, 4, 4], [4, 4, 4]),
    "no vertices": ([5, 5], [3, 3]),
    "no movement": ([5, 4], [3, 4]),
    "some movement": ([3, 3, 4], [4, 4, 4]),
}


@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.1, 2.0, 5.0)])
def test_irg_equals_numpy(widths, weights, random, gradient, finite_differences):
    teacher, student = ([random.normal(size=(5, width)) for width in side] for side in widths)
    loss = mr.losses.IRG(**dict(zip(PARTS, weights, strict=True)))
    expected = irg(teacher, student, *weights)
    np.testing.assert_allclose(loss.call(teacher, student), expected, rtol=1e-4, atol=1e-6)
    for moved in range(len(student)):

        def replaced(layer, moved=moved):
            return [*student[:moved], layer, *student[moved + 1 :]]

        numeric = finite_differences(
            lambda layer: irg(teacher, replaced(layer), *weights).sum(), student[moved]
        )
        exact = gradient(lambda layer: loss.call(teacher, replaced(layer)), student[moved])
        np.testing.assert_allclose(exact, numeric, rtol=1e-4, atol=1e-5)


def test_one_layer_may_come_without_a_list(random):
    teacher, student = random.normal(size=(2, 5, 2, 2, 3))
    loss = mr.losses.IRG()
    np.testing.assert_array_equal(loss.call(teacher, student), loss.call([teacher], [student]))


def test_the_scale_of_a_side_matters_to_the_vertices_alone(random):
    teacher, student = random.normal(size=(2, 2, 5, 4))
    loss = mr.losses.IRG(vertex_weight=0.0)
    scaled = loss.call(list(0.1 * teacher), list(30.0 * student))
    np.testing.assert_allclose(scaled, loss.call(list(teacher), list(student)), rtol=1e-4)


def test_unequal_numbers_of_layers_are_refused(random):
    layer = random.normal(size=(5, 4))
    with pytest.raises(ValueError, match="Received: 2 of the teacher and 1 of the student"):
        mr.losses.IRG().call([layer, layer], layer)


@pytest.mark.parametrize("part", PARTS)
def test_weights_are_knobs_that_are_not_negative(part):
    with pytest.raises(ValueError, match=f"{part} of IRG must be a number that is not negative"):
        mr.losses.IRG(**{part: -1.0})
    assert mr.losses.IRG(**{part: 2.0}).get_config()[part] == 2.0
    assert mr.losses.IRG.default_weight == 0.005
