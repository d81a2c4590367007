"""Workers: processes that run one step of a contender each time they are asked for one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
Prepared = tuple[dict[str, Any], Mapping[str, Callable[[], float]]]


class Worker:
    """The parent's side of a process with contenders.

    Args:
        command: What runs a program that calls `serve`, in the root of the repository.
        settings: What the program's function is called with; as JSON, the last argument.

    Attributes:
        about: What the worker says about itself.
        names: Its contenders.
    """

    def __init__(self, command: Sequence[str], settings: Mapping[str, Any]):
        self._command = list(command)
        self._process = subprocess.Popen(
            [*command, json.dumps(settings)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about, self.names = self._answer()

    def step(self, name: str) -> float:
        """Has a contender run one step, and returns the loss."""
        print(name, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Ends the process, if it has not ended."""
        self._process.communicate()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"{self._command} ended with {self._process.returncode}")
        return json.loads(line)


def serve(prepare: Callable[..., Prepared]) -> None:
    """Runs a worker until its parent has no more questions.

    Args:
        prepare: Takes the settings as keywords, and returns what there is to say and functions
            that run one step, return only when it is done, and return the loss, by name.
    """
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    about, contenders = prepare(**json.loads(sys.argv[1]))
    print(json.dumps([about, list(contenders)]), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(contenders[line.strip()]()), file=answers, flush=True)
