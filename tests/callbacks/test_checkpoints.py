"""Tests of checkpoint files: torn, altered, unfinished, on a full disk."""

import errno
import json
import os
import warnings

import numpy as np
import pytest

from modreduce_keras import whole_files
from modreduce_keras.callbacks import checkpoints
from modreduce_keras.callbacks.checkpoints import DamagedError, Folder, Position
from tests.support.trainings.resumable import (
    EPOCHS,
    different,
    interrupt,
    state,
    train,
    uninterrupted,
)


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = b""
    elif how == "flipped":
        content[len(content) // 2] ^= 1
    elif how == "checksum":
        content[-1] ^= 1
    elif how == "foreign":
        content = b"PK" + content
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "checksum", "foreign"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(how, tmp_path):
    expected, history = uninterrupted("light")
    interrupt(tmp_path, 2, 2)
    damage(Folder(tmp_path, 3).file(Position(2, 0)), how)
    message = "continues from an earlier one, epoch-000001-step-000000000.*epoch-000002-.*is a file"
    with pytest.warns(UserWarning, match=message):
        model, resumed = train("light", 2, tmp_path, EPOCHS)
    assert different(state(model), expected) == []
    assert resumed == history
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what was damaged has been written again
        Folder(tmp_path, 3).read(Position(2, 0))


def test_a_checkpoint_of_every_length_but_its_own_is_damaged(tmp_path):
    folder = Folder(tmp_path, 3)
    folder.write(Position(0, 1), {"a": 1}, [("x", np.arange(3, dtype="int8"))])
    path = folder.file(Position(0, 1))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedError, match=f"a file of {length} bytes"):
            folder.read(Position(0, 1))
    path.write_bytes(content)
    manifest, arrays = folder.read(Position(0, 1))
    assert (manifest["a"], bytes(arrays["x"])) == (1, b"\0\1\2")


def files(folder):
    """Returns the names of a folder's files but for the lock."""
    return {path.name for path in folder.iterdir()} - {"lock"}


def test_no_readable_checkpoint_is_an_error_not_a_new_beginning(tmp_path):
    interrupt(tmp_path, 1, 1)
    damage(Folder(tmp_path, 3).file(Position(1, 0)), "cut")
    with pytest.raises(ValueError, match=r"None of the checkpoints in .*To start again, remove"):
        train("light", 2, tmp_path, EPOCHS)


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path):
    path = Folder(tmp_path, 3).file(Position(9, 0))
    with whole_files.writing(path) as file:
        file.write(b"torn")
        (unfinished,) = tmp_path.iterdir()
    path.rename(unfinished)
    (tmp_path / "notes.txt").write_text("mine")
    train("light", 1, tmp_path, 1)
    assert files(tmp_path) == {"notes.txt", "epoch-000001-step-000000000.checkpoint"}


@pytest.fixture
def full_disk(monkeypatch):
    """Lets the n-th file fail when its bytes are to reach the disk, and all after it."""

    def fill(after):
        written = []

        def fsync(descriptor):
            written.append(descriptor)
            if len(written) > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", fsync)

    return fill


def test_a_full_disk_stops_training_and_leaves_what_was_there(full_disk, tmp_path):
    full_disk(after=2)  # a file and its folder
    message = "could not write .*epoch-000002-.*No space left.*whole: epoch-000001-"
    with pytest.raises(OSError, match=message) as caught:
        train("light", 1, tmp_path, EPOCHS)
    assert caught.value.errno == errno.ENOSPC
    assert files(tmp_path) == {"epoch-000001-step-000000000.checkpoint"}


def test_on_write_error_warn_trains_on(full_disk, tmp_path):
    full_disk(after=0)
    with pytest.warns(UserWarning, match=r"could not write .*No space left.*whole: none"):
        model, _ = train("light", 1, tmp_path, EPOCHS, on_write_error="warn")
    assert different(state(model), uninterrupted("light")[0]) == []
    assert files(tmp_path) == set()


def test_the_file_is_json_and_bytes_only(tmp_path):
    model, history = train("light", 1, tmp_path, 1)
    content = Folder(tmp_path, 3).file(Position(1, 0)).read_bytes()
    begin = len(checkpoints.MAGIC) + 8
    size = int.from_bytes(content[begin - 8 : begin], "little")
    manifest = json.loads(content[begin : begin + size])
    assert manifest["history"] == history
    assert manifest["optimizers"] == ["Adam"]
    values = [array.tobytes() for array in state(model)]
    assert content[begin + size : -32] == b"".join(values)
