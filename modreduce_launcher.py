"""Launcher of the command `modreduce`: reads flags and shows help before TensorFlow is imported.

Importing any module of `modreduce_keras` first runs the package's `__init__.py`, which imports
Keras and TensorFlow: seconds in which a help page could have been read. So the package is put in
its place here without being run, which is enough to import `modreduce_keras.command`, whose first
modules need neither. The package runs as soon as there is work for it.
"""

import importlib.util
import sys
from types import ModuleType

PACKAGE = "modreduce_keras"


def main() -> None:
    """Runs the command, and ends the process with its exit code."""
    package = None if PACKAGE in sys.modules else _not_run()
    from modreduce_keras.command import program

    sys.exit(program.main(sys.argv[1:], before_work=lambda: _run(package)))


def _not_run() -> ModuleType:
    """Returns the package as a module that has not been run."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed", name=PACKAGE)
    package = sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    return package


def _run(package: ModuleType | None) -> None:
    if package is not None and package.__spec__ is not None and package.__spec__.loader is not None:
        package.__spec__.loader.exec_module(package)


if __name__ == "__main__":
    main()
