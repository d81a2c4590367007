"""Tests of files that are there complete or not at all: order, errors, names, permissions."""

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from modreduce_keras import whole_files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("old", [None, b"old"])
def test_what_stood_there_stays_until_the_new_file_is_complete(old, tmp_path, monkeypatch):
    path, events = tmp_path / "model.bin", []
    if old:
        path.write_bytes(old)

    def fsync(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        size = None if is_folder else os.fstat(descriptor).st_size
        events.append((size, path.read_bytes() if path.exists() else None))

    monkeypatch.setattr(os, "fsync", fsync)
    with whole_files.writing(path) as file:
        for part in (b"in ", memoryview(b"several "), b"parts"):
            file.write(part)
    assert path.read_bytes() == b"in several parts"
    # All of the file before it takes its place, its folder after.
    assert events == [(16, old), (None, b"in several parts")]
    assert names(tmp_path) == ["model.bin"]


def test_an_unfinished_file_lies_beside_and_is_told_by_its_name(tmp_path):
    with whole_files.writing(tmp_path / "model.bin"):
        (name,) = names(tmp_path)
    assert name.startswith("model.bin.")
    assert name.endswith(whole_files.UNFINISHED) and len(name) > len("model.bin..unfinished")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_stays_of_a_file_that_an_error_interrupts(error, tmp_path):
    path = tmp_path / "model.bin"
    whole_files.write(path, b"old")

    def interrupted():
        with whole_files.writing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert (names(tmp_path), path.read_bytes()) == (["model.bin"], b"old")


def test_nothing_stays_of_a_file_on_a_full_disk(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        whole_files.write(tmp_path / "model.bin", b"new")
    assert names(tmp_path) == []


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        whole_files.write(tmp_path / "missing" / "model.bin", b"new")


def test_of_two_that_write_one_file_at_once_the_last_one_stays(tmp_path):
    path = tmp_path / "model.bin"
    with whole_files.writing(path) as first:
        first.write(b"first")
        whole_files.write(path, b"second")
        assert path.read_bytes() == b"second"
    assert (names(tmp_path), path.read_bytes()) == (["model.bin"], b"first")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_a_file_has_the_permissions_of_any_other(mask, tmp_path):
    before = os.umask(mask)
    try:
        whole_files.write(tmp_path / "model.bin", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model.bin").stat().st_mode) == 0o666 & ~mask


def test_folders_that_cannot_be_opened_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_DIRECTORY", raising=False)
    whole_files.write(tmp_path / "model.bin", b"new")
    assert (tmp_path / "model.bin").read_bytes() == b"new"


def folders(tmp_path, old):
    made, place = tmp_path / "beside" / "new", tmp_path / "place"
    for folder in (made, place)[: 1 + old]:
        folder.mkdir(parents=True)
        (folder / f"of {folder.name}").touch()
    return made, place


@pytest.mark.parametrize("old", [False, True])
def test_a_folder_takes_the_place_of_an_old_one(old, tmp_path):
    made, place = folders(tmp_path, old)
    whole_files.put_folder(made, place)
    assert names(place) == ["of new"]
    assert names(made.parent) == ["new.old"] * old


@pytest.mark.parametrize("old", [False, True])
def test_an_old_folder_stays_where_the_new_one_cannot_be_moved(old, tmp_path, monkeypatch):
    made, place = folders(tmp_path, old)
    replace = Path.replace

    def failing(self, target):
        if self == made:
            raise OSError("disk full")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="disk full"):
        whole_files.put_folder(made, place)
    assert place.exists() == old
    assert not old or names(place) == ["of place"]
    assert names(made.parent) == ["new"]


def test_an_error_without_a_name_gets_the_path(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as a full disk does
        with pytest.raises(OSError, match=r"File too large: '.*model\.bin'") as told:
            whole_files.write(tmp_path / "model.bin", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told.value.errno == errno.EFBIG
    assert names(tmp_path) == []
    with pytest.raises(OSError, match=r"^no number$"), whole_files.naming(tmp_path):
        raise OSError("no number")
    with pytest.raises(FileNotFoundError, match=r"'missing'$"), whole_files.naming(tmp_path):
        Path("missing").read_bytes()


@pytest.mark.parametrize("links", [True, False])
def test_of_several_that_create_a_file_one_does(links, tmp_path, monkeypatch):
    def link(*arguments):
        raise PermissionError(errno.EPERM, "no links")

    if not links:
        monkeypatch.setattr(os, "link", link)
    path = tmp_path / "cache.json"
    assert whole_files.create(path, b"first")
    assert not whole_files.create(path, b"second")
    assert (names(tmp_path), path.read_bytes()) == (["cache.json"], b"first")


@pytest.mark.parametrize("jump", [-1e6, 7200.0, 1e9])
def test_what_is_being_written_stays_whatever_the_clock_says(jump, tmp_path, monkeypatch):
    abandoned = tmp_path / "a.bin.1.unfinished"
    abandoned.touch()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + jump)
    with whole_files.writing(tmp_path / "model.bin") as file:
        file.write(b"half, ")
        whole_files.remove_abandoned(tmp_path)
        file.write(b"whole")
    assert (tmp_path / "model.bin").read_bytes() == b"half, whole"
    assert abandoned.exists() == (jump < 0)


def test_a_file_that_is_removed_before_it_is_locked_is_begun_again(tmp_path, monkeypatch):
    original, taken = whole_files._lock, []

    def late(file, **arguments):
        if not taken:
            taken.append(file.name)
            Path(file.name).unlink()
        return original(file, **arguments)

    monkeypatch.setattr(whole_files, "_lock", late)
    whole_files.write(tmp_path / "model.bin", b"new")
    assert taken and names(tmp_path) == ["model.bin"]


def test_nothing_is_removed_where_nothing_can_be_locked(tmp_path, monkeypatch):
    abandoned = tmp_path / "a.bin.1.unfinished"
    abandoned.touch()
    os.utime(abandoned, (0, 0))
    monkeypatch.setattr(whole_files, "fcntl", None)
    whole_files.remove_abandoned(tmp_path)
    whole_files.write(tmp_path / "model.bin", b"new")
    assert names(tmp_path) == ["a.bin.1.unfinished", "model.bin"]
