"""AT, FT, NST and FSP beyond the reference values: options, invariances and errors."""

import numpy as np
import pytest

import modreduce_keras as mr


@pytest.fixture
def maps(random):
    return random.normal(size=(3, 4, 4, 5)), random.normal(size=(3, 4, 4, 7))


@pytest.mark.parametrize("power", [1, 3])
def test_attention_with_another_power_equals_numpy(power, maps):
    def attention(f):
        a = (np.abs(f) ** power).mean(axis=-1).reshape(3, -1)
        return a / np.linalg.norm(a, axis=1, keepdims=True)

    expected = ((attention(maps[1]) - attention(maps[0])) ** 2).mean(axis=1)
    loss = mr.losses.AttentionTransfer(power=power)
    np.testing.assert_allclose(loss.call(*maps), expected, rtol=1e-5)
    assert loss.get_config()["power"] == power


@pytest.mark.parametrize("power", [0, -2, 1.5, "2"])
def test_powers_that_make_no_sense(power):
    with pytest.raises(ValueError, match=r"power must be a positive integer. Received: power="):
        mr.losses.AttentionTransfer(power=power)


@pytest.mark.parametrize("identifier", ["at", "ft", "nst"])
def test_the_scale_of_a_side_does_not_matter(identifier, maps):
    loss = mr.losses.get(identifier)
    scaled = loss.call(0.1 * maps[0], 30.0 * maps[1])
    np.testing.assert_allclose(scaled, loss.call(*maps), rtol=1e-4, atol=1e-7)


def test_nst_equals_the_kernels_pair_by_pair(maps):
    def patterns(f):
        by_channel = f.reshape(3, 16, -1).transpose(0, 2, 1)
        return by_channel / np.linalg.norm(by_channel, axis=2, keepdims=True)

    def kernel(a, b):
        pairs = zip(a, b, strict=True)
        return np.array([np.mean([(u @ v) ** 2 for u in x for v in y]) for x, y in pairs])

    t, s = map(patterns, maps)
    expected = kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)
    np.testing.assert_allclose(mr.losses.NST().call(*maps), expected, rtol=1e-4)


@pytest.mark.parametrize("identifier", ["at", "ft", "nst"])
def test_vectors_are_refused(identifier):
    expected = r"needs maps \(batch, height, width, channels\)"
    with pytest.raises(ValueError, match=expected):
        mr.losses.get(identifier).call(np.ones((2, 5)), np.ones((2, 5)))


def test_fsp_of_unequal_channels_and_of_one_map_is_refused(maps):
    first, second = maps
    with pytest.raises(ValueError, match=r"FSP needs pairs of layers with equal numbers"):
        mr.losses.FSP().call([first, second], [second, second])
    with pytest.raises(ValueError, match=r"FSP needs two maps of each model: at=\['stage1'"):
        mr.losses.FSP().call(first, second)


def test_fsp_is_trained_in_a_stage_of_its_own_by_taps_of_any_width(maps):
    first, second = maps
    knowledge = mr.Feature("fsp", at=["stage1", "stage2"])
    assert knowledge.loss.staged
    knowledge.build([second.shape, second.shape], [first.shape, second.shape])
    assert len(knowledge.trainable_variables) == 1
    assert knowledge([second, second], [first, second]).shape == (3,)


def test_attention_is_the_size_of_an_activation_for_odd_powers_too(maps):
    values = mr.losses.AttentionTransfer(power=1).call(maps[0], -maps[0])
    np.testing.assert_allclose(values, np.zeros(len(maps[0])), atol=1e-12)
