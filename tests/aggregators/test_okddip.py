"""Tests of attention among the peers with a leader."""

import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr


@pytest.fixture
def reference(golden_group):
    return golden_group("okddip")


def with_golden_weights(reference, **arguments):
    aggregator = mr.aggregators.OKDDip(**arguments)
    features = [feature.shape for feature in reference["features"]]
    aggregator.build(reference["logits"].shape, features_shape=features)
    assert [w.shape for w in aggregator.get_weights()] == [(16, 2), (16, 2)]  # an eighth
    aggregator.query.set_weights([reference["query_kernel"]])
    aggregator.key.set_weights([reference["key_kernel"]])
    return aggregator


def call(aggregator, reference, logits=None):
    given = {"temperature": 3.0} if "temperature" in aggregator.needs else {}
    logits = reference["logits"] if logits is None else logits
    return aggregator(logits, features=reference["features"], **given)


def test_attention_equals_the_reference_implementation(reference):
    aggregator = with_golden_weights(reference)
    attention = tf.exp(aggregator.log_attention(reference["features"][:3]))
    np.testing.assert_allclose(attention, reference["attention"], rtol=1e-5, atol=1e-6)


def test_targets_of_logits_equal_the_reference_implementation(reference, online, cross_entropy):
    logits = reference["logits"]
    result = call(with_golden_weights(reference, variant="reference"), reference)
    np.testing.assert_allclose(
        result["targets"][:, :3], reference["target_logits"], rtol=1e-5, atol=1e-5
    )
    losses = online(result, logits)
    assert sum(losses[:3]) == pytest.approx(float(reference["first_level"]), rel=1e-5)
    assert losses[3] == pytest.approx(float(reference["second_level"]), rel=1e-5)
    supervised = sum(float(cross_entropy(reference["labels"], logits[:, i])) for i in range(4))
    assert supervised == pytest.approx(float(reference["cross_entropy"]), rel=1e-5)
    np.testing.assert_allclose(result["ensemble"], logits[:, :3].mean(1), rtol=1e-5, atol=1e-6)


def test_targets_of_probabilities_equal_the_reference_implementation(reference, softmax):
    targets = call(with_golden_weights(reference), reference)["targets"]
    np.testing.assert_allclose(
        softmax(np.array(targets[:, :3]) / 3.0),
        reference["target_probabilities"],
        rtol=1e-5,
        atol=1e-6,
    )
    # They are probabilities already: T log p.
    np.testing.assert_allclose(np.exp(targets / 3.0).sum(axis=-1), np.ones((8, 4)), rtol=1e-5)


def test_leader_of_the_paper_learns_from_the_mean_of_the_groups_probabilities(reference, softmax):
    targets = call(with_golden_weights(reference), reference)["targets"]
    expected = softmax(reference["logits"][:, :3] / 3.0).mean(axis=1)
    np.testing.assert_allclose(np.exp(targets[:, 3] / 3.0), expected, rtol=1e-5, atol=1e-7)


