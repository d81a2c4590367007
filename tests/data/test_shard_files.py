"""Tests of shard files: what changes under their readers is told, and few of them stay open."""

import os
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from modreduce_keras.data import shard_files, shards
from modreduce_keras.data.checksums import checksums_of
from modreduce_keras.data.shard_files import DamagedError, Piece

VALUES = np.arange(30, dtype="float32").reshape(10, 3)


@pytest.fixture
def shard(tmp_path):
    samples = np.arange(10)
    shards.write(tmp_path, 0, samples, samples.astype("uint64"), [VALUES, VALUES[:, 0]], "abc")
    (path,) = shards.paths(tmp_path)
    return shards.read(path)


def rows(shard, *samples):
    found = shards.Rows([shard], 1)
    return found.take(*found.find(np.array(samples), np.array(samples, "uint64")))


def test_rows_are_read_by_sample(shard):
    assert shard.teacher == "abc"
    vectors, numbers = rows(shard, 7, 2, 2)
    np.testing.assert_array_equal(vectors, VALUES[[7, 2, 2]])
    np.testing.assert_array_equal(numbers, VALUES[[7, 2, 2], 0])


def changed(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    times = path.stat()
    with path.open("rb+") as file:
        file.write(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if it had not been


CHANGES = {
    "a byte changed": changed,
    "cut": lambda path: os.truncate(path, path.stat().st_size - 4),
    "emptied": lambda path: os.truncate(path, 0),
    "replaced": lambda path: (path.rename(path.with_name("old")), path.write_bytes(b"other")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_is_changed_while_it_is_read_is_told(change, shard):
    rows(shard, 1)
    if change == "replaced":
        shard_files._kept.close(shard.path)  # who has it open, reads on in what was verified
    CHANGES[change](shard.path)
    with pytest.raises(
        DamagedError, match=r"\.shard has been changed, cut or removed .*cache\.fill"
    ):
        rows(shard, 1, 9)
    with pytest.raises(DamagedError):
        rows(shard, 9)


def test_a_damaged_row_is_told_and_no_other_is_lost(shard):
    changed(shard.path)
    vectors, numbers = rows(shards.read(shard.path), *range(9))
    np.testing.assert_array_equal(vectors, VALUES[:9])
    np.testing.assert_array_equal(numbers, VALUES[:9, 0])
    taken = shards.Rows([shard], 1).take(np.zeros(1, int), np.array([9]), chosen=[0])
    np.testing.assert_array_equal(taken[0], VALUES[[9]])
    for read in (lambda: rows(shard, 9), lambda: shards.verify(shard)):
        with pytest.raises(DamagedError, match=r"checksum of a row among bytes .* is wrong"):
            read()


@pytest.mark.parametrize("at", [0, 30, 200, 400])
def test_a_damaged_head_is_told_when_the_file_is_opened(at, shard):
    content = bytearray(shard.path.read_bytes())
    content[at] ^= 1
    shard.path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"checksum is wrong|in front of its rows"):
        shards.read(shard.path)


def test_a_file_that_is_removed_is_read_on_while_it_is_open_and_then_told(shard):
    shard.path.unlink()
    np.testing.assert_array_equal(rows(shard, 4)[0], VALUES[[4]])
    shard_files._kept.close(shard.path)
    with pytest.raises(DamagedError, match=r"removed since it was written .*No such file"):
        rows(shard, 4)


def test_what_only_looks_changed_is_verified_and_read_on(shard):
    content = shard.path.read_bytes()
    os.utime(shard.path)
    np.testing.assert_array_equal(rows(shard, 4)[0], VALUES[[4]])
    changed(shard.path)
    with pytest.raises(DamagedError):
        rows(shard, 9)
    shard.path.unlink()
    shard.path.write_bytes(content)  # as `fill` does
    np.testing.assert_array_equal(rows(shard, 9)[0], VALUES[[9]])


def test_what_is_verified_is_what_has_the_path_now(shard):
    content = shard.path.read_bytes()
    changed(shard.path)  # the file that is open
    shard.path.unlink()
    shard.path.write_bytes(content)
    np.testing.assert_array_equal(rows(shard, 9)[1], VALUES[[9], 0])
    np.testing.assert_array_equal(rows(shards.read(shard.path), 9)[1], VALUES[[9], 0])
    shard.path.unlink()
    shard.path.write_bytes(content[:-1])
    with pytest.raises(
        DamagedError, match=rf"has {len(content) - 1} bytes instead of {len(content)}"
    ):
        shards.read(shard.path)


def test_few_files_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_files, "_affordable", lambda: 3)
    for sample in range(8):
        shards.write(tmp_path, 0, np.array([sample]), np.array([sample], "uint64"), [VALUES[:1]])
    read = [shards.read(path) for path in shards.paths(tmp_path)]
    assert len(shard_files._kept._files) == 3
    found, every = shards.Rows(read, 1), np.arange(8)
    for _ in range(2):
        (values,) = found.take(*found.find(every, every.astype("uint64")))
        np.testing.assert_array_equal(values, VALUES[[0] * 8])
        assert len(shard_files._kept._files) == 3


def test_more_files_than_a_process_may_have_open(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 1
    for sample in range(60):
        shards.write(tmp_path, 0, np.array([sample]), np.array([sample], "uint64"), [VALUES[:1]])
    shard_files._kept._keep(0)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
        read = [shards.read(path) for path in shards.paths(tmp_path)]
        found, every = shards.Rows(read, 1), np.arange(60)
        (values,) = found.take(*found.find(every, every.astype("uint64")))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert values.shape == (60, 3)


def test_threads_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_files, "_affordable", lambda: 2)
    for sample in range(6):
        values = np.full((1, 500), sample, "float32")
        shards.write(tmp_path, 0, np.array([sample]), np.array([sample], "uint64"), [values])
    found = shards.Rows([shards.read(path) for path in shards.paths(tmp_path)], 1)
    wrong = []

    def read(seed):
        order = np.random.default_rng(seed).integers(0, 6, 300)
        (values,) = found.take(*found.find(order, order.astype("uint64")))
        if not (values == order[:, None]).all():
            wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_the_system_reads_in_parts_is_read_whole(shard, monkeypatch):
    def read_some(descriptor, begin, into, read=shard_files._read_some):
        return read(descriptor, begin, into[:7])

    monkeypatch.setattr(shard_files, "_read_some", read_some)
    again = shards.read(shard.path)
    np.testing.assert_array_equal(again.samples, np.arange(10))
    np.testing.assert_array_equal(rows(again, 7, 2)[0], VALUES[[7, 2]])
    content = np.zeros((1, 50), "uint8")
    size = shard.path.stat().st_size
    with pytest.raises(DamagedError, match="it ends before byte"):
        shard.file.read([Piece(size - 20, content, [0])])
    assert bytes(content[0, :20]) == shard.path.read_bytes()[-20:]


def test_rows_are_read_in_the_order_of_the_file(tmp_path, monkeypatch):
    order = np.random.default_rng(0).permutation(12)
    for own in (order[:6], order[6:]):
        shards.write(tmp_path, 0, own, own.astype("uint64"), [VALUES[:6], VALUES[:6, 0]])
    found = shards.Rows([shards.read(path) for path in shards.paths(tmp_path)], 1)
    places, original = [], shard_files._read_some

    def read_some(descriptor, begin, into):
        places.append((Path(f"/proc/self/fd/{descriptor}").readlink(), begin))
        return original(descriptor, begin, into)

    monkeypatch.setattr(shard_files, "_read_some", read_some)
    every = np.arange(12)
    found.take(*found.find(every, every.astype("uint64")))
    assert len(places) == 24
    assert places == sorted(places)


def test_outputs_of_bfloat16(tmp_path):
    values = tf.cast(VALUES, "bfloat16").numpy()
    shards.write(tmp_path, 0, np.arange(10), np.arange(10, dtype="uint64"), [values])
    (path,) = shards.paths(tmp_path)
    (found,) = rows(shards.read(path), 3, 1)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values[[3, 1]])


def farmhash(content):
    """FarmHash's 64-bit fingerprint of up to 16 bytes."""
    first, second, size = 0xC3A5C85C97CB3127, 0x9AE16A3B2F90404F, len(content)
    mask, mul = 2**64 - 1, second + 2 * size

    def mixed(value):
        return value ^ (value >> 47)

    def rotated(value, by):
        return (value >> by | value << (64 - by)) & mask

    def of_two(one, other):
        one = mixed((one ^ other) * mul & mask)
        return mixed((other ^ one) * mul & mask) * mul & mask

    def number(begin, end):
        return int.from_bytes(content[begin:end], "little")

    if size >= 8:
        one, other = number(0, 8) + second & mask, number(size - 8, size)
        a, b = rotated(other, 37) * mul + one, (rotated(one, 25) + other) * mul
        return of_two(a & mask, b & mask)
    if size >= 4:
        return of_two(size + 8 * number(0, 4), number(size - 4, size))
    if size:
        one = content[0] + 256 * content[size // 2]
        other = size + 4 * content[-1]
        return mixed((one * second ^ other * first) & mask) * second & mask
    return second


@pytest.mark.parametrize("shape", [(4,), (4, 0), (0, 3), (4, 1, 2)])
@pytest.mark.parametrize("dtype", ["float32", "bool", "int8", "complex64", "bfloat16"])
def test_checksums_are_those_of_the_bytes_of_a_sample(shape, dtype):
    array = tf.cast(tf.reshape(tf.range(1, np.prod(shape) + 1), shape), dtype)
    expected = [farmhash(one.tobytes()) for one in array.numpy()]
    assert checksums_of({"x": array}).numpy().tolist() == expected
    several = [b"".join(one.to_bytes(8, "little") for one in (first, first)) for first in expected]
    assert checksums_of([array, array]).numpy().tolist() == list(map(farmhash, several))


def test_every_bit_of_an_image_counts():
    random = np.random.default_rng(0)
    image = random.normal(size=(1, 224, 224, 3)).astype("float32")
    bits = random.choice(8 * image.nbytes, 63, replace=False)
    images = np.repeat(image, 64, axis=0)
    content = images.reshape(64, -1).view("uint8")
    content[np.arange(63), bits // 8] ^= (1 << bits % 8).astype("uint8")
    assert len(set(checksums_of(images).numpy().tolist())) == 64


@pytest.mark.parametrize("gap", [1, 3, 100, 2**40])
def test_samples_are_found_whatever_their_indices(gap, tmp_path):
    own = [gap * (7 + np.random.default_rng(seed).permutation(5 + seed)) for seed in range(2)]
    for view, samples in enumerate(own):
        number = len(samples)
        shards.write(tmp_path, view, samples, samples.astype("uint64") + view, [VALUES[:number]])
    read = [shards.read(path) for path in shards.paths(tmp_path)]
    found = shards.Rows(read, 2)
    np.testing.assert_array_equal(found.samples, np.unique(np.concatenate(own)))
    assert [found.count(view) for view in range(2)] == [5, 6]
    for view, samples in enumerate(own):
        number, row = found.find(samples, samples.astype("uint64") + view)
        np.testing.assert_array_equal(number, [view] * len(samples))
        np.testing.assert_array_equal(row, np.arange(len(samples)))
    others = np.array([0, 6 * gap, 13 * gap, 7 * gap + 1 if gap > 1 else 99])
    assert (found.find(others, others.astype("uint64"))[0] == -1).all()
