"""VkD against NumPy in both variants, and what it refuses."""

import numpy as np
import pytest

import modreduce_keras as mr


@pytest.fixture
def features(random):
    teacher = 5.0 + 3.0 * random.normal(size=(6, 4))
    return teacher, 1.5 * random.normal(size=(6, 4))


@pytest.mark.parametrize("variant", ["paper", "reference"])
def test_vkd_equals_numpy(variant, features, assert_equals_numpy):
    def expected(teacher, student):
        values = np.zeros(6)
        for sample, feature in np.ndindex(teacher.shape):
            group = teacher[:, feature] if variant == "paper" else teacher[sample]
            target = (teacher[sample, feature] - group.mean()) / np.sqrt(group.var() + 1e-5)
            distance = abs(student[sample, feature] - target)
            values[sample] += (distance - 0.5 if distance >= 1 else distance**2 / 2) / 4
        return values

    loss = mr.losses.VkD(variant=variant)
    assert_equals_numpy(loss, expected, *features)
    assert loss.get_config()["variant"] == variant


@pytest.mark.parametrize("variant", ["paper", "reference"])
def test_scale_and_offset_of_the_teacher_do_not_matter(variant, features):
    teacher, student = features
    loss = mr.losses.VkD(variant=variant)
    moved = loss.call(1.0 + 7.0 * teacher, student)
    np.testing.assert_allclose(moved, loss.call(teacher, student), rtol=1e-4)


def test_the_loss_is_zero_at_the_standardized_teacher(features):
    teacher, _ = features
    student = (teacher - teacher.mean(axis=0)) / np.sqrt(teacher.var(axis=0) + 1e-5)
    np.testing.assert_allclose(mr.losses.VkD().call(teacher, student), np.zeros(6), atol=1e-10)


def test_unknown_variants_maps_and_other_widths_are_refused():
    with pytest.raises(ValueError, match=r"variant must be one of \['paper', 'reference'\]. Rec"):
        mr.losses.VkD(variant="batch")
    for shape in ((2, 4, 4, 5), (2, 6)):
        with pytest.raises(ValueError, match=r"VkD needs vectors \(batch, features\) of equal wi"):
            mr.losses.VkD().call(np.ones((2, 4, 4, 5)), np.ones(shape))
