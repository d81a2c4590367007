"""Tests of the factors: the networks, the paraphraser's own stage and its rest afterwards."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr


@pytest.fixture
def maps(random):
    return [random.normal(size=(4, 5, 5, c)).astype("float32") for c in (3, 6)]


def built(maps, **arguments):
    adapter = mr.adapters.Factors(**arguments)
    adapter(*maps)
    return adapter


def values(variables):
    return [keras.ops.convert_to_numpy(variable).copy() for variable in variables]


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def randomized(chain, random):
    for variable in chain.variables:
        variable.assign(random.uniform(0.2, 1.2, size=variable.shape) - 0.2 * (variable.ndim > 1))


def chain_in_numpy(chain, x):
    """The chain on single positions, of which a kernel's centre alone sees something."""
    for i, convolution in enumerate(chain.convolutions):
        kernel, bias = values([convolution.kernel, convolution.bias])
        transposed = isinstance(convolution, keras.layers.Conv2DTranspose)
        x = x @ (kernel[1, 1].T if transposed else kernel[1, 1]) + bias
        if chain.normalizations:
            layer = chain.normalizations[i]
            gamma, beta, mean, variance = values(layer.weights)
            x = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        x = leaky(x)
    return x


@pytest.mark.parametrize("normalize", [True, False])
def test_the_networks_equal_numpy(normalize, random):
    student, teacher = (random.normal(size=(4, 1, 1, c)) for c in (3, 6))
    adapter = built([student, teacher], paraphraser_batch_normalization=normalize)
    for chain in (adapter.encoder, adapter.decoder, adapter.translator):
        randomized(chain, random)
    factors, target = adapter(student, teacher)
    np.testing.assert_allclose(factors, chain_in_numpy(adapter.translator, student), rtol=1e-4)
    np.testing.assert_allclose(target, chain_in_numpy(adapter.encoder, teacher), rtol=1e-4)
    restored = adapter.decoder(target)
    expected = chain_in_numpy(adapter.decoder, np.array(target))
    np.testing.assert_allclose(restored, expected, rtol=1e-4)
    assert len(adapter.encoder.normalizations) == 3 * normalize
    assert len(adapter.translator.normalizations) == 3
    assert adapter.get_config()["paraphraser_batch_normalization"] is normalize


@pytest.mark.parametrize(("rate", "channels"), [(0.5, 3), (0.75, 4), (2.0, 12), (0.01, 1)])
def test_the_rate_is_the_width_of_the_factors(rate, channels, maps):
    adapter = mr.adapters.Factors(rate=rate)
    student, teacher = adapter(*maps)
    assert student.shape == teacher.shape == (4, 5, 5, channels)
    widths = [layer.filters for layer in adapter.encoder.convolutions]
    assert widths == [6, channels, channels]
    assert [layer.filters for layer in adapter.decoder.convolutions] == [channels, 6, 6]
    assert [layer.filters for layer in adapter.translator.convolutions] == [3, channels, channels]
    assert adapter.get_config()["rate"] == rate


def test_each_stage_trains_its_own_part(maps):
    adapter = built(maps)
    paraphraser = adapter.pretraining_variables()
    translator = adapter.trainable_variables
    assert len(paraphraser) == 2 * 12
    assert len(translator) == 12
    assert not {id(v) for v in paraphraser} & {id(v) for v in translator}
    statistics = 3 * 3 * 2
    assert len(adapter.variables) == 24 + 12 + statistics
    knowledge = mr.Feature("ft", at="stage2", adapter=adapter)
    assert len(knowledge.trainable_variables) == 12


def test_the_pretraining_loss_is_the_squared_error_of_the_reconstruction(maps):
    adapter = built(maps, paraphraser_batch_normalization=False)
    restored = adapter.decoder(adapter.encoder(maps[1]))
    expected = ((restored - maps[1]) ** 2).numpy().mean(axis=(1, 2, 3))
    actual = adapter.pretraining_loss(*maps)
    assert actual.dtype == tf.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_pretraining_normalizes_by_the_batch_and_moves_the_statistics(maps):
    adapter = built(maps)
    layer = adapter.encoder.normalizations[0]
    responses = np.array(adapter.encoder.convolutions[0](maps[1]))
    adapter.pretraining_loss(*maps)
    mean = responses.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(layer.moving_mean, 0.1 * mean, rtol=1e-4, atol=1e-6)
    rest = values(adapter.translator.variables)
    adapter.pretraining_loss(*maps)
    for before, after in zip(rest, adapter.translator.variables, strict=True):
        np.testing.assert_array_equal(before, after)


def test_an_optimizer_lowers_the_error_of_the_reconstruction(maps):
    adapter = built(maps)
    optimizer = keras.optimizers.SGD(0.5)
    errors = []
    for _ in range(4):
        with tf.GradientTape() as tape:
            error = tf.reduce_mean(adapter.pretraining_loss(*maps))
        variables = adapter.pretraining_variables()
        gradients = tape.gradient(error, [v.value for v in variables])
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        errors.append(float(error))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.9 * errors[0]


def test_in_the_joint_stage_the_paraphraser_rests(maps):
    adapter = built(maps)
    adapter.pretraining_loss(*maps)
    paraphraser = adapter.encoder.variables + adapter.decoder.variables
    before, moved = values(paraphraser), values(adapter.translator.variables)
    _, resting = adapter(*maps, training=False)
    with tf.GradientTape() as tape:
        factors, target = adapter(*maps, training=True)
        total = tf.reduce_sum(factors**2) + tf.reduce_sum(target**2)
    np.testing.assert_array_equal(target, resting)
    for old, new in zip(before, paraphraser, strict=True):
        np.testing.assert_array_equal(old, new)
    now = values(adapter.translator.variables)
    assert any(np.any(old != new) for old, new in zip(moved, now, strict=True))
    learnt = [v.value for v in adapter.pretraining_variables()]
    assert all(gradient is None for gradient in tape.gradient(total, learnt))


@pytest.mark.parametrize("rate", [0.0, -0.5, float("nan"), float("inf")])
def test_rates_that_make_no_sense(rate):
    with pytest.raises(ValueError, match=r"rate must be a positive number. Received: rate="):
        mr.adapters.Factors(rate=rate)


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="Factors takes feature maps"):
        mr.adapters.Factors().build((None, 6), (None, 6))
