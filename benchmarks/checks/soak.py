"""Soak: whether memory grows, or anything is traced anew, while a tiny ModReduce trains for long.

Three students with dropout learn from a teacher by KD, SemCKD and CRD with its bank, and from one
another by the learnt weighted average, in one `fit` with everything that a user might have on:
data by `mr.data.with_index` and `mr.data.epoch_shuffle` with augmentation and a last batch that is
smaller, a validation in every epoch, `Resume` with checkpoints within epochs, `PeerMonitor` with
TensorBoard and pictures, `ProgressBar`, and Keras' `EarlyStopping` and `CSVLogger`.

At the end of each epoch, after all other callbacks and a garbage collection, two figures are noted:
the memory that the process occupies (its resident set), and how much of it the C library's
allocator, which TensorFlow and NumPy use, has given out and not got back. Beside them stand the
numbers of Python objects, tensors and variables that are alive.

The resident set rises first, while what has been given out stays: memory that was freed and that
the allocator keeps, presumably in the pools of the threads that fill the buffer of `epoch_shuffle`
anew in each epoch. So a straight line is fitted to both after `--settling` epochs.

Each epoch also notes how often the training step, the validation step and the distiller's
`forward_pass` (which callbacks trace too) have been traced: counters in the Python functions, which
run when something is traced and at no other time, whichever `tf.function` asks for it.

The program fails if something is traced after the first epoch, or unless both slopes, with twice
their standard errors, stay below `--limit`. Its default is half a MiB in 1,000 steps: that is half
a kB in a step, less than any image of a batch takes here, and 100 MiB in the 200,000 steps of a
long training. The standard errors take the epochs' deviations from the line for independent; an
allocator's are not quite.

`--model_checkpoint` adds Keras' `ModelCheckpoint`, and then it fails: with Keras 3.15 each
`save_weights` of any compiled model leaves some 70 KiB per optimizer behind, a plain `Sequential`'s
as well, however few weights there are. `Resume` writes its own files and leaves nothing.

    python -m benchmarks.checks.soak
    python -m benchmarks.checks.soak --model_checkpoint

20,000 steps take ten to twenty minutes on one core. It needs Linux with glibc 2.33 or newer.
"""

import contextlib
import ctypes
import gc
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common
from modreduce_keras.callbacks import plots

FLAGS = flags.FLAGS
flags.DEFINE_integer("steps", 20_000, "Training steps in all", lower_bound=1)
flags.DEFINE_integer("epochs", 40, "Epochs, each followed by a validation", lower_bound=4)
flags.DEFINE_integer("settling", 15, "Epochs before the line's first", lower_bound=1)
flags.DEFINE_integer("batch", 16, "Images in a batch", lower_bound=4)
flags.DEFINE_float("limit", 0.5, "MiB in 1,000 steps that count as growth", lower_bound=0.0)
flags.DEFINE_bool("model_checkpoint", False, "With Keras' ModelCheckpoint, which grows")
flags.DEFINE_integer("seed", 0, "Seed of weights and order")
flags.DEFINE_string("output", str(common.RESULTS / "soak.jsonl"), "The row goes here")
flags.DEFINE_string("figure", str(common.FIGURES / "soak.png"), "The figure goes here")

STUDENTS = ("response", "feature", "relation")
CLASSES, SHAPE = 10, (14, 14, 1)
HELD_OUT = 200
COUNTED = ("train_step", "test_step", "forward_pass")


class TracedModReduce(mr.ModReduce):
    """Counts how often its steps and its `forward_pass` are traced."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.traces = dict.fromkeys(COUNTED, 0)

    def train_step(self, data):
        self.traces["train_step"] += 1
        return super().train_step(data)

    def test_step(self, data):
        self.traces["test_step"] += 1
        return super().test_step(data)

    def forward_pass(self, *args, **kwargs):
        self.traces["forward_pass"] += 1
        return super().forward_pass(*args, **kwargs)


class Notes(keras.callbacks.Callback):
    """Notes memory, living objects and traces at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.rows, self._console = [], sys.stdout

    def on_epoch_end(self, epoch, logs=None):
        gc.collect()
        row = {"step": int(self.model.step.numpy()), **memory(), **living_objects()}
        row |= {name: self.model.traces[name] for name in COUNTED}
        self.rows.append(row)
        told = ", ".join(f"{name} {value:.6g}" for name, value in row.items())
        print(told, file=self._console, flush=True)


class _Mallinfo(ctypes.Structure):
    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks")
    _fields_ = [(name, ctypes.c_size_t) for name in (*_names, "fordblks", "keepcost")]


