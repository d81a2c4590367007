"""Smaller: what pruning, sharing and searching cost in accuracy, under labels, KD and ModReduce.

As in `examples/quickstart.py`, a teacher sees 8,500 images of the embedded sample, and students of
37,550 parameters see 1,000 of them. The parts, for each seed:

- `sparsity`: the student with 0, 50, 80 and 90 % zeros, trained before and after on the labels, by
  KD, or by ModReduce with two others (KD, DIST, DKD), of which the best one on 1,500 validation
  images counts;
- `channels`: a half and a quarter of the student's multiply-adds, made of its channels and trained
  on by KD, and the same network from scratch, by KD for as long as both trainings together;
- `low_rank`: the same with layers of rank 8;
- `clusters`: 16 and 8 different weights in each layer, on the labels and by KD;
- `pipeline`: the files of the student by KD, with 80 % zeros, and with these in int8;
- `search`: the best student that `find_student` finds with as many KiB, beside the quick start's.

Students of a seed begin with the same weights, see the images in the same order, and take as many
steps at the same learning rates, unless a part says otherwise. Test accuracies are those of 2,000
images, of the last epoch. Rows of a part are written together, and parts that the file has are not
run again. All of a seed takes some minutes on a core:

    python -m benchmarks.accuracy.smaller.run
    python -m benchmarks.accuracy.smaller.run --parts=clusters --parts=channels --seeds=1
"""

import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common
from benchmarks.accuracy.smaller.parts import PARTS, Comparison, Epochs
from benchmarks.accuracy.smaller.training import TRAINING_IMAGES, Course, accuracy, trained_teacher

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum("parts", [], [*PARTS], "What is compared; all, if none is given")
flags.DEFINE_integer("seeds", 3, "Number of seeds", lower_bound=1)
flags.DEFINE_integer("first_seed", 1, "The first of them", lower_bound=0)
flags.DEFINE_integer("labels", 1000, "Training images of the students", 64, TRAINING_IMAGES)
flags.DEFINE_integer("teacher_epochs", 8, "Epochs of the teacher", lower_bound=1)
flags.DEFINE_integer("epochs", 30, "Epochs of the student", lower_bound=1)
flags.DEFINE_integer("more_epochs", 20, "Epochs of a smaller one", lower_bound=1)
flags.DEFINE_integer("rounding_epochs", 10, "Of one that is clustered or rounded", lower_bound=1)
flags.DEFINE_integer("search_epochs", 9, "Most epochs of a student in a search", lower_bound=1)
flags.DEFINE_integer("candidates", 14, "Students that a search draws", lower_bound=1)
flags.DEFINE_string("output", str(common.RESULTS / "smaller.jsonl"), "Rows go here")

SETTINGS = (
    "labels",
    "teacher_epochs",
    "epochs",
    "more_epochs",
    "rounding_epochs",
    "search_epochs",
    "candidates",
)


def comparison_of(seed: int, teacher: keras.Model) -> Comparison:
    """Returns what the parts of a seed share."""
    (images, classes), test = mr.data.load_sample()
    course = Course(
        teacher=teacher,
        train=(images[: FLAGS.labels], classes[: FLAGS.labels]),
        validation=(images[TRAINING_IMAGES:], classes[TRAINING_IMAGES:]),
        test=test,
        seed=seed,
    )
    epochs = Epochs(FLAGS.epochs, FLAGS.more_epochs, FLAGS.rounding_epochs, FLAGS.search_epochs)
    return Comparison(course, epochs, FLAGS.candidates)


def rows_of(part: str, comparison: Comparison, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of a part, and prints them as they come."""
    begin, rows = time.process_time(), []
    for row in PARTS[part](comparison):
        print(
            f"  {row['contender']:24} {row['level']!s:8} {100 * row['accuracy']:.1f} %", flush=True
        )
        rows.append({"part": part, **row, **about})
    seconds = round(time.process_time() - begin, 1)
    print(f"{part}, seed {comparison.course.seed}: {seconds} s of the processor", flush=True)
    return [{**row, "cpu_seconds": seconds} for row in rows]


def main(_) -> None:
    # Every student traces a step of its own, which TensorFlow takes for retracing.
    tf.get_logger().setLevel("ERROR")
    output = Path(FLAGS.output)
    settings = {name: FLAGS[name].value for name in SETTINGS}
    data, test = mr.data.load_sample()
    teacher = trained_teacher(data, FLAGS.teacher_epochs)
    settings["teacher"] = accuracy(teacher, test)
    print(f"teacher: {100 * settings['teacher']:.1f} %", flush=True)
    done = {
        (row["part"], row["seed"])
        for row in common.read_rows(output)
        if all(row[name] == settings[name] for name in SETTINGS)
    }
    for seed in range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds):
        comparison = comparison_of(seed, teacher)
        for part in FLAGS.parts or PARTS:
            if (part, seed) not in done:
                about = {**settings, **common.metadata(seed)}
                common.append_rows(output, rows_of(part, comparison, about))
        keras.backend.clear_session(free_memory=False)


if __name__ == "__main__":
    app.run(main)
