"""Smaller: what pruning, sharing and searching cost in accuracy, under labels, KD and ModReduce.

The data are the embedded sample, or CIFAR-100 (`--data=cifar100`). As in `examples/quickstart.py`,
a teacher sees 8,500 images of the sample, and students of 37,550 parameters see 1,000 of them. Of
CIFAR-100, the teacher is a trained network (`--teacher=FILE`), and students of 106,820 parameters
see 5,000 images in four crops and flips each. The parts, for each seed:

- `sparsity`: the student with 0, 50, 80 and 90 % zeros, trained before and after on the labels, by
  KD, or by ModReduce with two others (KD, DIST, DKD), of which the best one on 1,500 validation
  images (2,500 of CIFAR-100) counts;
- `channels`: a half and a quarter of the student's multiply-adds, made of its channels and trained
  on by KD, and the same network from scratch, by KD for as long as both trainings together;
- `low_rank`: the same with layers of rank 8 (16 for CIFAR-100);
- `clusters`: 16 and 8 different weights in each layer, on the labels and by KD;
- `pipeline`: the files of the student by KD, with 80 % zeros, and with these in int8;
- `search`: the best student that `find_student` finds with as many KiB, beside the quick start's;
  of the sample only.

Students of a seed begin with the same weights, see the images in the same order, and take as many
steps at the same learning rates, unless a part says otherwise. Test accuracies are those of all
test images, 2,000 or 10,000, of the last epoch. Rows of a part are written together, and parts that
the file has are not run again. All of a seed takes some minutes on a core:

    python -m benchmarks.accuracy.smaller.run
    python -m benchmarks.accuracy.smaller.run --parts=clusters --parts=channels --seeds=1
    python -m benchmarks.accuracy.smaller.run --data=cifar100 --teacher=resnet56.keras
"""

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import app, flags, logging

import modreduce_keras as mr
from benchmarks import common
from benchmarks.accuracy.smaller.images import HELD_OUT, ArrayImages, CIFAR100Images, accuracy
from benchmarks.accuracy.smaller.parts import PARTS, Comparison, Epochs
from benchmarks.accuracy.smaller.table import CIFAR100, EPOCHS, FASHION, SEARCHED, SETTINGS, data_of
from benchmarks.accuracy.smaller.training import TRAINING_IMAGES, Course, Recipe, trained_teacher

FLAGS = flags.FLAGS
flags.DEFINE_enum("data", FASHION, [*SETTINGS], "What students learn")
flags.DEFINE_multi_enum("parts", [], [*PARTS], "What is compared; all, if none is given")
flags.DEFINE_integer("seeds", 3, "Number of seeds", lower_bound=1)
flags.DEFINE_integer("first_seed", 1, "The first of them", lower_bound=0)
flags.DEFINE_integer("labels", None, "Training images of the students", 64, HELD_OUT)
flags.DEFINE_integer("augmentations", 4, "Crops and flips of each of CIFAR-100", lower_bound=1)
flags.DEFINE_integer("teacher_epochs", 8, "Epochs of the sample's teacher", lower_bound=1)
flags.DEFINE_integer("epochs", None, "Epochs of the student", lower_bound=1)
flags.DEFINE_integer("more_epochs", None, "Epochs of a smaller one", lower_bound=1)
flags.DEFINE_integer("rounding_epochs", None, "Of one that is clustered or rounded", lower_bound=1)
flags.DEFINE_integer("search_epochs", 9, "Most epochs of a student in a search", lower_bound=1)
flags.DEFINE_integer("candidates", 14, "Students that a search draws", lower_bound=1)
flags.DEFINE_string(
    "teacher", "cifar100_runs/teachers/resnet56.keras", "File of CIFAR-100's teacher"
)
flags.DEFINE_string("network", "resnet56", "Which network of mr.models the file has")
flags.DEFINE_string("data_dir", None, "Folder of the prepared data sets; downloads, if not given")
flags.DEFINE_string("output", str(common.RESULTS / "smaller.jsonl"), "Rows go here")

DEFAULTS: dict[str, dict[str, int]] = {
    FASHION: {"labels": 1000, "epochs": 30, "more_epochs": 20, "rounding_epochs": 10},
    CIFAR100: {"labels": 5000, "epochs": 12, "more_epochs": 8, "rounding_epochs": 4},
}
"""What the flags are that are not given."""
CIFAR100_RECIPE = Recipe(
    classes=100, shape=(32, 32, 3), widths=(32, 64, 128), rank=16, rate=1e-2, timed=False
)


