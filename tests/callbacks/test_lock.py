"""One process at a time trains with the folder of a run."""

import errno
import os
import subprocess
import sys

import pytest

import modreduce_keras as mr
from modreduce_keras import whole_files
from modreduce_keras.callbacks import lock
from modreduce_keras.callbacks.checkpoints import Folder, Position
from tests.support.trainings import resumable
from tests.support.trainings.resumable import train

# What another process does, without the library, whose import takes long.
HOLDER = """
import fcntl, os, sys, time
file = os.open(sys.argv[1] + "/lock", os.O_RDWR | os.O_CREAT)
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
os.ftruncate(file, 0)
os.write(file, str(os.getpid()).encode())
print("held", flush=True)
time.sleep(600)
"""

fcntl = pytest.importorskip("fcntl")


def test_another_process_is_refused_until_this_one_ends(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            message = rf"Another process \(number {holder.pid}\) trains with checkpoints in .*"
            with pytest.raises(ValueError, match=message):
                train("light", 1, tmp_path, 1)
        finally:
            holder.kill()
    train("light", 1, tmp_path, 1)
    assert len(list(tmp_path.glob("*.checkpoint"))) == 1


def test_the_same_process_goes_on_after_a_broken_run_and_lets_go_at_the_end(tmp_path):
    lock.acquire(tmp_path)  # as a fit does that an error ends
    train("light", 1, tmp_path, 1)
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as other:
        assert other.stdout.readline() == "held\n"
        other.kill()


def test_looking_at_a_checkpoint_locks_nothing(tmp_path):
    train("light", 1, tmp_path, 1)
    assert mr.callbacks.Resume(tmp_path).restore(resumable.light(1, True))
    assert tmp_path.resolve() not in lock._held


def test_what_another_process_writes_stays_when_a_checkpoint_is_looked_at(tmp_path):
    train("light", 1, tmp_path, 1)
    with whole_files.writing(Folder(tmp_path, 3).file(Position(2, 0))) as file:
        before = set(tmp_path.iterdir())
        assert mr.callbacks.Resume(tmp_path).restore(resumable.light(1, True))
        Folder(tmp_path, 3).remove_unfinished()
        assert set(tmp_path.iterdir()) == before
        file.write(b"whole")
    assert Folder(tmp_path, 3).file(Position(2, 0)).read_bytes() == b"whole"


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    opened = []

    def flock(descriptor, operation):
        opened.append(descriptor)
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    owner = lock.acquire(tmp_path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])
    lock.release(tmp_path, owner)
    train("light", 1, tmp_path, 1)
    assert len(list(tmp_path.glob("*.checkpoint"))) == 1
