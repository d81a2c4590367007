"""Tests of the teacher cache: what is stored and read back."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.data import cifar, shards
from tests.support.trainings.cached import (
    BATCH,
    IMAGES,
    SAMPLES,
    VIEWS,
    batches,
    content,
    data,
    lesson,
    outputs_of,
)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_batch_has_what_the_teacher_gives_for_its_inputs(make, teacher, dtype):
    cache = make(dtype=dtype)
    cache.fill(data())
    run = tf.function(mr.TapReader(teacher, ["stage2"]))
    train = cache.attach(data())
    for epoch in range(2 * VIEWS):
        for batch, plain in zip(batches(train, epoch), batches(data(), epoch), strict=True):
            np.testing.assert_array_equal(batch[0]["inputs"], plain[0]["inputs"])
            np.testing.assert_array_equal(batch[0]["sample_index"], plain[0]["sample_index"])
            np.testing.assert_array_equal(batch[1], plain[1])
            expected = run(plain[0]["inputs"])
            exact = expected.logits.numpy(), expected.features["stage2"].numpy()
            for stored, values in zip(lesson(batch), exact, strict=True):
                assert stored.dtype == np.float32
                if dtype == "float16":
                    # Half the distance of two numbers of 11 bits, or of the smallest ones.
                    bound = np.maximum(np.abs(values) * 2.0**-11, 2.0**-25)
                    assert (np.abs(stored - values) <= bound + 1e-6 * np.abs(values)).all()
                    np.testing.assert_array_equal(stored, stored.astype("float16"))
                else:
                    np.testing.assert_allclose(stored, values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("taps", [[], ["stage1"], ["embedding", "stage1"], None])
def test_only_the_taps_asked_for_are_read(make, taps):
    cache = make(taps=["stage2", "stage1", "embedding"])
    cache.fill(data())
    whole, some = batches(cache.attach(data()), 1), batches(cache.attach(data(), taps), 1)
    for batch, one in zip(whole, some, strict=True):
        (everything,), (given,) = (b[0]["teacher_outputs"].values() for b in (batch, one))
        np.testing.assert_array_equal(given["logits"], everything["logits"])
        assert set(given["features"]) == set(cache.taps if taps is None else taps)
        for tap, values in given["features"].items():
            np.testing.assert_array_equal(values, everything["features"][tap])


def open_files(path):
    """Returns how often a file is open in this process."""
    links = list(Path("/proc/self/fd").iterdir())
    return sum(link.exists() and link.resolve() == path.resolve() for link in links)


@pytest.mark.parametrize("taps", ["stage2", ["stage1"]])
def test_taps_that_are_not_in_the_cache_are_refused(filled, taps):
    with pytest.raises(ValueError, match=r"taps that are in the cache, \['stage2'\]. Received: ta"):
        filled.attach(data(), taps)


def test_a_file_is_open_once_however_often_it_is_read(filled):
    path = shards.paths(filled.folder)[0]
    one, other = shards.read(path), shards.read(path)
    assert open_files(path) == 1
    for own, same in zip(outputs_of(one), outputs_of(other), strict=True):
        np.testing.assert_array_equal(own, same)


def test_views_differ_and_come_again(filled):
    train = filled.attach(data())

    def logits(epoch):
        found = {}
        for batch in batches(train, epoch):
            found |= dict(zip(batch[0]["sample_index"].numpy(), lesson(batch)[0], strict=True))
        return np.stack([found[sample] for sample in range(SAMPLES)])

    views = [logits(epoch) for epoch in range(2 * VIEWS)]
    for epoch in range(VIEWS):
        np.testing.assert_array_equal(views[epoch], views[epoch + VIEWS])
        assert (np.abs(views[epoch] - views[(epoch + 1) % VIEWS]) > 1e-4).any(axis=1).all()


def test_a_view_is_found_by_what_it_looks_like_whatever_epoch_is_counted(filled):
    train = data()
    next(iter(train))  # a look, which counts as an epoch outside of fit
    attached = filled.attach(train)
    assert len(list(attached)) == SAMPLES // BATCH


def test_filling_again_runs_nothing_and_changes_nothing(filled, make):
    before = content(filled.folder)
    assert make().fill(data()) == 0
    assert content(filled.folder) == before


def test_shards_have_the_size_asked_for_and_hold_every_sample_once(filled):
    read = [shards.read(path) for path in shards.paths(filled.folder)]
    assert [len(shard.samples) for shard in read if shard.view == 0].count(5) == 2
    for view in range(VIEWS):
        own = [shard.samples for shard in read if shard.view == view]
        assert sorted(map(len, own)) == [2, 5, 5]
        assert sorted(np.concatenate(own)) == list(range(SAMPLES))


def test_float16_takes_half_the_space(filled, teacher, tmp_path):
    other = mr.data.TeacherCache(
        tmp_path / "half", teacher, taps=["stage2"], views=VIEWS, shard_size=5, dtype="float16"
    )
    other.fill(data())
    sizes = [
        sum(
            output.nbytes
            for path in shards.paths(folder)
            for output in outputs_of(shards.read(path))
        )
        for folder in (filled.folder, other.folder)
    ]
    per_sample = 3 + int(np.prod(teacher.get_layer("stage2").output.shape[1:]))
    assert sizes == [VIEWS * SAMPLES * per_sample * size for size in (4, 2)]


def test_rows_are_written_as_soon_as_a_shard_is_full(make, monkeypatch):
    held = []
    cache = make(taps=[])
    original = shards.write

    def write(*arguments):
        held.append(len(arguments[2]))
        original(*arguments)

    monkeypatch.setattr(shards, "write", write)
    cache.fill(data(batch=2))
    assert held == [5, 5, 2] * VIEWS


def test_inputs_may_be_several_and_elements_without_labels(tmp_path):
    inputs = {name: keras.Input((2,), name=name) for name in ("a", "b")}
    outputs = keras.layers.Dense(3)(keras.layers.Concatenate()(list(inputs.values())))
    x = {name: np.random.default_rng(1).normal(size=(6, 2)).astype("float32") for name in inputs}
    train = mr.data.with_index(tf.data.Dataset.from_tensor_slices(x)).batch(3)
    model = keras.Model(inputs, outputs)
    cache = mr.data.TeacherCache(tmp_path, model)
    assert cache.fill(train) == 6
    given = [next(iter(batch["teacher_outputs"].values())) for batch in cache.attach(train)]
    logits = np.concatenate([one["logits"] for one in given])
    np.testing.assert_allclose(logits, model(x), rtol=1e-5)


def test_augmentations_of_epoch_shuffle_belong_to_the_sample_and_come_again():
    def by_sample(epoch):
        pairs = [
            (int(place), image)
            for batch in batches(data(), epoch)
            for place, image in zip(
                batch[0]["sample_index"], batch[0]["inputs"].numpy(), strict=True
            )
        ]
        return [place for place, _ in pairs], np.stack([i for _, i in sorted(pairs, key=first)])

    def first(pair):
        return pair[0]

    orders, images = zip(*(by_sample(epoch) for epoch in range(VIEWS + 1)), strict=True)
    assert len(set(map(tuple, orders))) == VIEWS + 1
    np.testing.assert_array_equal(images[0], images[VIEWS])
    assert (images[0] != images[1]).mean() > 0.99
    noise = images[0] - IMAGES
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.4
    # The order is the one without them.
    plain = [int(i) for x, _ in batches(data(augmentations=None), 0) for i in x["sample_index"]]
    assert orders[0] == plain


def test_cifar100_comes_with_its_views(make, monkeypatch):
    images = np.random.default_rng(2).integers(0, 256, (200, 32, 32, 3), dtype="uint8")
    labels = np.repeat(np.arange(100), 2)
    monkeypatch.setattr(cifar, "_load", lambda part, data_dir, download: (images, labels))

    def train(**arguments):
        return mr.data.cifar100(index=True, validation=100, batch_size=50, **arguments)

    layers = [keras.layers.AveragePooling2D(8), keras.layers.Flatten(), keras.layers.Dense(100)]
    model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
    cache = make(model, taps=[], views=2)
    with pytest.raises(ValueError, match=r"come again after 2 epochs.*cifar100\(augmentations=2\)"):
        cache.fill(train())
    assert cache.fill(train(augmentations=2)) == 0
    for batch in batches(cache.attach(train(augmentations=2)), 3):
        (given,) = batch[0]["teacher_outputs"].values()
        np.testing.assert_allclose(given["logits"], model(batch[0]["inputs"]), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="seed or number of augmentations have changed"):
        cache.attach(train(augmentations=2, seed=1))


def test_the_config_gives_an_equal_cache(filled):
    config = filled.get_config()
    again = mr.data.TeacherCache.from_config(json.loads(json.dumps(config)))
    again.teacher.set_weights(filled.teacher.get_weights())
    configs = [{**one, "teacher": None} for one in (again.get_config(), config)]
    assert configs[0] == configs[1]
    assert again.fingerprint() == filled.fingerprint()
