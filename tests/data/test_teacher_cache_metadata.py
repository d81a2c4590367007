"""Tests of what a teacher cache says of itself in files: damaged, of others, and mended."""

import errno
import json
import os
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.data import cache_metadata, shards
from tests.support.trainings.cached import SAMPLES, VIEWS, content, data, net, outputs_of

DAMAGES = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
    "zeros": lambda whole: bytes(len(whole)),
    "no text": lambda whole: b"\xff\xfe\x00",
    "a list": lambda whole: b"[]",
    "a number": lambda whole: b"3",
    "nothing in it": lambda whole: b"{}",
    "a key is missing": lambda whole: json.dumps(dict(list(json.loads(whole).items())[1:])),
    "wrong types": lambda whole: json.dumps(dict.fromkeys(json.loads(whole), True)),
    "impossible values": lambda whole: json.dumps(dict.fromkeys(json.loads(whole), -1)),
}


def damaged(path, damage):
    content = DAMAGES[damage](path.read_bytes())
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(damage, once, tmp_path):
    for name, read in (
        ("cache.json", cache_metadata.manifest),
        ("view-0001.complete", lambda folder: cache_metadata.size_of(folder, 1)),
    ):
        assert read(tmp_path) is None
        path = tmp_path / name
        path.write_bytes((once / name).read_bytes())
        assert read(tmp_path) == read(once)
        damaged(path, damage)
        with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is damaged\. cache\.fill"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("name", "damage"), [("cache.json", "cut"), ("view-0001.complete", "empty")]
)
def test_a_damaged_file_is_mended(name, damage, filled, make):
    before, path = content(filled.folder), filled.folder / name
    damaged(path, damage)
    with pytest.raises(
        ValueError, match=rf"^{re.escape(str(path))} is damaged\. cache\.fill\(data"
    ):
        make().attach(data())
    assert make().fill(data()) == 0
    assert content(filled.folder) == before
    make().attach(data())


def test_a_wrong_number_of_samples_is_named_and_mended(filled, make):
    number = 99
    before = content(filled.folder)
    (filled.folder / "view-0002.complete").write_text(json.dumps({"samples": number}))
    message = rf"view 2 has 12 samples of {number}\. cache\.fill.*view-0002\.complete holds"
    with pytest.raises(ValueError, match=message):
        make().attach(data())
    assert make().fill(data()) == 0
    assert content(filled.folder) == before


def other(teacher):
    made = net()
    made.set_weights([weight + 1e-3 for weight in teacher.get_weights()])
    return made


@pytest.mark.parametrize("damaged", [b"{", None], ids=["damaged", "missing"])
def test_shards_of_another_teacher_are_not_taken_over(damaged, filled, make, teacher):
    path = filled.folder / "cache.json"
    path.write_bytes(damaged) if damaged else path.unlink()
    before = content(filled.folder)
    message = r"is another one: by its view-\S+\.shard it differs in "
    with pytest.raises(ValueError, match=message + "teacher's weights"):
        make(other(teacher)).fill(data())
    with pytest.raises(ValueError, match=message + "shapes"):
        make(taps=[]).fill(data())
    with pytest.raises(ValueError, match=message + "dtypes"):
        make(dtype="float16").fill(data())
    with pytest.raises(ValueError, match=message + r"views \(3 in the cache, 2 now\)"):
        make(views=2).fill(data(augmentations=2))
    assert content(filled.folder) == before
    assert make().fill(data()) == 0


def test_a_shard_of_another_teacher_is_found_where_the_folder_says_otherwise(filled, make, teacher):
    one = shards.read(shards.paths(filled.folder)[0])
    shards.write(filled.folder, 0, one.samples, one.checksums, outputs_of(one), "another")
    with pytest.raises(ValueError, match=r"by its view-0000-\w+.shard it differs in teacher's"):
        make().attach(data())


