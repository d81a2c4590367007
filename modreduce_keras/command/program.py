"""Program: reads the arguments of `modreduce`, and runs the subcommand that they name."""

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from modreduce_keras._version import __version__
from modreduce_keras.command import pages
from modreduce_keras.command.commands import (
    COMMANDS,
    DISTILL,
    METHODS,
    MODEL_FILE,
    NAME_OR_MODEL_FILE,
    Command,
)
from modreduce_keras.command.mistakes import FailedError, MistakeError, did_you_mean, one_line
from modreduce_keras.command.model_files import is_file, require_file

HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")
_ERRORS = 2
"""The process's error stream."""
DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str], *, before_work: Callable[[], None] = lambda: None) -> int:
    """Runs the command.

    Args:
        arguments: What stands behind `modreduce`.
        before_work: Called before anything that needs Keras is imported.

    Returns:
        The exit code: 0; 1 if a result is not good enough; 2 if the arguments, or what they name,
        cannot be used; 130 after Ctrl-C.
    """
    first = arguments[0] if arguments else "--help"
    if first in (*HELP, "help") and len(arguments) < 2:
        return _printed(pages.overview())
    if first == "--version":
        return _printed(f"modreduce_keras {__version__}")
    if first == "help":
        first, arguments = arguments[1], [arguments[1], "--help"]
    if first not in COMMANDS:
        known = ", ".join(COMMANDS)
        return _print_error(
            "modreduce",
            f"the first word must be one of {known}. Received: {first!r}."
            + did_you_mean(first, COMMANDS),
        )
    return _run(COMMANDS[first], list(arguments[1:]), before_work)


def parsed(command: Command, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the values of a subcommand's flags by name, and the words that are not flags.

    Raises:
        MistakeError: If a flag is unknown, missing or has a value that it cannot have.
    """
    values = command.flag_values()
    try:
        words = values(["modreduce", *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        names = [flag.name for flag in command.flags]
        suggestion = did_you_mean(error.flagname, names).replace("'", "--", 1).replace("'", "")
        raise MistakeError(f"there is no flag --{error.flagname}.{suggestion}") from error
    except flags.Error as error:
        raise MistakeError(f"{one_line(error).removeprefix('ERROR:: ').rstrip('.')}.") from error
    if words and not command.arguments:
        raise MistakeError(f"every argument is a flag, --name=value. Received: {words[0]!r}.")
    missing = [flag for flag in command.flags if flag.required and not values[flag.name].value]
    if missing:
        needed = " and ".join(f"--{flag.name}={flag.value}" for flag in missing)
        raise MistakeError(f"{needed} must be given.")
    return {flag.name: values[flag.name].value for flag in command.flags}, words


def require_model_files(command: Command, given: dict[str, Any]) -> None:
    """Raises if a saved model is not there; Keras, which loads it, takes seconds to import.

    Raises:
        MistakeError: If a file is missing or of another kind.
    """
    for flag in command.flags:
        value = given[flag.name]
        may_be_name = flag.value == NAME_OR_MODEL_FILE
        if value and (flag.value == MODEL_FILE or (may_be_name and is_file(value))):
            require_file(value, flag.name)


def _run(command: Command, arguments: list[str], before_work: Callable[[], None]) -> int:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if any(word in HELP for word in arguments[:end]):
        return _printed(pages.page(command))
    name = f"modreduce {command.name}"
    try:
        given, words = parsed(command, arguments)
    except MistakeError as error:
        return _print_error(name, f"{one_line(error)} {name} --help lists the flags.")
    try:
        if command is METHODS:
            from modreduce_keras.command import methods

            methods.run(given, words)
        else:
            require_model_files(command, given)
            with _quiet(given["traceback"]):
                before_work()
                work = importlib.import_module(f"modreduce_keras.command.{command.name}")
            work.run(given)
    except KeyboardInterrupt:
        more = " The same command continues." if command is DISTILL else ""
        return _print_error(name, f"interrupted.{more}", INTERRUPTED)
    except BrokenPipeError:
        return _unread()
    except FailedError as error:
        return _print_error(name, one_line(error), FAILED)
    except (MistakeError, ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        if given["traceback"]:
            raise
        return _print_error(name, one_line(error))
    return DONE


@contextlib.contextmanager
def _quiet(says_all: bool) -> Iterator[None]:
    """Keeps what TensorFlow writes for its developers from what people read.

    While it is imported it writes to the error stream itself, below Python.
    """
    if says_all:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    kept, nowhere = os.dup(_ERRORS), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _ERRORS)
    try:
        yield
    finally:
        os.dup2(kept, _ERRORS)
        os.close(kept)
        os.close(nowhere)


def _printed(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        return _unread()
    return DONE


def _unread() -> int:
    """Ends without an error where the reader of the output has left, as in `... | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE


def _print_error(name: str, message: str, code: int = MISTAKE) -> int:
    print(f"{name}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
