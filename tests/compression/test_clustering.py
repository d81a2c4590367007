"""Clustered students: k-means, gradients and updates against loops in NumPy, saving, devices."""

import gzip

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr
from modreduce_keras.compression.clustered_kernel import clusters_of

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense(**arguments):
    stack = [layers.Dense(8, name="hidden", **arguments), layers.Dense(3, name="logits")]
    return keras.Sequential([keras.Input((5,), name="x"), *stack])


def distilled(student, optimizer):
    distiller = mr.Distiller(student=student, teacher=dense(), knowledge=[mr.Response("kd")])
    distiller.compile(optimizer, LOSS)
    return distiller


@pytest.fixture
def data(random):
    return random.normal(size=(16, 5)).astype("float32"), np.arange(16) % 3


@pytest.mark.parametrize("clusters", [2, 5, 16])
def test_each_value_is_in_the_nearest_cluster_and_each_centroid_their_mean(clusters, random):
    values = random.normal(size=400).astype("float32")
    numbers, centroids = clusters_of(values, clusters)
    distances = np.abs(values[:, None] - centroids)
    np.testing.assert_array_equal(numbers, distances.argmin(axis=1))
    means = [values[numbers == one].astype("float64").mean() for one in range(clusters)]
    np.testing.assert_allclose(centroids, means, rtol=1e-6)


def test_a_clone_with_new_weights_has_clusters_of_its_own():
    clone = keras.models.clone_model(mr.cluster(dense(), 4))
    for layer in clone.layers:
        kernel, used = np.asarray(layer.layer.kernel), np.asarray(layer.used_kernel())
        ends = np.linspace(kernel.min(), kernel.max(), 5)
        interval = np.minimum(np.digitize(kernel, ends[:-1]) - 1, 3)
        first = {one: kernel.ravel()[(interval.ravel() == one).argmax()] for one in range(4)}
        np.testing.assert_allclose(used, np.vectorize(first.get)(interval), rtol=1e-6)


def test_few_values_are_their_own_clusters():
    numbers, centroids = clusters_of(np.array([3.0, -1.0, 3.0, 0.5], "float32"), 5)
    np.testing.assert_array_equal(centroids[numbers], [3.0, -1.0, 3.0, 0.5])


def test_zeros_are_a_cluster_of_their_own_where_they_are_kept(random):
    values = np.where(random.random(200) < 0.5, random.normal(size=200) * 0.01, 0.0)
    numbers, centroids = clusters_of(values.astype("float32"), 4, keep_zeros=True)
    np.testing.assert_array_equal(numbers == 0, values == 0)
    assert centroids[0] == 0
    assert set(numbers) == {0, 1, 2, 3}
    assert not clusters_of(np.zeros(3, "float32"), 4, keep_zeros=True)[0].any()


@pytest.mark.usefixtures("eagerly")
def test_a_step_moves_centroids_by_the_sum_over_their_weights(data):
    x, y = data
    student = keras.Sequential([keras.Input((5,)), layers.Dense(3, use_bias=False, name="logits")])
    clustered = mr.cluster(student, 4)
    layer = clustered.get_layer("logits")
    numbers, centroids = clusters_of(student.get_weights()[0].ravel(), 4)
    centroids, velocity = centroids.astype("float64"), 0.0
    clustered.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
    for _ in range(4):
        powers = np.exp(x @ centroids[numbers].reshape(5, 3))
        error = powers / powers.sum(1, keepdims=True) - np.eye(3)[y]
        sums = np.bincount(numbers, (x.T @ error / 16).ravel(), 4)
        velocity = 0.9 * velocity - 0.1 * sums
        centroids = centroids + velocity
        clustered.train_on_batch(x, y)
        np.testing.assert_allclose(layer.used_kernel(), centroids[numbers].reshape(5, 3), atol=1e-6)
        np.testing.assert_array_equal(layer.layer.kernel, layer.used_kernel())


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "sgd"])
def test_no_optimizer_makes_more_values(optimizer, data):
    student = dense()
    kernel = student.get_layer("hidden").kernel
    kernel.assign(np.where(np.abs(kernel) < 0.3, 0.0, kernel))
    zeros = np.asarray(kernel) == 0
    clustered = mr.cluster(student, 4, keep_zeros=True)
    distiller = distilled(clustered, optimizer)
    for _ in range(3):
        distiller.train_on_batch(*data)
    plain = mr.strip(clustered)
    for name in ("hidden", "logits"):
        assert len(np.unique(plain.get_layer(name).kernel)) <= 4
    np.testing.assert_array_equal(np.asarray(plain.get_layer("hidden").kernel) == 0, zeros)
    assert "modreduce" not in plain.to_json()
    np.testing.assert_array_equal(plain(data[0]), clustered(data[0]))


