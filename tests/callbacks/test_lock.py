"""One process at a time trains with the folder of a run."""

import subprocess
import sys

import pytest
import resumable
from resumable import train

import modreduce_keras as mr
from modreduce_keras.callbacks import lock

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

pytestmark = pytest.mark.skipif(lock.fcntl is None, reason="no locks on this system")


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