def course_of_sample(seed: int, teacher: keras.Model, labels: int, folder: Path) -> Course:
    """Returns what the parts of a seed share, of the embedded sample."""
    (images, classes), test = mr.data.load_sample()
    return Course(
        teacher=teacher,
        images=ArrayImages((images[:labels], classes[:labels]), teacher, seed),
        validation=(images[TRAINING_IMAGES:], classes[TRAINING_IMAGES:]),
        test=test,
        seed=seed,
    )


def course_of_cifar100(seed: int, teacher: keras.Model, labels: int, folder: Path) -> Course:
    """Returns what the parts of a seed share, of CIFAR-100."""
    given = {"augmentations": FLAGS.augmentations, "data_dir": FLAGS.data_dir}
    images = CIFAR100Images(labels, teacher, seed, folder, **given)
    return Course(
        teacher=teacher,
        images=images,
        validation=images.first("validation", 2500),
        test=images.first("test", 10_000),
        seed=seed,
        recipe=CIFAR100_RECIPE,
    )


COURSES: dict[str, Callable[[int, keras.Model, int, Path], Course]] = {
    FASHION: course_of_sample,
    CIFAR100: course_of_cifar100,
}


def loaded_teacher() -> keras.Model:
    """Returns CIFAR-100's teacher, for images that are normalized."""
    if not Path(FLAGS.teacher).is_file():
        raise app.UsageError(
            "--data=cifar100 needs a trained teacher: --teacher=FILE, a saved Keras model with the "
            f"layers of --network={FLAGS.network}; `python -m benchmarks.cifar100.train` trains "
            f"one. Received: --teacher={FLAGS.teacher}"
        )
    return mr.models.load_teacher(FLAGS.teacher, FLAGS.network, normalized=True, name="teacher")


def settings_of_flags() -> dict[str, Any]:
    """Returns the settings of all parts."""
    names = SETTINGS[FLAGS.data] + (SEARCHED if FLAGS.data == FASHION else ())
    given = {name: FLAGS[name].value for name in names}
    return {
        name: DEFAULTS[FLAGS.data][name] if value is None else value
        for name, value in given.items()
    }


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


def wanted_parts() -> list[str]:
    """Returns the parts that the flags ask for."""
    possible = [part for part in PARTS if part != "search" or FLAGS.data == FASHION]
    if not {*FLAGS.parts} <= {*possible}:
        raise app.UsageError(
            f"--parts must be of {possible} with --data={FLAGS.data}. Received: {FLAGS.parts}"
        )
    return FLAGS.parts or possible


def run_seed(seed: int, teacher: keras.Model, parts: Iterable[str]) -> None:
    """Runs parts of a seed, and writes the rows of each as soon as it is done."""
    settings = settings_of_flags()
    dense, more, rounding = (settings[name] for name in EPOCHS)
    epochs = Epochs(dense, more, rounding, FLAGS.search_epochs)
    with tempfile.TemporaryDirectory() as folder:
        course = COURSES[FLAGS.data](seed, teacher, settings["labels"], Path(folder))
        of_teacher = accuracy(teacher, course.test)
        print(f"teacher: {100 * of_teacher:.1f} %", flush=True)
        comparison = Comparison(course, epochs, FLAGS.candidates)
        for part in parts:
            about = {"data": FLAGS.data, **settings, "teacher": of_teacher, **common.metadata(seed)}
            common.append_rows(Path(FLAGS.output), rows_of(part, comparison, about))


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    # Every student traces a step of its own, which TensorFlow takes for retracing.
    tf.get_logger().setLevel("ERROR")
    parts, settings = wanted_parts(), settings_of_flags()
    if FLAGS.data == FASHION:
        teacher = trained_teacher(mr.data.load_sample()[0], FLAGS.teacher_epochs)
    else:
        teacher = loaded_teacher()
    done = {
        (row["part"], row["seed"])
        for row in common.read_rows(Path(FLAGS.output))
        if data_of(row) == FLAGS.data and all(row[name] == settings[name] for name in settings)
    }
    for seed in range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds):
        run_seed(seed, teacher, [part for part in parts if (part, seed) not in done])
        keras.backend.clear_session(free_memory=False)


if __name__ == "__main__":
    app.run(main)
