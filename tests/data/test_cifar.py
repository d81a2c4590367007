"""CIFAR-100 from images that say where each pixel was: splits, crops and flips, order, views."""

import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.data import cifar

SIZE = 600
AS_BYTES = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
RAMP = np.arange(1, 33)
PATTERN = np.stack(np.broadcast_arrays(RAMP[:, None], RAMP[None, :]), axis=-1)


def crops():
    """Returns by its bytes what every crop and flip makes of the pattern."""
    padded = np.pad(PATTERN, [(4, 4), (4, 4), (0, 0)])
    found = {}
    for top in range(9):
        for left in range(9):
            crop = padded[top : top + 32, left : left + 32]
            for flip in (False, True):
                seen = crop[:, ::-1] if flip else crop
                found[seen.astype("float32").tobytes()] = (top, left, flip)
    return found


CROPS = crops()


@pytest.fixture(autouse=True)
def _official(monkeypatch):
    """Stands for the official files: 6 images a class; a pixel is its row, column and image."""
    images = np.zeros((SIZE, 32, 32, 3), "uint8")
    images[..., :2] = PATTERN
    images[..., 2] = 1 + np.arange(SIZE)[:, None, None] % 250
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(100), 6))

    def load(part, data_dir, download):
        assert (data_dir, download) == (None, True)
        return (images, labels) if part == "train" else (images[::-1], labels[::-1])

    monkeypatch.setattr(cifar, "_load", load)


def data(split="train", **arguments):
    return mr.data.cifar100(split, **{"validation": 200, **AS_BYTES, **arguments})


def all_of(dataset, key=None):
    """Returns images, labels and indices of one pass."""
    batches = list(dataset.as_numpy_iterator())
    x = [x["inputs"] for x, _ in batches]
    images = np.concatenate([each if key is None else each[key] for each in x])
    return (
        images,
        np.concatenate([y for _, y in batches]),
        np.concatenate([x["sample_index"] for x, _ in batches]),
    )


def found_in(images):
    """Returns the crop and flip of each image."""
    return [CROPS[np.ascontiguousarray(np.round(image[..., :2])).tobytes()] for image in images]


def draws(epoch, key=None, **arguments):
    """Returns the crop and flip of each sample in an epoch, in the order of the samples."""
    with mr.data.in_epoch(epoch):
        images, _, index = all_of(data(index=True, **arguments), key)
    found = found_in(images)
    return [found[place] for place in np.argsort(index)]


def order(epoch, **arguments):
    with mr.data.in_epoch(epoch):
        return all_of(data(index=True, **arguments))[2].tolist()


def test_validation_is_the_last_of_each_class_and_missing_in_train():
    official, labels = cifar._load("train", None, True)
    last = {i for c in range(100) for i in np.flatnonzero(labels == c)[-2:]}
    for split, expected in (("validation", sorted(last)), ("train", sorted({*range(600)} - last))):
        images, y, index = all_of(data(split, index=True, shuffle=False, augment=False))
        np.testing.assert_allclose(images, official[expected], rtol=1e-5)
        np.testing.assert_array_equal(y, labels[expected])
        np.testing.assert_array_equal(index, np.arange(len(expected)))
    whole = all_of(data(validation=0, index=True, shuffle=False, augment=False))
    np.testing.assert_array_equal(whole[1], labels)
    test = all_of(data("test", index=True))
    np.testing.assert_array_equal(test[1], labels[::-1])
    np.testing.assert_allclose(test[0], official[::-1], rtol=1e-5)


def test_batches_are_normalized_by_the_papers_figures():
    dataset = mr.data.cifar100("test", batch_size=250)
    assert dataset.element_spec[0].dtype == tf.float32
    assert int(dataset.cardinality()) == 3
    sizes, (x, _) = [len(y) for _, y in dataset], next(iter(dataset))
    assert sizes == [250, 250, 100]
    official = cifar._load("test", None, True)[0][:250].astype("float64") / 255
    expected = (official - [0.5071, 0.4867, 0.4408]) / [0.2675, 0.2565, 0.2761]
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-5)


def test_crops_and_flips_are_of_the_image_with_black_around_it_and_equally_likely():
    dataset = data(index=True, validation=0)
    found = [each for _ in range(12) for each in found_in(all_of(dataset)[0])]
    assert len(found) == 12 * SIZE
    counts = np.zeros((9, 9, 2))
    for top, left, flip in found:
        counts[top, left, int(flip)] += 1
    expected = counts.sum() / counts.size
    chi_square = np.sum((counts - expected) ** 2 / expected)
    assert 161 - 4 * np.sqrt(2 * 161) < chi_square < 161 + 4 * np.sqrt(2 * 161)