def memory() -> dict[str, float]:
    """Returns what the process occupies, and what the C library has given out of it, in MiB."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return {"mib": common.resident(), "given_out_mib": (info.uordblks + info.hblkhd) / 2**20}


def living_objects() -> dict[str, int]:
    """Returns the numbers of Python objects, tensors and variables that the collector knows."""
    kinds = Counter(map(type, gc.get_objects()))

    def count(kind: type) -> int:
        return sum(number for one, number in kinds.items() if issubclass(one, kind))

    numbers = {"tensors": count(tf.Tensor), "variables": count(keras.Variable)}
    return {"objects": kinds.total(), **numbers}


def slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Returns the slope of the least-squares line through points, and its standard error.

    slope = Σ (x - mean x) y / S with S = Σ (x - mean x)²; error = sqrt(Σ residual² / (n - 2) / S)

    Args:
        x: Places, not all equal.
        y: Values, at least 3.
    """
    places, values = np.asarray(x, "float64"), np.asarray(y, "float64")
    centered = places - places.mean()
    spread = centered @ centered
    slope = centered @ values / spread
    residuals = values - values.mean() - slope * centered
    return float(slope), math.sqrt(residuals @ residuals / (len(x) - 2) / spread)


def faults(row: Mapping[str, Any]) -> list[str]:
    """Returns what a row shows that must not be: growing memory, functions traced anew."""
    found = []
    for name, told in (("mib", "resident memory"), ("given_out_mib", "memory given out")):
        growth, error = row[f"{name}_per_1000_steps"], row[f"{name}_per_1000_steps_error"]
        if not growth + 2 * error <= row["limit"]:
            found.append(
                f"{told} grows by {growth:.3f} ± {error:.3f} MiB in 1,000 steps; with twice the "
                f"error it has to stay below {row['limit']}"
            )
    first, last = row["traces_first_epoch"], row["traces"]
    anew = {name: last[name] - first[name] for name in last if last[name] != first[name]}
    if anew:
        found.append(f"traced after the first epoch: {anew}")
    return found


def network(name: str, widths: tuple[int, ...], dropout: float = 0.0) -> keras.Model:
    """Returns an untrained network from images to logits, perhaps with dropout before them."""
    own = {"num_classes": CLASSES, "widths": widths, "input_shape": SHAPE, "name": name}
    plain = mr.models.get("convnet", **own)
    if not dropout:
        return plain
    dropped = keras.layers.Dropout(dropout, seed=FLAGS.seed)(plain.get_layer("embedding").output)
    logits = keras.layers.Dense(CLASSES, name="logits")(dropped)
    return keras.Model(plain.input, logits, name=name)


def build(samples: int) -> TracedModReduce:
    """Returns the distiller, compiled."""
    memory = mr.adapters.get("contrastive_memory", samples=samples, negatives=32, units=16)
    attention = mr.adapters.get("layer_attention", batch_size=FLAGS.batch)
    stages = ["stage1", "stage2"]
    distiller = TracedModReduce(
        teacher=network("teacher", (8, 16)),
        students={name: network(name, (4, 8), dropout=0.1) for name in STUDENTS},
        knowledge={
            "response": [mr.Response("kd")],
            "feature": [mr.Response("kd"), mr.Feature("semckd", at=stages, adapter=attention)],
            "relation": [mr.Response("kd"), mr.Relation("crd", at="embedding", adapter=memory)],
        },
        aggregator="weighted_average",
        steps=FLAGS.steps,
    )
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, FLAGS.steps)
    optimizers = {name: keras.optimizers.SGD(schedule, momentum=0.9) for name in STUDENTS}
    optimizers["aggregator"] = keras.optimizers.SGD(0.1, momentum=0.9)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(optimizers, loss, metrics=["accuracy"])
    return distiller


Data = tuple[tf.data.Dataset, tf.data.Dataset, tuple[np.ndarray, np.ndarray]]


def images(samples: int) -> Data:
    """Returns batches to train on and to validate on, and arrays for the monitor."""
    splits = [(x[:, ::2, ::2], y) for x, y in mr.data.load_sample()]
    (x, y), held_out = splits[0], tuple(array[:HELD_OUT] for array in splits[1])
    again = np.arange(samples) % len(x)
    data = mr.data.with_index(tf.data.Dataset.from_tensor_slices((x[again], y[again])))

    def augment(sample_seed, x, y):
        image = tf.image.stateless_random_flip_left_right(x["inputs"], sample_seed)
        return {**x, "inputs": image}, y

    train = mr.data.epoch_shuffle(data, seed=FLAGS.seed, augment=augment)
    validation = tf.data.Dataset.from_tensor_slices(held_out)
    return train.batch(FLAGS.batch).prefetch(2), validation.batch(64), held_out


