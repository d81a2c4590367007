"""Labels as class indices, from every shape that they come in."""

import numpy as np
import pytest
from keras import ops

from modreduce_keras.labels import are_distributions, class_indices, is_distribution

CLASSES = np.array([2, 0, 1])


@pytest.mark.parametrize(
    "labels",
    [CLASSES, CLASSES.astype("float32"), CLASSES[:, None], np.eye(4)[CLASSES]],
    ids=["indices", "floats", "a column", "one-hot"],
)
def test_every_shape_gives_the_classes(labels):
    found = class_indices(labels, (3, 4), "evaluate")
    np.testing.assert_array_equal(found, CLASSES)
    assert np.issubdtype(found.dtype, np.integer)


def test_several_places_of_a_sample():
    labels = np.arange(6).reshape(2, 3) % 4
    for given in (labels, labels[..., None], np.eye(4)[labels]):
        np.testing.assert_array_equal(class_indices(given, (2, 3, 4), "evaluate"), labels)


def test_as_many_samples_as_classes_are_no_matter():
    np.testing.assert_array_equal(class_indices(np.array([1, 0]), (2, 2), "evaluate"), [1, 0])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((3, 5)), r"evaluate needs labels .* \(3,\) or one-hot \(3, 4\).*\(3, 5\)"),
        (np.array([0, 4, -1]), r"from 0 to 3. Received: y with \[-1, 4\]"),
        (np.array([0.5, 1.0, 2.0]), r"evaluate needs labels y .* Received: y with \[0.5\]"),
        (np.array(["a", "b", "c"]), r"labels that are numbers.*return_inverse.*dtype <U1"),
    ],
    ids=["shape", "range", "fraction", "names"],
)
def test_what_is_no_class_is_told(labels, message):
    with pytest.raises(ValueError, match=message):
        class_indices(labels, (3, 4), "evaluate")


def test_one_predicate_tells_distributions_in_arrays_and_tensors():
    rows = np.array([[0, 1, 0], [0.2, 0.3, 0.5], [1, 1, 0], [-0.5, 1, 0.5], [0, 0, 0]], "float32")
    expected = [True, True, False, False, False]
    np.testing.assert_array_equal(are_distributions(rows, np), expected)
    found = ops.convert_to_numpy(are_distributions(ops.convert_to_tensor(rows)))
    np.testing.assert_array_equal(found, expected)
    assert is_distribution(rows[:2]) and not is_distribution(rows)
