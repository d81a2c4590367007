"""Tests of the gate that weighs the peers' logits for each example."""

import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr


@pytest.fixture
def reference(golden_group):
    return golden_group("one")


def with_golden_gate(one, reference):
    one.build(reference["logits"].shape, trunk_shape=reference["gate_input"].shape)
    one.gate.set_weights([reference["kernel"], reference["bias"]])
    return one


def test_one_equals_the_reference_implementation(reference, cross_entropy, online):
    one = with_golden_gate(mr.aggregators.ONE(batch_normalization=False), reference)
    result = one(reference["logits"], trunk=reference["gate_input"], training=True)
    np.testing.assert_allclose(result["ensemble"], reference["ensemble"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result["ensemble_weight"], reference["gate"].mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        cross_entropy(reference["labels"], result["ensemble"]),
        reference["ensemble_cross_entropy"],
        rtol=1e-5,
    )
    distillation = sum(online(result, reference["logits"]))
    assert distillation == pytest.approx(float(reference["distillation"]), rel=1e-5)


def test_gate_normalizes_its_scores_over_the_batch(reference, softmax):
    one = with_golden_gate(mr.aggregators.ONE(), reference)
    scale, offset = np.array([1.0, 2.0, 0.5, 3.0]), np.array([0.0, 0.3, -0.2, 1.0])
    one.normalization.gamma.assign(scale)
    one.normalization.beta.assign(offset)
    seen = reference["gate_input"].astype("float64")
    scores = seen @ reference["kernel"] + reference["bias"]
    mean, variance = scores.mean(axis=0), scores.var(axis=0)
    normalized = scale * (scores - mean) / np.sqrt(variance + 1e-5) + offset
    gates = softmax(np.maximum(normalized, 0.0))
    result = one(reference["logits"], trunk=reference["gate_input"], training=True)
    ensemble = np.einsum("bp,bpc->bc", gates, reference["logits"])
    np.testing.assert_allclose(result["ensemble"], ensemble, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(result["ensemble_weight"], gates.mean(axis=0), rtol=1e-5)
    # Keras, like PyTorch, moves a tenth of the way; unlike it, by the population variance.
    np.testing.assert_allclose(one.normalization.moving_mean, 0.1 * mean, rtol=1e-5, atol=1e-6)
    moving = 0.9 + 0.1 * variance
    np.testing.assert_allclose(one.normalization.moving_variance, moving, rtol=1e-5)
    normalized = scale * (scores - 0.1 * mean) / np.sqrt(moving + 1e-5) + offset
    gates = softmax(np.maximum(normalized, 0.0))
    result = one(reference["logits"], trunk=reference["gate_input"], training=False)
    np.testing.assert_allclose(result["ensemble_weight"], gates.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("positions", [(4, 6), (5,), (2, 2, 3)])
def test_gate_sees_the_mean_of_the_trunk_over_all_positions(positions, random):
    logits = random.normal(size=(3, 2, 5)).astype("float32")
    trunk = random.normal(size=(3, *positions, 4)).astype("float32")
    one = mr.aggregators.ONE()
    maps = one(logits, trunk=trunk)["ensemble"]
    pooled = one(logits, trunk=trunk.reshape(3, -1, 4).mean(axis=1))["ensemble"]
    np.testing.assert_allclose(maps, pooled, rtol=1e-5, atol=1e-6)


def test_gate_of_modreduce_sees_windows_of_the_image(random, softmax):
    logits = random.normal(size=(3, 2, 5)).astype("float32")
    images = random.normal(size=(3, 32, 50, 3)).astype("float32")
    one = mr.aggregators.ONE(variant="modreduce")
    assert one.needs == ("inputs",)
    result = one(logits, inputs=images, training=True)
    kernel, bias = (weight.astype("float64") for weight in one.get_weights())
    assert kernel.shape == (2 * 3 * 3, 2)
    windows = [
        images[:, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16].astype("float64").mean(axis=(1, 2))
        for i in range(2)
        for j in range(3)
    ]
    gates = softmax(np.maximum(np.concatenate(windows, axis=1) @ kernel + bias, 0.0))
    ensemble = np.einsum("bp,bpc->bc", gates, logits)
    np.testing.assert_allclose(result["ensemble"], ensemble, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result["ensemble_weight"], gates.mean(axis=0), rtol=1e-5)


def test_normalization_can_be_chosen(random):
    logits, images = np.ones((2, 3, 4)), random.normal(size=(2, 16, 16, 1))
    one = mr.aggregators.ONE(variant="modreduce", batch_normalization=True)
    one(logits, inputs=images)
    assert len(one.trainable_variables) == 4


@pytest.mark.parametrize(
    "shape", [(2, 15, 32, 3), (2, 32, 8, 3), (2, 20), (2, 4, 32, 32, 3)], ids=str
)
def test_gate_of_modreduce_refuses_what_is_no_image(shape):
    one = mr.aggregators.ONE(variant="modreduce")
    with pytest.raises(ValueError, match=r"at least 16 by 16. Received: inputs of shape"):
        one(np.ones((2, 3, 4)), inputs=np.ones(shape))


def test_gate_of_modreduce_refuses_images_of_unknown_size():
    one = mr.aggregators.ONE(variant="modreduce")
    with pytest.raises(ValueError, match=r"known size.*\(None, None, 32, 3\)"):
        one.build((None, 3, 4), inputs_shape=(None, None, 32, 3))


@pytest.mark.parametrize(("variant", "missing"), [("paper", "trunk"), ("modreduce", "inputs")])
def test_what_the_gate_sees_must_come(variant, missing):
    with pytest.raises(ValueError, match=f"ONE needs {missing}: .*{missing}=None"):
        mr.aggregators.ONE(variant=variant)(np.ones((2, 3, 4)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "old"}, r"variant must be one of \['paper', 'modreduce'\]. .*'old'"),
        ({"batch_normalization": "yes"}, "batch_normalization must be True, False or None.*'yes'"),
        ({"batch_normalization": 1}, "batch_normalization must be True, False or None.*=1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.aggregators.ONE(**arguments)


def test_scores_are_normalized_over_the_batch_of_all_replicas(reference, two_replicas):
    alone = with_golden_gate(mr.aggregators.ONE(), reference)
    expected = alone(reference["logits"], trunk=reference["gate_input"], training=True)
    with two_replicas.scope():
        one = with_golden_gate(mr.aggregators.ONE(), reference)

    def part(values):
        return two_replicas.experimental_distribute_values_from_function(
            lambda context: tf.constant(values[4 * context.replica_id_in_sync_group :][:4])
        )

    @tf.function
    def step(logits, trunk):
        return two_replicas.run(
            lambda logits, trunk: one(logits, trunk=trunk, training=True)["ensemble"],
            (logits, trunk),
        )

    parts = step(part(reference["logits"]), part(reference["gate_input"]))
    ensemble = tf.concat(two_replicas.experimental_local_results(parts), axis=0)
    np.testing.assert_allclose(ensemble, expected["ensemble"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        one.normalization.moving_variance, alone.normalization.moving_variance, rtol=1e-5
    )