def callbacks(folder: Path, monitored: Any, steps: int) -> list[keras.callbacks.Callback]:
    """Returns the callbacks that a user would have on.

    Args:
        folder: Where they write.
        monitored: What `PeerMonitor` measures on.
        steps: Number of steps in an epoch.
    """
    pictures = {"plots": folder / "plots", "plot_every": 5, "log_dir": folder / "logs"}
    stopping = keras.callbacks.EarlyStopping(
        "val_loss", patience=FLAGS.epochs, restore_best_weights=True
    )
    weights = keras.callbacks.ModelCheckpoint(folder / "last.weights.h5", save_weights_only=True)
    return [
        mr.callbacks.PeerMonitor(monitored, batch_size=64, **pictures),
        mr.callbacks.ProgressBar(["loss", "val_*/accuracy", "diversity"]),
        stopping,
        *([weights] if FLAGS.model_checkpoint else []),
        keras.callbacks.CSVLogger(folder / "logs.csv"),
        mr.callbacks.Resume(folder / "run", every=max(1, steps * 2 // 5), callbacks=[stopping]),
    ]


def soak(extra: Iterable[keras.callbacks.Callback] = ()) -> dict[str, Any]:
    """Trains, and returns the row.

    Args:
        extra: More callbacks, which stand before all others.
    """
    keras.utils.set_random_seed(FLAGS.seed)
    steps = FLAGS.steps // FLAGS.epochs
    samples = steps * FLAGS.batch - FLAGS.batch // 2
    notes, start = Notes(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        train, validation, monitored = images(samples)
        own = [*extra, *callbacks(Path(folder), monitored, steps), notes]
        distiller = build(samples)
        arguments = {"epochs": FLAGS.epochs, "callbacks": own, "shuffle": False}
        # The bar is drawn, but nobody has to read it.
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            distiller.fit(train, validation_data=validation, **arguments)
    curve = {name: [row[name] for row in notes.rows] for name in notes.rows[0]}
    thousands = np.array(curve["step"][FLAGS.settling :]) / 1000
    numbers = {}
    for name in ("mib", "given_out_mib"):
        of_all = {
            "first": curve[name][0],
            "median": np.median(curve[name]),
            "last": curve[name][-1],
        }
        numbers |= {f"{name}_{which}": round(float(value), 1) for which, value in of_all.items()}
        growth, error = slope(thousands, curve[name][FLAGS.settling :])
        numbers |= {
            f"{name}_per_1000_steps": round(growth, 4),
            f"{name}_per_1000_steps_error": round(error, 4),
        }
    traces = [{name: curve[name][place] for name in COUNTED} for place in (0, -1)]
    return {
        **numbers,
        "limit": FLAGS.limit,
        "traces_first_epoch": traces[0],
        "traces": traces[1],
        "curve": {
            name: [round(value, 2) for value in values]
            for name, values in curve.items()
            if name not in COUNTED
        },
        "seconds": round(time.perf_counter() - start),
        "steps": notes.rows[-1]["step"],
        "samples": samples,
        **{name: FLAGS[name].value for name in ("epochs", "settling", "batch", "model_checkpoint")},
    }


def draw(row: Mapping[str, Any], path: Path) -> None:
    """Saves a picture of the memory over the steps, with the fitted line."""
    from matplotlib.figure import Figure

    first, lines = row["settling"], {"mib": "resident", "given_out_mib": "given out"}
    curve = {name: np.asarray(values, "float64") for name, values in row["curve"].items()}
    steps = curve["step"]
    figure = Figure(figsize=(7.2, 4.5), layout="constrained")
    axes = figure.subplots()
    for (name, told), color in zip(lines.items(), plots.COLORS, strict=False):
        growth, error = row[f"{name}_per_1000_steps"], row[f"{name}_per_1000_steps_error"]
        told = f"{told}; from {steps[first]:,.0f} on {growth:+.3f} ± {error:.3f} MiB / 1,000 steps"
        look = {"color": color, "marker": "o", "markersize": 4, "linewidth": 1.8}
        axes.plot(steps, curve[name], label=told, **look)
        line = curve[name][first:].mean() + growth * (steps - steps[first:].mean())[first:] / 1000
        axes.plot(steps[first:], line, color=plots.INK, linewidth=1.2, linestyle="--")
    axes.set_ylim(0, 1.1 * curve["mib"].max())
    axes.set_title("Memory while ModReduce trains", loc="left", color=plots.INK, pad=12)
    axes.set_xlabel("step", color=plots.INK)
    axes.set_ylabel("MiB", color=plots.INK)
    axes.tick_params(colors=plots.INK, length=0)
    axes.grid(axis="y", color=plots.GRID, linewidth=0.8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(plots.GRID)
    axes.legend(loc="center right", frameon=False, labelcolor=plots.INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(_, extra: Iterable[keras.callbacks.Callback] = ()) -> None:
    about = common.metadata(FLAGS.seed)
    row = {**soak(extra), **about}
    common.append_rows(Path(FLAGS.output), [row])
    draw(row, Path(FLAGS.figure))
    for name, told in (("mib", "resident"), ("given_out_mib", "given out")):
        growth, error = row[f"{name}_per_1000_steps"], row[f"{name}_per_1000_steps_error"]
        ends = f"{row[f'{name}_first']} MiB after the first epoch, {row[f'{name}_last']} at the end"
        print(f"{told}: {ends}; {growth:+.4f} ± {error:.4f} MiB in 1,000 steps")
    print(f"traced: {row['traces']}")
    found = faults(row)
    if found:
        sys.exit("; ".join(found))


if __name__ == "__main__":
    app.run(main)
