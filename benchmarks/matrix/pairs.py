"""Pairs: which layers `mr.models.pair` proposes to compare for each architecture as a student.

The teacher is a ResNet50V2 for images of the same size, or a BERT of four blocks; networks on time
series have one like themselves. Only the structure counts, so that the weights are random and
nothing runs.

    python -m benchmarks.matrix.pairs
    python -m benchmarks.matrix.pairs --architecture=MobileNetV2
"""

import functools
import shlex
from pathlib import Path
from typing import Any

import keras
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common
from benchmarks.matrix.architectures import ARCHITECTURES, Architecture
from benchmarks.matrix.hub import CLASSES, bert

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("architecture", [], "Names; all of them unless given")
flags.DEFINE_string("output", str(common.RESULTS / "model_pairs.jsonl"), "Rows go here")


@functools.cache
def teacher_for(kind: str, size: int) -> keras.Model:
    """Returns the teacher of an architecture."""
    if kind == "text":
        return bert(None, num_layers=4)
    return keras.applications.ResNet50V2(
        weights=None, input_shape=(size, size, 3), classes=CLASSES, classifier_activation=None
    )


def measured(name: str, architecture: Architecture) -> dict[str, Any]:
    """Returns the row of an architecture."""
    student = architecture.build(None)
    if architecture.kind == "series":
        teacher = architecture.build(None)
    else:
        teacher = teacher_for(architecture.kind, architecture.size)
    row: dict[str, Any] = {"architecture": name, "teacher": teacher.name}
    row["ends"] = {one.ends: one.path for one in mr.models.taps(student) if one.ends}
    for kind in ("feature", "relation", "response"):
        try:
            row[kind] = [one._asdict() for one in mr.models.pair(teacher, student, kind)]
        except ValueError as error:
            row[f"{kind}_error"] = str(error)
    return row


def main(_) -> None:
    for name in FLAGS.architecture or ARCHITECTURES:
        row = {**measured(name, ARCHITECTURES[name]), **common.metadata(0)}
        row["command"] = shlex.join(["python", "-m", "benchmarks.matrix.pairs"])
        common.append_rows(Path(FLAGS.output), [row])
        print(
            name, [(one["student"], one["teacher"]) for one in row.get("feature", [])], flush=True
        )
        keras.backend.clear_session()


if __name__ == "__main__":
    app.run(main)