def test_gradient_of_constant_targets_equals_the_reference_implementation(reference):
    aggregator = with_golden_weights(reference, variant="reference", trains_through_targets=False)
    assert not aggregator.trains_through_targets
    logits = tf.constant(reference["logits"])
    kd = mr.losses.KD(temperature=3.0)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        targets = tf.stop_gradient(call(aggregator, reference, logits)["targets"])
        loss = sum(kd(targets[:, i], logits[:, i]) for i in range(4))
    expected = reference["grad_logits_of_distillation"].transpose(1, 0, 2)
    np.testing.assert_allclose(tape.gradient(loss, logits), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("variant", ["paper", "reference"])
def test_gradient_through_the_targets_equals_finite_differences(
    reference, variant, softmax, finite_differences
):
    aggregator = with_golden_weights(reference, variant=variant)
    assert aggregator.trains_through_targets
    logits = tf.constant(reference["logits"])
    query = aggregator.query.kernel
    kd = mr.losses.KD(temperature=3.0)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        targets = call(aggregator, reference, logits)["targets"]
        losses = [tf.reduce_mean(kd.per_sample(targets[:, i], logits[:, i])) for i in range(4)]
        loss = tf.add_n(losses)
    to_query, to_logits = tape.gradient(loss, [query.value, logits])

    embeddings = np.stack(reference["features"][:3], axis=1).astype("float64")
    exact = reference["logits"].astype("float64")

    def equation(query, logits):
        features = embeddings[: len(logits)]
        keys = features @ reference["key_kernel"].astype("float64")
        attention = softmax(np.einsum("biu,bju->bij", features @ query, keys))
        group = logits[:, :3]
        taught = softmax(group / 3.0) if variant == "paper" else group
        targets = np.concatenate(
            [np.einsum("bij,bjc->bic", attention, taught), taught.mean(1, keepdims=True)], axis=1
        )
        if variant == "reference":
            targets = softmax(targets / 3.0)
        divergence = targets * (np.log(targets) - np.log(softmax(logits / 3.0)))
        return 9.0 * divergence.sum(axis=2).mean(axis=0).sum()

    expected = finite_differences(lambda q: equation(q, exact), reference["query_kernel"])
    np.testing.assert_allclose(to_query, expected, rtol=1e-4, atol=1e-5)
    kernel = reference["query_kernel"].astype("float64")
    # The mean over eight examples, of which two are moved.
    expected = finite_differences(lambda two: equation(kernel, two) / 4.0, exact[:2])
    np.testing.assert_allclose(to_logits[:2], expected, rtol=1e-4, atol=1e-5)


def test_diversity_is_the_mean_distance_of_the_groups_probabilities(reference, softmax):
    diversity = call(with_golden_weights(reference), reference)["diversity"]
    probabilities = softmax(reference["logits"][:, :3])
    distances = [
        np.linalg.norm(probabilities[b, i] - probabilities[b, j])
        for b in range(8)
        for i in range(3)
        for j in range(i + 1, 3)
    ]
    assert diversity.shape == ()
    assert float(diversity) == pytest.approx(np.mean(distances), rel=1e-5)


def test_diversity_of_five_peers_counts_every_pair_once(random, softmax):
    logits = random.normal(size=(2, 5, 4)).astype("float32")
    features = [random.normal(size=(2, 8)) for _ in range(5)]
    aggregator = mr.aggregators.OKDDip()
    diversity = aggregator(logits, features=features, temperature=1.0)["diversity"]
    probabilities = softmax(logits[:, :4])
    pairs = [(i, j) for i in range(4) for j in range(i)]
    expected = np.mean(
        [np.linalg.norm(probabilities[:, i] - probabilities[:, j], axis=1) for i, j in pairs]
    )
    assert float(diversity) == pytest.approx(expected, rel=1e-5)


def test_nobody_learns_from_the_leader(reference):
    aggregator = with_golden_weights(reference)
    other = reference["logits"].copy()
    other[:, 3] += 1.0 + np.arange(10)
    before, after = call(aggregator, reference), call(aggregator, reference, other)
    assert aggregator.has_leader
    np.testing.assert_array_equal(before["targets"], after["targets"])
    np.testing.assert_array_equal(before["ensemble"], after["ensemble"])


def test_width_of_queries_can_be_chosen():
    aggregator = mr.aggregators.OKDDip(units=5)
    aggregator.build((None, 3, 10), features_shape=[(None, 4)] * 3)
    assert [w.shape for w in aggregator.get_weights()] == [(4, 5), (4, 5)]


@pytest.mark.parametrize(
    "shapes", [[(None, 8), (None, 8), (None, 9)], [(None, 4, 4, 8)] * 3], ids=str
)
def test_embeddings_must_be_vectors_of_equal_widths(shapes):
    with pytest.raises(
        ValueError, match=r"vectors .* of equal widths. Received: features of shape"
    ):
        mr.aggregators.OKDDip().build((None, 3, 10), features_shape=shapes)


def test_two_peers_are_too_few():
    with pytest.raises(ValueError, match=r"OKDDip needs at least 3 peers. Received: 2 "):
        mr.aggregators.OKDDip().build((None, 2, 10), features_shape=[(None, 8)] * 2)


@pytest.mark.parametrize("missing", ["features", "temperature"])
def test_what_it_needs_must_come(missing):
    given = {"features": [np.ones((2, 8))] * 3, "temperature": 3.0}
    del given[missing]
    with pytest.raises(ValueError, match=rf"needs {missing}: .*Received: {missing}=None"):
        mr.aggregators.OKDDip()(np.ones((2, 3, 4)), **given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "code"}, r"variant must be one of \['paper', 'reference'\]. .*'code'"),
        ({"units": 0}, "units must be None or a positive integer. Received: units=0"),
        ({"units": True}, "units must be None or a positive integer. Received: units=True"),
        ({"trains_through_targets": 1}, "trains_through_targets must be True or False. .*=1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.aggregators.OKDDip(**arguments)