def test_an_image_stays_itself_with_its_label():
    official, labels = cifar._load("train", None, True)
    images, y, index = all_of(data(index=True, validation=0))
    np.testing.assert_array_equal(y, labels[index])
    inside = images[:, 10:20, 10:20, 2]
    np.testing.assert_allclose(inside, official[index][:, 10:20, 10:20, 2], rtol=1e-5)


def test_augmentation_depends_on_seed_epoch_and_index_alone():
    expected = draws(3)
    for other in ({"batch_size": 7}, {"shuffle": False}, {"augmentations": 50}):
        assert draws(3, **other) == expected
    tf.random.set_seed(5)
    assert draws(3) == expected
    for other in (draws(4), draws(3, seed=1)):
        same = np.mean([one == two for one, two in zip(other, expected, strict=True)])
        assert same < 0.03
    # In another process and another year too.
    assert expected[:3] == [(7, 5, True), (8, 3, False), (4, 2, True)]


def test_order_depends_on_seed_and_epoch_alone():
    expected = order(3)
    assert sorted(expected) == list(range(400))
    assert order(3, batch_size=7, augment=False) == expected
    assert sum(a == b for a, b in zip(order(4), expected, strict=True)) < 10
    assert sum(a == b for a, b in zip(order(3, seed=1), expected, strict=True)) < 10
    assert order(3, shuffle=False) == list(range(400))
    assert expected[:5] == [369, 254, 61, 78, 139]


def test_without_an_epoch_each_iteration_is_the_next_one():
    dataset = data(index=True)
    passes = [all_of(dataset)[2].tolist() for _ in range(2)]
    assert passes == [order(0), order(1)]


def test_views_are_augmentations_of_their_own():
    one, two = (draws(2, f"view_{view}", views=2) for view in range(2))
    assert np.mean([a == b for a, b in zip(one, two, strict=True)]) < 0.03
    assert (one, two) == (draws(4), draws(5))
    x, _ = next(iter(data(views=3)))
    assert sorted(x) == ["view_0", "view_1", "view_2"]


def test_augmentations_come_again():
    assert draws(5, augmentations=2) == draws(1)
    assert draws(4, augmentations=2) == draws(0)
    assert draws(3, "view_1", views=2, augmentations=4) == draws(3)
    assert draws(2, "view_1", views=3, augmentations=4) == draws(3)
    assert order(5, augmentations=2) == order(5) != order(1)


def test_crops_without_an_order_and_an_order_without_crops():
    images, _, index = all_of(data("validation", index=True, augment=True))
    assert index.tolist() == list(range(200))
    assert len({image[..., :2].tobytes() for image in images}) > 50
    images, _, index = all_of(data(index=True, augment=False))
    assert index.tolist() != sorted(index)
    np.testing.assert_allclose(images[..., :2], np.broadcast_to(PATTERN, (400, 32, 32, 2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid"}, r"split must be one of \['train', 'validation', 'test'\]. Received"),
        ({"batch_size": 0}, "batch_size must be a positive integer. Received: batch_size=0"),
        ({"validation": 150}, "validation must be a multiple of 100 below 50,000. .*=150"),
        ({"validation": 50_000}, "validation must be a multiple of 100 below 50,000. .*=50000"),
        ({"validation": -100}, "validation must be an integer of at least 0"),
        ({"split": "validation", "validation": 0}, "validation must be at least 100 for split="),
        ({"shuffle": 1}, "shuffle must be True or False. Received: shuffle=1"),
        ({"augment": "yes"}, "augment must be True or False. Received: augment='yes'"),
        ({"index": 0}, "index must be True or False. Received: index=0"),
        ({"views": 0}, "views must be a positive integer. Received: views=0"),
        ({"split": "test", "views": 2}, r"give augment=True. Received: views=2, augmentations=N"),
        ({"augment": False, "augmentations": 2}, "give augment=True. Received: views=1, augment"),
        ({"views": 3, "augmentations": 2}, "augmentations must be at least views. Received"),
        ({"augmentations": 0}, "augmentations must be None or a positive integer. Received"),
        ({"seed": -1}, "seed must be an integer of at least 0. Received: seed=-1"),
        ({"mean": 0.5}, "mean must be three numbers. Received: mean=0.5"),
        ({"std": (1.0, 1.0)}, r"std must be three numbers. Received: std=\(1.0, 1.0\)"),
        ({"std": (1.0, 0.0, 1.0)}, r"std must be positive. Received: std=\(1.0, 0.0, 1.0\)"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.data.cifar100(**arguments)
