"""SimKD, SRRL and CAT-KD against NumPy, their options, and what they refuse."""

import numpy as np
import pytest

import modreduce_keras as mr


def test_simkd_equals_numpy(random, assert_equals_numpy, average_pooled):
    teacher, student = random.normal(size=(3, 4, 4, 2)), random.normal(size=(3, 2, 3, 2))

    def expected(teacher, student):
        difference = student - average_pooled(teacher, 2, 3)
        return np.array([np.mean(one**2) for one in difference])

    assert_equals_numpy(mr.losses.SimKD(), expected, teacher, student)


def test_simkd_of_vectors_or_other_channels_is_refused():
    loss = mr.losses.SimKD()
    with pytest.raises(ValueError, match=r"SimKD needs maps \(batch, height, width, channels\)"):
        loss.call(np.ones((2, 5)), np.ones((2, 5)))
    with pytest.raises(ValueError, match=r"SimKD needs maps with equal numbers of channels"):
        loss.call(np.ones((2, 4, 4, 5)), np.ones((2, 4, 4, 6)))


@pytest.fixture
def judged(random):
    """A feature and logits of the teacher, and of the student."""
    return tuple([random.normal(size=(3, 4)), random.normal(size=(3, 5))] for _ in range(2))


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 3.0)])
def test_srrl_equals_numpy(weights, judged, assert_equals_numpy):
    def expected(teacher, student):
        values = np.zeros(3)
        for weight, taught, learnt in zip(weights, teacher, student, strict=True):
            values += [weight * np.mean((learnt[i] - taught[i]) ** 2) for i in range(3)]
        return values

    loss = mr.losses.SRRL(feature_weight=weights[0], logits_weight=weights[1])
    assert_equals_numpy(loss, expected, *judged)
    config = loss.get_config()
    assert (config["feature_weight"], config["logits_weight"]) == weights


@pytest.mark.parametrize("name", ["feature_weight", "logits_weight"])
def test_srrl_refuses_negative_weights(name):
    with pytest.raises(ValueError, match=f"{name} of SRRL must be a number that is not negative"):
        mr.losses.SRRL(**{name: -1.0})


def test_srrl_refuses_what_its_adapter_does_not_make(judged):
    (feature, logits), student = judged
    loss = mr.losses.SRRL()
    for teacher in (feature, [feature], [feature, logits, logits]):
        with pytest.raises(ValueError, match="SRRL needs a feature and logits of each side"):
            loss.call(teacher, student)
    with pytest.raises(ValueError, match="SRRL needs equal shapes in each pair"):
        loss.call([logits, feature], student)


@pytest.mark.parametrize("resolution", [1, 2, 3])
def test_catkd_equals_numpy(resolution, random, assert_equals_numpy, average_pooled):
    teacher, student = random.normal(size=(2, 4, 4, 3)), random.normal(size=(2, 5, 3, 3))

    def expected(teacher, student):
        values = np.zeros(2)
        cells = [average_pooled(maps, resolution, resolution) for maps in (student, teacher)]
        for sample in range(2):
            for label in range(3):
                learnt, taught = (maps[sample, :, :, label] for maps in cells)
                difference = learnt / np.linalg.norm(learnt) - taught / np.linalg.norm(taught)
                values[sample] += np.mean(difference**2) / 3
        return values

    loss = mr.losses.CATKD(resolution=resolution)
    if resolution == 1:
        # One cell keeps its sign alone, which small steps do not change.
        exact = expected(teacher, student)
        np.testing.assert_allclose(loss.call(teacher, student), exact, rtol=1e-5)
        return
    assert_equals_numpy(loss, expected, teacher, student)


@pytest.mark.parametrize("resolution", [0, -1, 2.0, "2"])
def test_catkd_refuses_resolutions_that_make_no_sense(resolution):
    with pytest.raises(ValueError, match=r"resolution must be a positive integer. Received: res"):
        mr.losses.CATKD(resolution=resolution)


@pytest.mark.parametrize("shape", [(2, 4, 4, 6), (2, 5)], ids=str)
def test_catkd_refuses_vectors_and_other_classes(shape):
    with pytest.raises(ValueError, match=r"CATKD needs class activation maps \(batch, height"):
        mr.losses.CATKD().call(np.ones((2, 4, 4, 5)), np.ones(shape))
