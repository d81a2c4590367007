"""Local structure preserving: every kernel by NumPy, over edges and over all pairs; errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

EDGES = [[0, 1], [0, 3], [1, 0], [3, 0], [3, 1], [3, 4], [4, 3]]
KERNELS = [
    {"kernel": "rbf", "bandwidth": 2.0},
    {"kernel": "linear"},
    {"kernel": "poly", "offset": 0.5, "degree": 3},
    {"kernel": "poly"},
]


def similarity(a, b, kernel, bandwidth=100.0, offset=0.0, degree=2):
    if kernel == "rbf":
        return np.exp(-((a - b) @ (a - b)) / (2 * bandwidth))
    return a @ b if kernel == "linear" else (a @ b + offset) ** degree


def lsp(teacher, student, edges, variant="paper", **kernel):
    """Returns the values per node, neighbour by neighbour, in float64."""
    values = np.zeros(len(student))
    for node in range(len(student)):
        neighbours = [j for i, j in edges if i == node]
        shares = []
        for side in (student, teacher):
            powers = [np.exp(similarity(side[node], side[j], **kernel)) for j in neighbours]
            shares.append([power / sum(powers) for power in powers])
        if variant == "reference":
            shares.reverse()
        for own, other in zip(*shares, strict=True):
            values[node] += own * np.log(own / other)
    return values


@pytest.fixture
def pair(random):
    return random.normal(size=(5, 3)), random.normal(size=(5, 2))


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("edges", [EDGES, None], ids=["edges", "all pairs"])
@pytest.mark.parametrize("variant", ["paper", "reference"])
def test_lsp_equals_numpy(kernel, edges, variant, pair, gradient, finite_differences):
    teacher, student = pair
    loss = mr.losses.LSP(edges=edges, variant=variant, **kernel)
    pairs = edges or [(i, j) for i in range(5) for j in range(5) if i != j]
    expected = lsp(teacher, student, pairs, variant, **kernel)
    np.testing.assert_allclose(loss.call(teacher, student), expected, rtol=1e-4, atol=1e-6)
    numeric = finite_differences(lambda s: lsp(teacher, s, pairs, variant, **kernel).sum(), student)
    exact = tf.convert_to_tensor(gradient(lambda s: loss.call(teacher, s), student))
    np.testing.assert_allclose(exact, numeric, rtol=1e-4, atol=1e-5)


def test_a_node_without_neighbours_counts_nothing(pair, gradient):
    teacher, student = pair
    loss = mr.losses.LSP(edges=EDGES, kernel="linear")
    assert float(loss.call(teacher, student)[2]) == 0.0
    to_student = tf.convert_to_tensor(gradient(lambda s: loss.call(teacher, s), student))
    assert not np.any(to_student[2])
    assert np.any(to_student[1])


@pytest.mark.parametrize("kernel", ["linear", "poly", "rbf"])
@pytest.mark.parametrize("edges", [EDGES, None], ids=["edges", "all pairs"])
def test_large_similarities_are_exact(kernel, edges, pair, gradient):
    teacher, student = (500.0 * side for side in pair)
    loss = mr.losses.LSP(edges=edges, kernel=kernel)
    assert np.isfinite(loss.call(teacher, student)).all()
    to_student = gradient(lambda s: loss.call(teacher, s), student)
    assert np.isfinite(tf.convert_to_tensor(to_student)).all()


def test_one_far_neighbour_costs_the_difference():
    # Node 0: the student is sure of neighbour 1, the teacher of neighbour 2, both by 500.
    student, teacher = np.array([[1.0], [500.0], [0.0]]), np.array([[1.0], [0.0], [500.0]])
    loss = mr.losses.LSP(edges=[[0, 1], [0, 2]], kernel="linear")
    np.testing.assert_allclose(loss.call(teacher, student), [500.0, 0.0, 0.0])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_compiled_loss_of_a_graph_equals_the_eager_one(jit_compile, pair):
    loss = mr.losses.LSP(edges=EDGES)
    sides = [tf.constant(side, "float32") for side in pair]
    compiled = tf.function(loss.call, jit_compile=jit_compile, autograph=False)
    np.testing.assert_allclose(compiled(*sides), loss.call(*sides), atol=1e-6)


def test_edges_that_lead_out_of_the_batch_are_an_error(pair):
    loss = mr.losses.LSP(edges=EDGES)
    part = [tf.constant(side[:4], "float32") for side in pair]
    message = "edges must lie inside of the batch, which has to hold all nodes of the graph"
    with pytest.raises(ValueError, match=message):
        loss.call(*part)
    step = tf.function(
        loss.call,
        input_signature=[tf.TensorSpec((None, 3)), tf.TensorSpec((None, 2))],
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        step(*part)


def test_a_distiller_trains_on_all_nodes_of_a_graph(random):
    def net(width):
        inputs = keras.Input((4,))
        hidden = keras.layers.Dense(width, name="hidden")(inputs)
        return keras.Model(inputs, keras.layers.Dense(3)(hidden))

    loss = mr.losses.LSP(edges=EDGES)
    distiller = mr.Distiller(
        student=net(5), teacher=net(6), knowledge=[mr.Relation(loss, at="hidden")]
    )
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = random.normal(size=(5, 4)).astype("float32")
    history = distiller.fit(x, np.arange(5) % 3, batch_size=5, shuffle=False, verbose=0).history
    assert history["lsp"][0] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": "cosine"}, r"kernel must be one of \['rbf', 'linear', 'poly'\]. Received"),
        ({"variant": "code"}, r"variant must be one of \['paper', 'reference'\]. Received"),
        ({"bandwidth": 0}, "bandwidth must be a positive number. Received: bandwidth=0"),
        ({"offset": "a"}, "offset must be a number. Received: offset='a'"),
        ({"degree": 0.5}, "degree must be a positive integer. Received: degree=0.5"),
        ({"kernel": "linear", "degree": 5}, "degree is read by kernel='poly' alone.*degree=5"),
        ({"kernel": "poly", "bandwidth": 3.0}, "by kernel='rbf' alone.*kernel='poly', bandwidth=3"),
        ({"offset": 1.0}, "offset is read by kernel='poly' alone: give that, or leave it out"),
        ({"edges": [[0.0, 1.0]]}, r"edges must be pairs .* shape \(1, 2\) and dtype float64"),
        ({"edges": [[0, -1]]}, r"edges must be pairs of nodes \(edges, 2\), int and not negative"),
        ({"edges": [[0, 1, 2]]}, r"edges must be pairs .* shape \(1, 3\)"),
        ({"edges": [[0, 1], [0, 1]]}, "edges must not come twice"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.losses.LSP(**arguments)


def test_edges_and_options_survive_the_config(round_trip, pair):
    assert round_trip(mr.losses.LSP(bandwidth=3.0)).bandwidth == 3.0
    options = {"kernel": "poly", "offset": 1.0, "degree": 3}
    loss = mr.losses.LSP(edges=np.array(EDGES), variant="reference", **options)
    again = round_trip(loss)
    config = again.get_config()
    assert config["edges"] == EDGES
    assert {name: config[name] for name in options} == options
    np.testing.assert_array_equal(again.call(*pair), loss.call(*pair))
