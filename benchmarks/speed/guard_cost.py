"""Guard: what it costs that a step can be skipped, where the adapter has a large memory.

With `compile(on_nonfinite="skip")` a step whose loss or gradients are not finite leaves everything
as it was. For that a step keeps what it changes: of a memory bank the rows of its own samples. The
cost is therefore not to depend on the number of rows, and a step is to take at most 1.15 times as
long as without the guard.

Per kind of memory, in one process and taking turns: the step without the guard and with it, on the
same batch, from the same weights. Kinds:

- `memory`: CRD with two banks of an embedding for each sample, negatives shared by the batch;
- `queue`: CRD with two queues of the last embeddings, which each step reads and moves as a whole;
- `temporal`: temporal ensembling, with predictions for each sample.

The batch is a dataset in memory, and what `fit` runs for each batch is timed. Both have to give the
same weights before anything is timed. Ratios are taken within a round, then summarized. Run it with
nothing else on the machine:

    python -m benchmarks.speed.guard_cost
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum(
    "kind", ["memory", "queue", "temporal"], ["memory", "queue", "temporal"], "What has the memory"
)
flags.DEFINE_multi_integer("rows", [50_000, 640_000], "Rows of the memory", lower_bound=100)
flags.DEFINE_integer("negatives", 4096, "Negatives of the memory bank", lower_bound=1)
flags.DEFINE_integer("batch", 64, "Images in a batch", lower_bound=2)
flags.DEFINE_integer("rounds", 24, "Rounds, each with every contender", lower_bound=1)
flags.DEFINE_integer("steps", 2, "Steps of a contender in a round", lower_bound=1)
flags.DEFINE_string("student", "resnet20", "From mr.models; the teacher is another of them")
flags.DEFINE_integer("seed", 0, "Seed of weights and images")
flags.DEFINE_string("output", str(common.RESULTS / "guard_cost.jsonl"), "Rows go here")

CLASSES = 100
CONTENDERS = {"without the guard": None, "with the guard": "skip"}


def _crd(adapter: str, **arguments: Any) -> mr.Relation:
    adapter = mr.adapters.get(adapter, **arguments)
    return mr.Relation("crd", at="embedding", adapter=adapter, weight=0.8)


def distiller(kind: str, rows: int) -> Any:
    """Returns a distiller whose memory has so many rows."""
    student = mr.models.get(FLAGS.student, num_classes=CLASSES)
    if kind == "temporal":
        return mr.TemporalEnsembling(student, samples=rows)
    teacher = mr.models.get(FLAGS.student, num_classes=CLASSES, name="teacher")
    if kind == "queue":
        return mr.Distiller(
            student=student, teacher=teacher, knowledge=[_crd("contrastive_queue", negatives=rows)]
        )
    bank = {"samples": rows, "negatives": FLAGS.negatives, "sampling": "shared", "seed": 0}
    return mr.Distiller(
        student=student, teacher=teacher, knowledge=[_crd("contrastive_memory", **bank)]
    )


def batches(rows: int) -> tf.data.Dataset:
    """Returns one batch of images with labels and index, again and again."""
    random = np.random.default_rng(FLAGS.seed)
    images = random.normal(size=(FLAGS.batch, 32, 32, 3)).astype("float32")
    index = random.choice(rows, FLAGS.batch, replace=False)
    x = {"inputs": images, "sample_index": index}
    return tf.data.Dataset.from_tensors((x, random.integers(CLASSES, size=FLAGS.batch))).repeat()


def contenders(kind: str, rows: int) -> dict[str, tuple[Any, Callable[[], float]]]:
    """Returns the distiller and a function that runs one step, by the contender's name."""
    made, data = {}, batches(rows)
    for name, mode in CONTENDERS.items():
        keras.utils.set_random_seed(FLAGS.seed)
        model = distiller(kind, rows)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        model.compile(optimizer, loss, on_nonfinite=mode)
        train, iterator = model.make_train_function(), iter(data)
        # Reading a number from the logs waits for a device that computes asynchronously.
        made[name] = model, lambda run=train, it=iterator: float(run(it)["loss"])
    return made


def require_agreement(made: dict[str, tuple[Any, Callable[[], float]]]) -> None:
    """Runs two steps of both and raises unless they train alike.

    Raises:
        RuntimeError: If their losses differ, so that a comparison of times would mean nothing.
    """
    for _ in range(2):
        losses = {name: step() for name, (_, step) in made.items()}
        if not np.isfinite(list(losses.values())).all() or np.ptp(list(losses.values())) > 1e-4:
            raise RuntimeError(f"The contenders train differently: losses {losses}")


def measure(kind: str, rows: int) -> list[dict[str, Any]]:
    """Returns the rows of the results, one for each contender."""
    made = contenders(kind, rows)
    require_agreement(made)
    steps = {name: step for name, (_, step) in made.items()}
    times = common.interleave(steps, rounds=FLAGS.rounds, steps=FLAGS.steps)
    reference, found = next(iter(CONTENDERS)), []
    for name, own in times.items():
        row = {"kind": kind, "rows": rows, "contender": name, **common.spread(own, "ms")}
        if name != reference:
            ratios = common.paired_ratios(own, times[reference])
            row |= {"ratio_to": reference, **common.spread(ratios, "ratio")}
        found.append(row)
    return found


def main(_) -> None:
    # Every contender traces a step of its own, which TensorFlow takes for retracing.
    tf.get_logger().setLevel("ERROR")
    given = ("student", "negatives", "batch", "rounds", "steps")
    sizes = {name: FLAGS[name].value for name in given}
    about = common.metadata(FLAGS.seed)
    for kind in FLAGS.kind:
        for rows in FLAGS.rows:
            found = measure(kind, rows)
            common.append_rows(Path(FLAGS.output), [{**row, **sizes, **about} for row in found])
            for row in found:
                ratio = f"{row['ratio_median']:.3f} x" if "ratio_to" in row else ""
                took = f"{row['ms_median']:8.1f} ms  {ratio}"
                print(f"{kind:9} {rows:8} rows  {row['contender']:18} {took}", flush=True)


if __name__ == "__main__":
    app.run(main)
