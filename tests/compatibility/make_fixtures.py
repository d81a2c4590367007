"""Writes the files of `test_old_files.py`; to be run with the version whose files they are to be.

git worktree add ../old VERSION
PYTHONPATH=../old:. python -P -m tests.compatibility.make_fixtures
"""

import shutil
import zipfile
from pathlib import Path

import numpy as np

from tests.support.trainings import old_trainings

HERE = Path(__file__).parent


def deflate(path):
    """Makes an archive as small as it can be; Keras leaves it as large as what is in it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def main():
    for name in old_trainings.MODELS:
        model = old_trainings.build(name, seed=1)
        validation = {"validation_data": old_trainings.images(), "verbose": 0}
        model.fit(old_trainings.batches(name), shuffle=False, **validation)
        model.save(HERE / f"{name}.keras")
        deflate(HERE / f"{name}.keras")
        np.savez_compressed(
            HERE / f"{name}.npz", **old_trainings.state(model), **old_trainings.answers(name, model)
        )
    for name in old_trainings.RUNS:
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        old_trainings.run(name, 1, folder, epochs=1)
        later = HERE / f"{name}, later"
        shutil.copytree(folder, later)
        model, history = old_trainings.run(name, 2, later, epochs=2)
        shutil.rmtree(later)
        histories = {f"history: {log}": np.float32(values) for log, values in history.items()}
        np.savez_compressed(HERE / f"{name}.npz", **old_trainings.state(model), **histories)


if __name__ == "__main__":
    main()
