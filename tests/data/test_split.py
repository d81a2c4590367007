"""Batches that are split into parts: every sample goes to one of them, with all that is its own."""

import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr


def rows(sizes, number, indexed=False):
    """Returns the parts of batches of numbered samples of these sizes."""
    total = sum(sizes)
    x = np.arange(total * 2.0).reshape(total, 2)
    data = tf.data.Dataset.from_tensor_slices((x, np.arange(total), np.arange(total) / 10))
    data = mr.data.with_index(data) if indexed else data
    batches = data.batch(sizes[0])
    return list(mr.data.split_batches(batches, number).as_numpy_iterator())


@pytest.mark.parametrize("indexed", [False, True])
def test_samples_stay_together(indexed):
    found = rows([6, 6, 4], 2, indexed)
    assert [len(y["part_1"]) for _, y, _ in found] == [3, 3, 2]
    labels = []
    for x, y, w in found:
        for part in ("part_0", "part_1"):
            inputs = x["inputs"][part] if indexed else x[part]
            np.testing.assert_array_equal(inputs[:, 0], 2 * y[part])
            np.testing.assert_allclose(w[part], y[part] / 10)
            if indexed:
                np.testing.assert_array_equal(x["sample_index"][part], y[part])
            labels += y[part].tolist()
    assert labels == list(range(16))


def test_the_last_parts_are_filled_up_with_the_first_samples():
    parts = [[y[part].tolist() for part in y] for _, y, _ in rows([7, 2], 3)]
    assert parts == [[[0, 1, 2], [3, 4, 5], [6, 0, 1]], [[7], [8], [7]]]


def test_batches_keep_their_number_and_known_sizes():
    assert mr.data.split_batches(tf.data.Dataset.range(10).batch(4), 2).cardinality() == 3
    data = tf.data.Dataset.range(12).batch(4, drop_remainder=True)
    split = mr.data.split_batches(data, 2)
    assert split.cardinality() == 3
    assert {key: spec.shape for key, spec in split.element_spec.items()} == {
        "part_0": (2,),
        "part_1": (2,),
    }


def test_several_inputs_are_split_together():
    data = tf.data.Dataset.from_tensor_slices({"ids": [1, 2, 3, 4], "mask": [0, 0, 1, 1]}).batch(4)
    (x,) = mr.data.split_batches(data, 2).as_numpy_iterator()
    assert x["part_1"]["ids"].tolist() == [3, 4]
    assert x["part_1"]["mask"].tolist() == [1, 1]


def test_the_largest_logits_of_a_cache_are_split(tmp_path, random):
    teacher = mr.models.get("convnet", num_classes=9, widths=(3,), input_shape=(6, 6, 1))
    images = random.normal(size=(4, 6, 6, 1)).astype("float32")
    data = mr.data.with_index(tf.data.Dataset.from_tensor_slices((images, np.arange(4)))).batch(4)
    cache = mr.data.TeacherCache(tmp_path, teacher, top_k=3)
    cache.fill(data)
    ((whole, _),) = cache.attach(data)
    ((x, _),) = mr.data.split_batches(cache.attach(data), 2)
    (expected,) = whole["teacher_outputs"].values()
    keys = sorted(x["teacher_outputs"])
    assert [key.rpartition("/")[2] for key in keys] == ["part_0", "part_1"]
    for name in ("logits", "indices"):
        parts = [getattr(x["teacher_outputs"][key]["logits"], name) for key in keys]
        np.testing.assert_array_equal(np.concatenate(parts), getattr(expected["logits"], name))


@pytest.mark.parametrize(
    ("data", "number", "error", "message"),
    [
        (tf.data.Dataset.range(4).batch(2), 1, ValueError, "number must be an integer of at least"),
        (tf.data.Dataset.range(4), 2, ValueError, "dataset must be a dataset of batches"),
        (np.zeros((4, 2)), 2, TypeError, "of dense tensors. Received: ndarray"),
        (
            tf.data.Dataset.from_tensors(tf.ragged.constant([[1], [2, 3]])),
            2,
            TypeError,
            "of dense tensors. Received: RaggedTensorSpec",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(data, number, error, message):
    with pytest.raises(error, match=message):
        mr.data.split_batches(data, number)
