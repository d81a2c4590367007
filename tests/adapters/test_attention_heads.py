"""Tests of the attention heads: the networks, the stage of their own and their rest afterwards."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

HEADS = 3


@pytest.fixture
def layers(random):
    """A map and a vector of the student, and the teacher's, which are wider."""
    shapes = [[(5, 4, 4, 3), (5, 2)], [(5, 3, 2, 4), (5, 6)]]
    return [[random.normal(size=shape).astype("float32") for shape in side] for side in shapes]


def built(layers, **arguments):
    adapter = mr.adapters.AttentionHeads(**{"heads": HEADS, **arguments})
    adapter(*layers)
    return adapter


def values(variables):
    return [keras.ops.convert_to_numpy(variable).astype("float64") for variable in variables]


def unit(vectors):
    return vectors / np.sqrt((vectors**2).sum(axis=1, keepdims=True))


def pooled(layer):
    return layer.reshape((len(layer), -1, layer.shape[-1])).astype("float64").mean(axis=1)


def randomized(network, random):
    for variable in network.variables:
        variable.assign(random.uniform(0.2, 1.2, size=variable.shape) - 0.7 * (variable.ndim > 1))


def dense_in_numpy(layer, vectors, batch_statistics=False):
    kernel, gamma, beta, mean, variance = values([layer.dense.kernel, *layer.normalization.weights])
    vectors = vectors @ kernel
    if batch_statistics:
        mean, variance = vectors.mean(axis=0), vectors.var(axis=0)
    return (vectors - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def of_heads(vectors):
    return vectors.reshape((len(vectors), HEADS, -1))


def loss_in_numpy(network, front, back):
    """The published stage, sample by sample and head by head."""
    queries = of_heads(dense_in_numpy(network.query, back, batch_statistics=True))
    keys = of_heads(dense_in_numpy(network.key, front, batch_statistics=True))
    hidden = np.maximum(dense_in_numpy(network.hidden, front, batch_statistics=True), 0)
    kernel, bias = values(network.estimate.weights)
    losses = []
    for i in range(len(back)):
        gathered = []
        for h in range(HEADS):
            weights = np.exp([np.dot(queries[i, h], keys[j, h]) for j in range(len(front))])
            gathered.append(sum(w * value for w, value in zip(weights, hidden, strict=True)))
            gathered[-1] = gathered[-1] / weights.sum()
        estimate = np.concatenate(gathered) @ kernel + bias
        cosine = estimate @ back[i] / np.sqrt((estimate @ estimate) * (back[i] @ back[i]))
        losses.append(1 - cosine)
    return losses


def test_queries_and_keys_equal_numpy(layers, random):
    adapter = built(layers)
    randomized(adapter, random)
    (network,) = adapter.networks
    student, teacher = adapter(*layers)
    for i, side in enumerate((student, teacher)):
        vectors = [pooled(layer) for layer in layers[i]]
        if side is student:
            weights = [values(projection.weights) for projection in adapter.projections]
            pairs = zip(vectors, weights, strict=True)
            vectors = [v @ kernel + bias for v, (kernel, bias) in pairs]
        front, back = map(unit, vectors)
        queries, keys = side
        expected = of_heads(dense_in_numpy(network.query, back))
        np.testing.assert_allclose(queries, expected, rtol=1e-4, atol=1e-5)
        expected = of_heads(dense_in_numpy(network.key, front))
        np.testing.assert_allclose(keys, expected, rtol=1e-4, atol=1e-5)


def test_the_pretraining_loss_equals_numpy(layers, random):
    adapter = built(layers, drop_heads=False)
    randomized(adapter, random)
    front, back = (unit(pooled(layer)) for layer in layers[1])
    expected = loss_in_numpy(adapter.networks[0], front, back)
    actual = adapter.pretraining_loss(*layers)
    assert actual.dtype == tf.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_neighbouring_layers_are_pairs(random):
    student = [random.normal(size=(5, 2)) for _ in range(3)]
    teacher = [random.normal(size=(5, width)) for width in (3, 4, 6)]
    adapter = built([student, teacher], drop_heads=False)
    outputs = adapter(student, teacher)
    assert [[one.shape[2] for one in side] for side in outputs] == [[3, 3, 5, 5]] * 2
    both = adapter.pretraining_loss(student, teacher)
    pairs = [
        loss_in_numpy(network, unit(teacher[i]), unit(teacher[i + 1]))
        for i, network in enumerate(adapter.networks)
    ]
    np.testing.assert_allclose(both, np.sum(pairs, axis=0), rtol=1e-5)


@pytest.mark.parametrize(("arguments", "width"), [({}, 5), ({"width": 7}, 7)])
def test_the_width_of_a_head(arguments, width, layers):
    adapter = built(layers, heads=2, **arguments)
    for side in adapter(*layers):
        assert [one.shape for one in side] == [(5, 2, width)] * 2
    assert adapter.networks[0].hidden.dense.units == width
    assert [projection.units for projection in adapter.projections] == [4, 6]
    assert adapter.get_config()["width"] == arguments.get("width")


def test_each_stage_trains_its_own_part(layers):
    adapter = built(layers)
    heads, projections = adapter.pretraining_variables(), adapter.trainable_variables
    assert len(heads) == 3 * 3 + 2
    assert len(projections) == 2 * 2
    assert not {id(v) for v in heads} & {id(v) for v in projections}
    assert len(adapter.weights) == 11 + 4 + 3 * 2
    knowledge = mr.Relation("mhgd", at=["stage1", "stage2"], adapter=adapter)
    assert len(knowledge.trainable_variables) == 4


def test_only_the_teacher_counts_in_the_stage(layers):
    adapter = built(layers, drop_heads=False)
    expected = adapter.pretraining_loss(*layers)
    rest = values(adapter.trainable_variables)
    moved = [1.0 + layer for layer in layers[0]]
    np.testing.assert_array_equal(adapter.pretraining_loss(moved, layers[1]), expected)
    for before, after in zip(rest, values(adapter.trainable_variables), strict=True):
        np.testing.assert_array_equal(before, after)


def test_an_optimizer_brings_the_estimate_closer(layers):
    adapter = built(layers, drop_heads=False)
    optimizer = keras.optimizers.SGD(0.1)
    variables = adapter.pretraining_variables()
    before, errors = values(variables), []
    for _ in range(5):
        with tf.GradientTape() as tape:
            tape.watch([variable.value for variable in variables])
            error = tf.reduce_mean(adapter.pretraining_loss(*layers))
        gradients = tape.gradient(error, [variable.value for variable in variables])
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        errors.append(float(error))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.9 * errors[0]
    for old, new in zip(before, values(variables), strict=True):
        assert np.any(old != new)


def test_about_half_of_the_heads_are_dropped_anew_in_each_step(random):
    teacher = [random.normal(size=(400, width)) for width in (2, 3)]
    adapter = built([teacher, teacher], heads=8, seed=1)
    kept = np.array([adapter._kept(teacher[0]) for _ in range(2)])
    assert kept.shape == (2, 400, 8, 1)
    assert set(np.unique(kept)) == {0.0, 1.0}
    assert abs(kept.mean() - 0.5) < 0.03
    assert kept.sum(axis=2).min() >= 1
    assert np.any(kept[0] != kept[1])
    again = built([teacher, teacher], heads=8, seed=1)
    np.testing.assert_array_equal(again._kept(teacher[0]), kept[0])
    np.testing.assert_array_equal(
        built([teacher, teacher], heads=1)._kept(teacher[0]), np.ones((400, 1, 1))
    )


def test_the_estimate_sees_the_kept_heads_alone(layers):
    adapter = built(layers)
    (network,) = adapter.networks
    front, back = (keras.ops.convert_to_tensor(unit(pooled(layer))) for layer in layers[1])
    kept = np.ones((5, HEADS, 1), "float32")
    kept[:, 1] = 0.0
    dropped = np.array(network.estimated(front, back, kept))
    kernel = network.estimate.kernel.numpy()
    kernel[network.width : 2 * network.width] = 0.0
    network.estimate.kernel.assign(kernel)
    np.testing.assert_allclose(dropped, network.estimated(front, back, 1.0), rtol=1e-5, atol=1e-6)


def test_in_the_joint_stage_the_heads_rest(layers):
    adapter = built(layers)
    adapter.pretraining_loss(*layers)
    before = values(adapter.weights)
    _, resting = adapter(*layers, training=False)
    with tf.GradientTape() as tape:
        teacher = [tf.constant(layer) for layer in layers[1]]
        tape.watch(teacher)
        _, target = adapter(layers[0], teacher, training=True)
    assert tape.gradient(target, teacher) == [None, None]
    for one, other in zip(target, resting, strict=True):
        np.testing.assert_array_equal(one, other)
    for old, new in zip(before, values(adapter.weights), strict=True):
        np.testing.assert_array_equal(old, new)


def network_of(widths):
    inputs = keras.Input((6,))
    front = keras.layers.Dense(widths[0], activation="relu", name="front")(inputs)
    back = keras.layers.Dense(widths[1], activation="relu", name="back")(front)
    return keras.Model(inputs, keras.layers.Dense(3)(back))


def test_a_distiller_trains_the_heads_first_and_then_leaves_them(random):
    x, y = random.normal(size=(16, 6)).astype("float32"), np.arange(16) % 3
    knowledge = mr.Relation("mhgd", at=["front", "back"])
    distiller = mr.Distiller(
        student=network_of((4, 5)), teacher=network_of((6, 8)), knowledge=[knowledge]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.AdamW(0.01, weight_decay=0.1), loss)
    with pytest.raises(ValueError, match=r"\['mhgd'\] must be trained in a stage of their own"):
        distiller.fit(x, y, verbose=0)

    adapter = knowledge.adapter
    sides = [values(adapter.pretraining_variables()), values(adapter.trainable_variables)]
    sides.append(values(distiller.student.weights))
    adam = keras.optimizers.Adam(0.01)
    history = distiller.pretrain(x, optimizer=adam, epochs=5, batch_size=16, verbose=0).history
    assert history["mhgd"][-1] < history["mhgd"][0]
    learnt = [values(adapter.pretraining_variables()), values(adapter.trainable_variables)]
    learnt.append(values(distiller.student.weights))
    same = [
        all(np.array_equal(old, new) for old, new in zip(*pair, strict=True))
        for pair in zip(sides, learnt, strict=True)
    ]
    assert same == [False, True, True]

    resting = [v for network in adapter.networks for v in network.variables]
    before = values(resting)
    history = distiller.fit(x, y, batch_size=16, verbose=0).history
    assert history["mhgd"][-1] > 0
    for old, new in zip(before, values(resting), strict=True):
        np.testing.assert_array_equal(old, new)
    for old, new in zip(learnt[1], values(adapter.trainable_variables), strict=True):
        assert np.any(old != new)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 0}, "heads must be a positive integer. Received: heads=0"),
        ({"heads": 2.0}, "heads must be a positive integer. Received: heads=2.0"),
        ({"width": 0}, "width must be None or a positive integer. Received: width=0"),
        ({"width": "all"}, "width must be None or a positive integer. Received: width='all'"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.adapters.AttentionHeads(**arguments)


@pytest.mark.parametrize(
    "shapes",
    [
        ((None, 4), (None, 6)),
        ([(None, 4)], [(None, 6)]),
        ([(None, 4), (None, 5)], [(None, 6)]),
        ([(None, 4), (None, None)], [(None, 6), (None, 6)]),
    ],
    ids=["no lists", "one layer", "unequal numbers", "unknown width"],
)
def test_layers_that_do_not_fit(shapes):
    with pytest.raises(ValueError, match="AttentionHeads needs lists of two layers or more of kno"):
        mr.adapters.AttentionHeads().build(*shapes)
