"""Networks on graphs: layers by NumPy, padding, files, and how they are distilled."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.models.graph_layers import GraphAttention, GraphConvolution

EDGES = np.array([[0, 1], [1, 0], [1, 2], [2, 1], [3, 1]])


def numpy_convolution(x, edges, kernel, bias):
    adjacency = np.eye(len(x))
    for i, j in edges:
        adjacency[i, j] = 1.0
    scale = np.diag(adjacency.sum(axis=1) ** -0.5)
    return scale @ adjacency @ scale @ x @ kernel + bias


def numpy_shares(x, edges, kernel, own, others):
    """Returns the attention of each edge, the mean over heads; those of padding are 0."""
    h = (x @ kernel).reshape(len(x), *own.shape)

    def unscaled(i, j):
        score = (own * h[i]).sum(-1) + (others * h[j]).sum(-1)
        return np.exp(np.where(score > 0, score, 0.2 * score))

    def total(i):
        return unscaled(i, i) + sum(unscaled(i, b) for a, b in edges if a == i)

    return [(unscaled(i, j) / total(i)).mean() if i >= 0 else 0.0 for i, j in edges]


def numpy_attention(x, edges, kernel, own, others, bias, concatenate):
    heads, units = own.shape
    h = (x @ kernel).reshape(len(x), heads, units)
    out = np.zeros_like(h)
    for i in range(len(x)):
        reached = [i] + [b for a, b in edges if a == i]
        scores = np.array([(own * h[i]).sum(-1) + (others * h[j]).sum(-1) for j in reached])
        scores = np.exp(np.where(scores > 0, scores, 0.2 * scores))
        shares = scores / scores.sum(axis=0)
        out[i] = sum(share[:, None] * h[j] for share, j in zip(shares, reached, strict=True))
    return (out.reshape(len(x), -1) if concatenate else out.mean(axis=1)) + bias


@pytest.fixture
def features(random):
    return random.normal(size=(2, 5, 3)).astype("float32")


def random_weights(layer, random):
    values = [random.normal(size=weight.shape) for weight in layer.weights]
    layer.set_weights(values)
    return values


def batch_of(edges):
    """Two graphs: one with all edges, one with the first two and padding."""
    padded = np.full_like(edges, -1)
    padded[:2] = edges[:2]
    return np.stack([edges, padded]), [edges, edges[:2]]


def test_convolution_equals_numpy(features, random):
    edges, each = batch_of(EDGES)
    layer = GraphConvolution(4)
    layer.build(features.shape, edges.shape)
    weights = random_weights(layer, random)
    expected = [numpy_convolution(x, e, *weights) for x, e in zip(features, each, strict=True)]
    np.testing.assert_allclose(layer(features, edges), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("concatenate", [True, False])
def test_attention_equals_numpy(features, random, concatenate):
    edges, each = batch_of(EDGES)
    layer = GraphAttention(4, heads=2, concatenate=concatenate)
    layer.build(features.shape, edges.shape)
    weights = random_weights(layer, random)
    expected = [
        numpy_attention(x, e, *weights, concatenate) for x, e in zip(features, each, strict=True)
    ]
    np.testing.assert_allclose(layer(features, edges), expected, rtol=1e-5, atol=1e-5)


def test_the_attention_of_each_edge_equals_numpy_and_that_of_padding_is_zero(features, random):
    edges, _ = batch_of(EDGES)
    layer = GraphAttention(4, heads=2)
    layer.build(features.shape, edges.shape)
    weights = random_weights(layer, random)
    read = []
    layer.attention.call = lambda shares: read.append(shares) or shares
    layer(features, edges)
    expected = [numpy_shares(x, e, *weights[:3]) for x, e in zip(features, edges, strict=True)]
    assert expected[1][2:] == [0.0] * 3
    np.testing.assert_allclose(read[0][..., 0], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["convolution", "attention"])
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_a_node_with_many_neighbours_in_half_precision(kind, dtype, random):
    """A sum of more than 256 ones stalls in bfloat16."""
    features = random.uniform(0.5, 1.0, (1, 600, 3))
    edges = np.stack([np.zeros(599, int), np.arange(1, 600)], axis=-1)
    layer = {"convolution": GraphConvolution, "attention": GraphAttention}[kind](2, dtype=dtype)
    layer.build(features.shape, edges[None].shape)
    weights = random_weights(layer, random)
    if kind == "convolution":
        expected = numpy_convolution(features[0], edges, *weights)
    else:
        expected = numpy_attention(features[0], edges, *weights, True)
    found = np.asarray(keras.ops.cast(layer(features, edges[None]), "float32"))[0]
    np.testing.assert_allclose(found[0], expected[0], rtol=0.02, atol=0.02)


def test_an_edge_out_of_the_graph_is_an_error(features):
    layer = GraphConvolution(4)
    with pytest.raises(ValueError, match="nodes of their own graph"):
        layer(features, np.array([[[0, 5]], [[0, 1]]]))


def numpy_lsp(teacher, student, edges):
    """Returns the mean over the nodes with neighbours, with the linear kernel, in float64."""
    values = []
    for node in sorted({i for i, _ in edges}):
        reached = [j for i, j in edges if i == node]
        shares = []
        for side in (student, teacher):
            powers = np.exp([side[node] @ side[j] for j in reached])
            shares.append(powers / powers.sum())
        values.append((shares[0] * np.log(shares[0] / shares[1])).sum())
    return np.mean(values)


@pytest.mark.parametrize("variant", ["paper", "reference"])
def test_local_structure_over_the_edges_of_a_batch(features, random, variant):
    edges, each = batch_of(EDGES)
    student = random.normal(size=(2, 5, 2))
    loss = mr.losses.LSP(edges="edges", kernel="linear", variant=variant)
    values = loss.call({"teacher": features, "inputs": {"edges": edges}}, student)
    pair = (features, student) if variant == "paper" else (student, features)
    expected = [numpy_lsp(t, s, e) for t, s, e in zip(*pair, each, strict=True)]
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)
    restored = mr.losses.LSP.from_config(loss.get_config())
    assert restored.edges == "edges"


def test_a_node_that_is_left_out_is_no_neighbour(features, random):
    student, edges = random.normal(size=(2, 5, 2)), batch_of(EDGES)[0]
    kept = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 1]], bool)
    loss = mr.losses.LSP(edges="edges", kernel="linear")
    given = {"teacher": features, "inputs": {"edges": edges}}
    values = loss.call({**given, "mask": kept}, student)
    for graph, value in enumerate(values):
        left = [(i, j) for i, j in edges[graph] if i >= 0 and kept[graph, i] and kept[graph, j]]
        expected = numpy_lsp(features[graph], student[graph], left) if left else 0.0
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


def test_local_structure_says_that_it_needs_the_edges(features):
    loss = mr.losses.LSP(edges="edges")
    with pytest.raises(ValueError, match="needs inputs: y_true must be a dict"):
        loss.call(features, features)
    with pytest.raises(ValueError, match=r"equal \(batch, nodes, ...\)"):
        loss.call({"teacher": features[:, 0], "inputs": {"edges": EDGES[None]}}, features)


@pytest.fixture
def graphs(features):
    kept = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], bool)
    return {"features": features, "edges": batch_of(EDGES)[0].astype("int32"), "mask": kept}


def distilled(student, teacher, knowledge, graphs, labels):
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=knowledge)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.0), loss)
    return distiller, distiller.fit(graphs, labels, batch_size=2, verbose=0).history


@pytest.mark.slow
def test_padded_nodes_do_not_count(graphs, random):
    build = dict(num_classes=3, features=3, widths=(4,), masked=True, dropout=0.0)
    teacher, student = mr.models.gat(heads=2, **build), mr.models.gcn(**build)
    labels = random.integers(0, 3, (2, 5))
    knowledge = ["kd", mr.Relation(mr.losses.LSP(edges="edges"), at="embedding")]
    history = distilled(student, teacher, knowledge, graphs, labels)[1]
    other = {**graphs, "features": graphs["features"].copy()}
    other["features"][1, 2:] = 50.0
    assert distilled(student, teacher, knowledge, other, labels)[1] == history
    kept = graphs["mask"]
    one, two = (np.asarray(model(graphs), "float64") / 4 for model in (teacher, student))
    one, two = (z - np.log(np.exp(z).sum(-1, keepdims=True)) for z in (one, two))
    divergence = 16 * (np.exp(one) * (one - two)).sum(-1)
    np.testing.assert_allclose(history["kd"][0], divergence[kept].mean(), rtol=1e-4)


@pytest.mark.parametrize("edges", [5, None])
def test_attention_to_neighbours_is_a_feature(graphs, random, edges):
    """A student learns how much each node of the teacher looks at each neighbour."""
    build = dict(num_classes=3, features=3, widths=(4,), dropout=0.0, edges=edges)
    teacher, student = mr.models.gat(heads=3, **build), mr.models.gat(heads=2, **build)
    for model in (teacher, student):
        random_weights(model.get_layer("embedding"), random)
    data = {name: graphs[name] for name in ("features", "edges")}
    local = mr.Feature("hint", at="embedding/attention", adapter=None)
    history = distilled(student, teacher, [local], data, random.integers(0, 3, (2, 5)))[1]
    one, two = (
        [
            numpy_shares(x, e, *model.get_layer("embedding").get_weights()[:3])
            for x, e in zip(data["features"], data["edges"], strict=True)
        ]
        for model in (teacher, student)
    )
    expected = np.square(np.subtract(one, two)).mean()
    assert expected > 0.01
    np.testing.assert_allclose(history["hint"][0], expected, rtol=1e-4)


def test_a_perceptron_learns_from_a_graph(graphs, random):
    """GLNN: the student takes the features alone, of inputs that have more."""
    teacher = mr.models.gcn(num_classes=3, features=3, widths=(4,), dropout=0.0)
    inputs = {"features": keras.Input((5, 3), name="features")}
    student = keras.Model(inputs, keras.layers.Dense(3)(inputs["features"]))
    data = {"edges": graphs["edges"], "features": graphs["features"]}
    labels = random.integers(0, 3, (2, 5))
    distiller, history = distilled(student, teacher, "kd", data, labels)
    loss = mr.losses.KD().call(teacher(data), student({"features": graphs["features"]}))
    np.testing.assert_allclose(history["kd"][0], np.mean(loss), rtol=1e-5)
    alone = student.predict({"features": graphs["features"]}, verbose=0)
    np.testing.assert_array_equal(distiller.predict(data, verbose=0), alone)


@pytest.mark.parametrize("inputs", ["dict", "list", "single"])
def test_inputs_are_taken_by_name(inputs, random):
    """Keras goes by the order of the keys, and `a` comes before `b`."""
    tensors = {name: keras.Input((2,), name=name) for name in "bc"}
    structure = {"dict": tensors, "list": list(tensors.values()), "single": tensors["b"]}[inputs]
    parts = [tensors["b"]] if inputs == "single" else list(tensors.values())
    outputs = keras.layers.Dense(3)(keras.layers.Concatenate()([*parts, parts[0]]))
    student = keras.Model(structure, outputs)
    teacher = keras.Sequential([keras.Input((2,), name="a"), keras.layers.Dense(3)])
    data = {name: random.normal(size=(4, 2)).astype("float32") for name in "abc"}
    _, history = distilled(student, teacher, "logit_mse", data, np.zeros(4))
    own = data["b"] if inputs == "single" else [data["b"], data["c"]]
    own = {"b": data["b"], "c": data["c"]} if inputs == "dict" else own
    expected = np.square(np.asarray(teacher(data["a"])) - np.asarray(student(own))).mean()
    np.testing.assert_allclose(history["logit_mse"][0], expected, rtol=1e-5)


def test_networks_come_back_from_files(graphs, tmp_path):
    for name in ("gcn", "gat"):
        network = getattr(mr.models, name)(num_classes=3, features=3, widths=(4, 6), masked=True)
        network.save(tmp_path / f"{name}.keras")
        loaded = keras.models.load_model(tmp_path / f"{name}.keras")
        np.testing.assert_array_equal(loaded(graphs), network(graphs))


def test_missing_edges_are_told(graphs):
    knowledge = [mr.Relation(mr.losses.LSP(edges="neighbours"), at="embedding")]
    teacher = mr.models.gcn(num_classes=3, features=3)
    student = mr.models.gcn(num_classes=3, features=3)
    data = {name: graphs[name] for name in ("features", "edges")}
    with pytest.raises(ValueError, match=r"reads \['neighbours'\] of the inputs"):
        distilled(student, teacher, knowledge, data, np.zeros((2, 5)))
