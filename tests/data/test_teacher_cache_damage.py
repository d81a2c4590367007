"""Tests of teacher caches that are damaged, unfinished, or filled by two processes at once."""

import os
import warnings

import pytest
import tensorflow as tf

from modreduce_keras.data import shards, teacher_cache
from modreduce_keras.data.cache_writer import readable_shards
from modreduce_keras.data.shard_files import DamagedError
from tests.support.trainings.cached import BATCH, SAMPLES, VIEWS, batches, content, data


def test_what_is_missing_is_computed_again_and_nothing_else(filled, make):
    expected = content(filled.folder)
    lost = [path for path in shards.paths(filled.folder) if path.name.startswith("view-0001")][1]
    size = len(shards.read(lost).samples)
    lost.unlink()
    with pytest.raises(ValueError, match=r"is not filled: view 1 has \d+ samples of 12. cache.fi"):
        make().attach(data())
    assert make().fill(data()) == size
    samples = [shards.read(path).samples for path in shards.paths(filled.folder)]
    assert sum(map(len, samples)) == VIEWS * SAMPLES
    assert expected.keys() - content(filled.folder).keys() <= {lost.name}


def test_a_damaged_shard_is_refused_then_computed_again(filled, make):
    path = shards.paths(filled.folder)[0]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    others = [shards.read(other).samples for other in shards.paths(filled.folder)[1:]]
    with pytest.raises(
        (DamagedError, tf.errors.InvalidArgumentError),
        match=rf"{path.name} has been changed, cut or removed .* checksum of a row .* is wrong",
    ):
        batches(make().attach(data()), 0)
    with pytest.warns(UserWarning, match="is wrong.*It is removed and computed again"):
        readable_shards(filled.folder)
    assert make().fill(data()) == VIEWS * SAMPLES - sum(map(len, others))
    make().attach(data())


def swapped(path, other):
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path, _: os.truncate(path, path.stat().st_size - 1), r" instead of \d+"),
        (lambda path, _: os.truncate(path, 100), "in front of its rows"),
        (lambda path, _: os.truncate(path, 0), "in front of its rows"),
        (lambda path, _: path.write_bytes(bytes(5000)), "whose checksum is wrong"),
        (swapped, "whose checksum is wrong"),
    ],
    ids=["cut", "cut in its head", "empty", "zeros", "swapped"],
)
def test_what_is_cut_or_swapped_is_told_by_attach(change, message, filled, make):
    paths = shards.paths(filled.folder)
    change(paths[0], paths[-1])
    with pytest.raises(DamagedError, match=rf"{paths[0].name} has \d+ bytes ?.*{message}"):
        make().attach(data())


def test_a_cache_of_an_earlier_version_is_named_and_left_alone(filled, make):
    path = shards.paths(filled.folder)[0]
    path.write_bytes(path.read_bytes().replace(b"shard 2", b"shard 1"))
    before = content(filled.folder)
    for use in (make().attach, make().fill):
        with pytest.raises(ValueError, match=r"\.shard was written by an earlier version"):
            use(data())
    assert content(filled.folder) == before


def test_a_damaged_shard_that_another_process_has_mended_stays(filled, monkeypatch):
    path = shards.paths(filled.folder)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    original = warnings.warn

    def mended(*arguments, **options):
        path.write_bytes(whole)

    monkeypatch.setattr(warnings, "warn", mended)
    assert path not in [shard.path for shard in readable_shards(filled.folder)]
    monkeypatch.setattr(warnings, "warn", original)
    assert path.read_bytes() == whole
    assert not list(filled.folder.glob("*.unfinished"))
    assert path in [shard.path for shard in readable_shards(filled.folder)]


def test_a_shard_that_vanishes_between_two_looks_is_computed_again(filled, make, monkeypatch):
    """Another process has removed it, once it had been counted."""
    lost, left = shards.paths(filled.folder)[0], [1]

    def vanishing(folder):
        found = readable_shards(folder)
        if left.pop() if left else False:
            lost.unlink()
        return found

    monkeypatch.setattr(teacher_cache, "readable_shards", vanishing)
    size = len(shards.read(lost).samples)
    assert make().fill(data()) == size
    assert lost.exists()


def test_a_shard_that_is_cut_while_training_reads_it_is_an_error_of_the_pipeline(filled):
    train = filled.attach(data())
    batches(train, 0)
    for path in shards.paths(filled.folder):
        os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\.shard has been changed, cut or"):
        batches(train, 0)


def test_files_that_a_killed_process_left_are_removed_after_an_hour(filled, make):
    old, new = (filled.folder / f"{name}.shard.7.unfinished" for name in ("old", "new"))
    old.touch(), new.touch()
    hour_ago = old.stat().st_mtime - 3700
    os.utime(old, (hour_ago, hour_ago))
    make().fill(data())
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.slow
def test_two_processes_that_fill_at_once_do_no_harm(make, monkeypatch):
    """The second one begins and ends while the first one writes its second shard."""
    original, calls = shards.write, []

    def write(*arguments):
        calls.append(1)
        if len(calls) == 2:
            make(shard_size=3).fill(data())
        original(*arguments)

    monkeypatch.setattr(shards, "write", write)
    make().fill(data())
    assert len(batches(make().attach(data()), 0)) == SAMPLES // BATCH


def test_other_data_are_refused_by_a_cache_that_is_not_full(make, monkeypatch):
    original = shards.write

    def full(folder, view, *rest):
        if view:
            raise OSError("no space")
        original(folder, view, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write", full)
        with pytest.raises(OSError, match="no space"):
            make().fill(data())
    first = next(iter(shards.paths(make().folder)))
    first.unlink()
    with pytest.raises(ValueError, match="not those that the teacher saw in any of 3 views"):
        make().fill(data(seed=6))


def test_a_cache_that_is_not_there_is_refused(make):
    with pytest.raises(ValueError, match=r"There is no cache in .*cache\.fill\(dataset\)"):
        make().attach(data())
    assert not make().folder.exists()


def test_a_view_that_was_not_ended_is_named(filled, make):
    (filled.folder / "view-0002.complete").unlink()
    with pytest.raises(ValueError, match="view 2 has 12 samples of a number unknown"):
        make().attach(data())
