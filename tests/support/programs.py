"""Runs programs in processes that begin with the library imported, which takes seconds otherwise.

A server, which imports it once, forks for each program. Their steps run a few times, so their
graphs stay as they are traced. For what happens before or while the library is imported, start
`sys.executable` instead.
"""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import tracing

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["modreduce_keras", "tests.support.before_forks"])


def free_ports(number: int) -> list[int]:
    """Returns ports of this machine that nothing listens on, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Program:
    """A program that runs.

    Args:
        program: The path of a file, as in `python FILE`, or the name of a module, as in
            `python -m MODULE`.
        *arguments: What follows on the command line.
        folder: Where it runs, this process's own folder unless given.
        environment: Variables beside those of this process.
    """

    def __init__(
        self,
        program: Path | str,
        *arguments: object,
        folder: Path | str | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.command = [str(program), *map(str, arguments)]
        self._place = tempfile.TemporaryDirectory()
        self._streams = [Path(self._place.name) / name for name in ("stdout", "stderr")]
        for file in self._streams:
            file.touch()
        variables = {**os.environ, **(environment or {})}
        given = (isinstance(program, Path), self.command, str(folder or Path.cwd()), variables)
        self._process = processes.Process(target=_become, args=(*given, self._streams))
        self._process.start()

    @property
    def pid(self) -> int | None:
        """The number of its process."""
        return self._process.pid

    def is_running(self) -> bool:
        """Returns whether it has not ended."""
        return self._process.is_alive()

    def ended(self, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        """Waits for its end; returns its exit code and what it has written.

        Raises:
            subprocess.TimeoutExpired: If it runs for more seconds than `timeout`. It is killed.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.command, timeout)
        texts = [file.read_text("utf-8") for file in self._streams]
        self._place.cleanup()
        return subprocess.CompletedProcess(self.command, self._process.exitcode, *texts)

    def kill(self) -> None:
        """Ends it if it still runs."""
        self._process.kill()
        self._process.join()
        self._place.cleanup()


def run(
    program: Path | str,
    *arguments: object,
    folder: Path | str | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end; see `Program`."""
    return Program(program, *arguments, folder=folder).ended(timeout)


def printed(
    program: Path | str, *arguments: object, folder: Path | str | None = None, timeout: float = 600
) -> str:
    """Runs a program that must end well, and returns what it prints."""
    done = run(program, *arguments, folder=folder, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _become(
    is_file: bool,
    command: list[str],
    folder: str,
    environment: dict[str, str],
    streams: list[Path],
) -> None:
    """Makes this process the one that the program runs in, and runs it."""
    for number, file in enumerate(streams, start=1):
        os.dup2(os.open(file, os.O_WRONLY), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tracing.leave_graphs_as_they_are()
    sys.argv = command
    if is_file:
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")
    else:
        sys.path.insert(0, folder)
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