@pytest.mark.usefixtures("eagerly")
def test_a_file_holds_the_clusters_and_training_goes_on(data, tmp_path):
    clustered = mr.cluster(dense(kernel_constraint=keras.constraints.NonNeg()), 4)
    clustered.compile(keras.optimizers.SGD(0.05, momentum=0.9), LOSS)
    clustered.train_on_batch(*data)
    clustered.save(tmp_path / "student.keras")
    again = keras.models.load_model(tmp_path / "student.keras")
    for model in (clustered, again):
        model.train_on_batch(*data)
    for own, expected in zip(again.get_weights(), clustered.get_weights(), strict=True):
        np.testing.assert_array_equal(own, expected)
    assert (np.asarray(again.get_layer("hidden").layer.kernel) >= 0).all()


@pytest.mark.usefixtures("eagerly")
def test_a_training_that_is_resumed_is_the_one_that_was_not_stopped(data, tmp_path):
    def run(epochs, folder):
        keras.utils.set_random_seed(1)
        distiller = distilled(mr.cluster(dense(), 4), keras.optimizers.Adam(0.05))
        batches = tf.data.Dataset.from_tensor_slices(data).batch(8)
        resume = mr.callbacks.Resume(folder)
        distiller.fit(batches, epochs=epochs, callbacks=[resume], shuffle=False, verbose=0)
        return distiller.student.get_weights()

    expected = run(2, tmp_path / "whole")
    run(1, tmp_path / "parts")
    for own, other in zip(run(2, tmp_path / "parts"), expected, strict=True):
        np.testing.assert_array_equal(own, other)


def test_two_replicas_train_as_one(two_replicas, data):
    def run(scope):
        keras.utils.set_random_seed(1)
        with scope:
            distiller = distilled(mr.cluster(dense(), 4), keras.optimizers.SGD(0.05))
        batches = tf.data.Dataset.from_tensors(data).repeat(3)
        distiller.fit(batches, shuffle=False, verbose=0)
        return distiller.student.get_weights()

    expected = run(tf.distribute.get_strategy().scope())
    for own, other in zip(run(two_replicas.scope()), expected, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-6)


@pytest.mark.usefixtures("mixed_float16", "eagerly")
def test_low_precision_trains_full_centroids(data):
    clustered = mr.cluster(dense(), 4)
    distiller = distilled(clustered, keras.optimizers.Adam(0.05))
    for _ in range(2):
        distiller.train_on_batch(*data)
    hidden = clustered.get_layer("hidden")
    assert hidden.layer.kernel.dtype == "float32"
    assert len(np.unique(hidden.used_kernel())) == 4
    np.testing.assert_array_equal(mr.strip(clustered)(data[0]), clustered(data[0]))


def test_sizes_are_those_of_gzip(tmp_path):
    student = dense()
    content = b"".join(weights.tobytes() for weights in student.get_weights())
    assert mr.compression.gzipped_size(student) == len(gzip.compress(content, 9))
    pruned = mr.prune(student, 0.9)
    assert mr.compression.gzipped_size(pruned) == mr.compression.gzipped_size(mr.strip(pruned))
    (tmp_path / "file").write_bytes(content)
    assert mr.compression.gzipped_size(tmp_path / "file") == len(gzip.compress(content, 9))
    with pytest.raises(TypeError, match="source must be a Keras model or the path of a file"):
        mr.compression.gzipped_size(3)


MISTAKES = {
    "not built": (
        lambda: mr.compression.gzipped_size(keras.Sequential([keras.layers.Dense(2)])),
        r"source must be built.*keras\.Input\(shape\)",
    ),
    "one": (lambda: mr.cluster(dense(), 1), "clusters must be an integer of at least 2"),
    "zeros": (lambda: mr.cluster(dense(), keep_zeros=1), "keep_zeros must be True or False"),
    "pruned": (
        lambda: mr.cluster(mr.prune(dense())),
        r"must not be pruned or clustered yet: give its plain model, mr.strip\(student\)",
    ),
    "rounded": (lambda: mr.cluster(mr.quantize_aware(dense())), "must not be quantization-aware"),
    "rounded after": (
        lambda: mr.quantize_aware(mr.cluster(dense())),
        r"must not have clustered weights.*mr.strip\(student\).*'hidden' of type ClusteredKernel",
    ),
}


@pytest.mark.parametrize(("call", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_refused_with_what_was_meant(call, message):
    with pytest.raises(ValueError, match=message):
        call()