def test_shards_that_do_not_say_whose_they_are_count_by_their_shapes(filled, make):
    for path in shards.paths(filled.folder):
        one = shards.read(path)
        path.unlink()
        shards.write(filled.folder, one.view, one.samples, one.checksums, outputs_of(one))
    (filled.folder / "cache.json").write_bytes(b"")
    assert make().fill(data()) == 0
    make().attach(data())


def test_a_full_disk_names_the_file(make, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*cache\.json'"):
            make().fill(data())
    original = os.fsync
    calls = []

    def later(descriptor):
        calls.append(1)
        (full if len(calls) > 4 else original)(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", later)
        with pytest.raises(OSError, match=r"No space left on device: '.*view-0000-\w+\.shard'"):
            make().fill(data())
    assert not list(make().folder.glob("*.unfinished"))
    make().fill(data())
    assert sum(len(shards.read(path).samples) for path in shards.paths(make().folder)) == 36


def changed_index(change):
    return data().map(lambda x, y: ({**x, "sample_index": change(x["sample_index"])}, y))


def test_an_index_of_any_size_below_the_limit_is_kept_apart(make):
    far = changed_index(lambda index: index + (2**40 - 3))
    cache = make()
    assert cache.fill(far) == VIEWS * SAMPLES
    found = np.unique(np.concatenate([shards.read(p).samples for p in shards.paths(cache.folder)]))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, np.arange(SAMPLES) + 2**40 - 3)
    cache.attach(far)
    with pytest.raises(ValueError, match=r"has no sample \d+: the data have others"):
        cache.attach(data())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index - 5, r"sample_index must lie from 0 to 2\*\*63 - 1. Received: \[-"),
        (lambda index: tf.cast(index, "float32"), "sample_index must be integers: tf.cast"),
    ],
    ids=["negative", "float"],
)
def test_an_index_that_is_none_is_refused(change, message, make):
    with pytest.raises(ValueError, match=message):
        make().fill(changed_index(change))


def test_a_dataset_that_comes_again_and_again_is_refused(make):
    message = r"dataset must end: dataset\.take\(n\)"
    with pytest.raises(ValueError, match=message + ".*never ends"):
        make().fill(data().repeat())
    hidden = tf.data.Dataset.zip(data().repeat()).filter(lambda x, y: True)
    endless = tf.data.Dataset.from_generator(
        lambda: iter(hidden), output_signature=hidden.element_spec
    )
    with pytest.raises(ValueError, match=message + ".* 12 indices, which come again and again"):
        make().fill(endless)


def test_an_empty_dataset_is_refused(make):
    with pytest.raises(ValueError, match=r"dataset must have samples\. Received: none"):
        make().fill(data().take(0))


WORDS = np.array(["a", "bc", "d é", "", "a" * 40, "e"], object)


def test_strings_are_found_by_what_they_say(tmp_path):
    lookup = keras.layers.StringLookup(vocabulary=["a", "bc", "e"], output_mode="one_hot")
    inputs = keras.Input((2,), dtype="string")
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(lookup(inputs)))
    teacher = keras.Model(inputs, outputs)
    x = np.stack([WORDS, WORDS[::-1]], axis=1)

    def train(x):
        return mr.data.with_index(tf.data.Dataset.from_tensor_slices(x)).batch(3)

    cache = mr.data.TeacherCache(tmp_path / "cache", teacher)
    assert cache.fill(train(x)) == len(x)
    assert cache.fill(train(x.astype("U"))) == 0
    attached = list(cache.attach(train(x)))
    given = [next(iter(batch["teacher_outputs"].values()))["logits"] for batch in attached]
    np.testing.assert_allclose(np.concatenate(given), teacher(tf.constant(x)), rtol=1e-5)
    swapped = x.copy()
    swapped[1, 0] = "cb"
    with pytest.raises(ValueError, match="sample 1 are not those that the teacher saw"):
        cache.attach(train(swapped))
