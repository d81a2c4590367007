"""Where the time of a step of KD goes, by TensorFlow's profiler.

The operations of some steps are added up by the part of the step that they belong to (the teacher,
the student forward and backward, the losses, the optimizer, the wait for data) and by their kind
(convolutions and matrix products, batch normalizations, other operations). Milliseconds are those
of the operations themselves, which may run side by side: their sum can exceed the time that a step
takes. What remains of a step in which no operation runs at all is told as "gaps".

By `--policy`, teacher and student compute in float32, or in bfloat16; with `--plain` the step runs
as Keras' layers do, without fused batch normalizations and with the teacher as given.

    python -m benchmarks.speed.profile_step
    python -m benchmarks.speed.profile_step --policy=mixed_bfloat16
    python -m benchmarks.speed.profile_step --plain
    python -m benchmarks.speed.profile_step --pair=ResNet50:MobileNetV2:0.35 --size=96
"""

import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common, networks

FLAGS = flags.FLAGS
flags.DEFINE_string("pair", "resnet56:resnet20", "As in `step_overhead`")
flags.DEFINE_integer("size", 32, "Height and width of the images", lower_bound=32)
flags.DEFINE_enum("policy", "float32", ["float32", "mixed_bfloat16"], "What both compute in")
flags.DEFINE_bool("plain", False, "As Keras' layers run: nothing fused, nothing folded")
flags.DEFINE_integer("batch", 64, "Images in a batch", lower_bound=2)
flags.DEFINE_integer("steps", 20, "Steps that are profiled", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of weights and images")
flags.DEFINE_string("output", str(common.RESULTS / "profile_step.jsonl"), "Rows go here")

CLASSES = 100
GAPS = "gaps"
PARTS = {
    "teacher": re.compile(r"(^|/)teacher(_\d+)?/"),
    "student, backward": re.compile(r"(^|/)gradient_tape/student(_\d+)?/|(^|/)AddN(_\d+)?$"),
    "student, forward": re.compile(r"(^|/)student(_\d+)?/"),
    "optimizer": re.compile(r"(^|/)sgd(_\d+)?/", re.IGNORECASE),
    "waiting for data": re.compile(r"IteratorGetNext"),
}
"""Parts of a step, by the names of operations; the first that fits. Others belong to `REST`."""
REST = "losses, metrics and the rest"
KINDS = {
    "convolutions and matrix products": re.compile(r"Conv|MatMul"),
    "batch normalizations": re.compile(r"BatchNorm"),
}
"""Kinds of operations, by their types; others are `OTHERS`."""
OTHERS = "other operations"
_FOLDED = {"float32": None, "mixed_bfloat16": "bfloat16"}
_OPERATION = re.compile(r"^([\w./-]+):(\w+)$")
_FUNCTIONS = ("StatefulPartitionedCall", "PartitionedCall", "While", "If")


class Event(NamedTuple):
    """One run of an operation: its name and type, and when it began and ended, seconds."""

    name: str
    type: str
    start: float
    end: float


def trained(rng: np.random.Generator) -> tuple[mr.Distiller, tf.data.Dataset]:
    """Returns a compiled distiller, and the batches of the steps."""
    keras.utils.set_random_seed(FLAGS.seed)
    keras.config.set_dtype_policy(FLAGS.policy)
    names = zip(("teacher", "student"), FLAGS.pair.split(":", maxsplit=1), strict=True)
    models = {
        role: networks.network(network, classes=CLASSES, size=FLAGS.size, name=role)
        for role, network in names
    }
    images = rng.normal(size=(FLAGS.batch, FLAGS.size, FLAGS.size, 3)).astype("float32")
    common.adopt_statistics(models["teacher"], images)
    distiller = mr.Distiller(
        **models,
        knowledge="kd",
        # Folding changes the rounding of bfloat16 by more than is taken for equal.
        teacher_dtype="as_given" if FLAGS.plain else _FOLDED[FLAGS.policy],
    )
    distiller.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        fused_normalization=not FLAGS.plain,
        jit_compile=False,
    )
    batch = images, rng.integers(CLASSES, size=FLAGS.batch)
    return distiller, tf.data.Dataset.from_tensors(batch).repeat(FLAGS.steps)


def profiled(distiller: mr.Distiller, dataset: tf.data.Dataset) -> list[Event]:
    """Returns the operations that run in an epoch, which is not the first one."""
    distiller.fit(dataset, shuffle=False, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        distiller.fit(dataset, shuffle=False, verbose=0)
        tf.profiler.experimental.stop()
        (path,) = Path(folder).rglob("*.xplane.pb")
        return list(operations(path))


def operations(path: Path) -> Iterator[Event]:
    """Yields the operations that a profile of TensorFlow's has."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    space.ParseFromString(path.read_bytes())
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                found = _OPERATION.match(plane.event_metadata[event.metadata_id].name)
                if found is None or found[2] in _FUNCTIONS:
                    continue
                start = line.timestamp_ns / 1e9 + event.offset_ps / 1e12
                yield Event(found[1], found[2], start, start + event.duration_ps / 1e12)


def part_of(event: Event) -> str:
    """Returns the part of a step that an operation belongs to."""
    fitting = (part for part, pattern in PARTS.items() if pattern.search(event.name))
    return next(fitting, REST)


def kind_of(event: Event) -> str:
    """Returns the kind of an operation."""
    fitting = (kind for kind, pattern in KINDS.items() if pattern.search(event.type))
    return next(fitting, OTHERS)


def covered(events: Iterable[Event]) -> float:
    """Returns for how many seconds at least one operation ran."""
    total, reached = 0.0, -np.inf
    for event in sorted(events, key=lambda event: event.start):
        total += max(0.0, event.end - max(event.start, reached))
        reached = max(reached, event.end)
    return total


def of_a_step(events: list[Event], steps: int) -> list[dict[str, Any]]:
    """Returns the milliseconds of each part and kind, of the gaps, and their shares of the sum."""
    found: dict[tuple[str, str], float] = {}
    for event in events:
        key = part_of(event), kind_of(event)
        found[key] = found.get(key, 0.0) + event.end - event.start
    span = max(event.end for event in events) - min(event.start for event in events)
    found[GAPS, ""] = span - covered(events)
    total = sum(found.values())
    order = [*PARTS, REST, GAPS]
    return [
        {
            "part": part,
            "kind": kind,
            "ms": round(1000 * seconds / steps, 3),
            "share": round(seconds / total, 4),
            "step_ms": round(1000 * span / steps, 3),
        }
        for (part, kind), seconds in sorted(found.items(), key=lambda one: order.index(one[0][0]))
    ]


def main(_: Any) -> None:
    distiller, dataset = trained(np.random.default_rng(FLAGS.seed))
    settings = {
        name: FLAGS[name].value for name in ("pair", "size", "policy", "plain", "batch", "steps")
    }
    rows = of_a_step(profiled(distiller, dataset), FLAGS.steps)
    about = common.metadata(FLAGS.seed)
    common.append_rows(Path(FLAGS.output), [{**about, **settings, **row} for row in rows])
    for row in rows:
        print(f"{row['ms']:8.2f} ms {100 * row['share']:5.1f} %  {row['part']}: {row['kind']}")


if __name__ == "__main__":
    app.run(main)
