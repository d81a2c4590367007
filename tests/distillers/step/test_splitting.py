"""Batches that are split into parts: every sample goes to one of them, with all that is its own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.distillers.step.splitting import keys_of_parts, split


def rows(sizes, number, indexed=False):
    """Returns the parts of batches of numbered samples of these sizes."""
    total = sum(sizes)
    x = np.arange(total * 2.0).reshape(total, 2)
    data = tf.data.Dataset.from_tensor_slices((x, np.arange(total), np.arange(total) / 10))
    data = mr.data.with_index(data) if indexed else data
    return [split(batch, keys_of_parts(number)) for batch in data.batch(sizes[0])]


@pytest.mark.parametrize("indexed", [False, True])
def test_samples_stay_together(indexed):
    found = rows([6, 6, 4], 2, indexed)
    assert [len(y["part_1"]) for _, y, _ in found] == [3, 3, 2]
    labels = []
    for x, y, w in found:
        for part in ("part_0", "part_1"):
            inputs = x["inputs"][part] if indexed else x[part]
            np.testing.assert_array_equal(inputs[:, 0], 2 * y[part])
            np.testing.assert_allclose(w[part], np.array(y[part]) / 10)
            if indexed:
                np.testing.assert_array_equal(x["sample_index"][part], y[part])
            labels += np.array(y[part]).tolist()
    assert labels == list(range(16))


def test_the_last_parts_are_filled_up_with_the_first_samples():
    parts = [[np.array(y[part]).tolist() for part in y] for _, y, _ in rows([7, 2], 3)]
    assert parts == [[[0, 1, 2], [3, 4, 5], [6, 0, 1]], [[7], [8], [7]]]


def test_sizes_that_are_known_stay_known():
    @tf.function
    def sizes(x):
        parts = split(x, keys_of_parts(2))
        return [one.shape[0] for one in parts.values()]

    assert [int(size) for size in sizes(tf.zeros((6, 2)))] == [3, 3]


def test_several_inputs_are_split_together_and_strings_too():
    x = {"ids": tf.constant([1, 2, 3, 4]), "text": tf.constant(["a", "b", "c", "d"])}
    parts, labels, weights = keras.utils.unpack_x_y_sample_weight(split((x,), keys_of_parts(2)))
    assert (labels, weights) == (None, None)
    assert parts["part_1"]["ids"].numpy().tolist() == [3, 4]
    assert parts["part_1"]["text"].numpy().tolist() == [b"c", b"d"]


def test_the_largest_logits_of_a_cache_are_split(tmp_path, random):
    teacher = mr.models.get("convnet", num_classes=9, widths=(3,), input_shape=(6, 6, 1))
    images = random.normal(size=(4, 6, 6, 1)).astype("float32")
    data = mr.data.with_index(tf.data.Dataset.from_tensor_slices((images, np.arange(4)))).batch(4)
    cache = mr.data.TeacherCache(tmp_path, teacher, top_k=3)
    cache.fill(data)
    ((whole, y),) = cache.attach(data)
    x, _ = split((whole, y), keys_of_parts(2))
    (expected,) = whole["teacher_outputs"].values()
    keys = sorted(x["teacher_outputs"])
    assert [key.rpartition("/")[2] for key in keys] == ["part_0", "part_1"]
    for name in ("logits", "indices"):
        parts = [getattr(x["teacher_outputs"][key]["logits"], name) for key in keys]
        np.testing.assert_array_equal(np.concatenate(parts), getattr(expected["logits"], name))
