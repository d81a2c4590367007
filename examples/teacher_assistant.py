"""Teacher assistants: between a large teacher and a small student, networks of sizes in between.

A student that is much smaller than its teacher may learn better from a network nearer to its own
size. So an assistant learns from the teacher, and the student from the assistant; more assistants
make a longer chain, from large to small (`mr.TeacherAssistantChain`). Each link is one
`mr.Distiller`: what was the student of one is the teacher of the next.

    python examples/teacher_assistant.py
    python examples/teacher_assistant.py --assistant=32,64,64 --assistant=16,32,64

It trains, on the sample of Fashion-MNIST in the package, a teacher and the assistants on 10,000
images; then, on 1,000 of them and with three seeds, a student alone, one distilled from the teacher
and one from the last assistant. All students take the same number of steps. It prints whether an
assistant is likely to help (`mr.evaluation.capacity_gap`), and a table of accuracies on 2,000 test
images: two minutes on two cores.

Expect either teacher to add some five points to the student, and no difference between them beyond
the spread: the gap is small here. The paper finds the assistant ahead where the gap is large.

Mirzadeh et al., Improved Knowledge Distillation via Teacher Assistant, 2020.
"""

import math
import os
from collections import defaultdict

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags, logging

import modreduce_keras as mr

FLAGS = flags.FLAGS
flags.DEFINE_string("teacher", "64,128,128", "Widths of the teacher's stages.")
flags.DEFINE_multi_string("assistant", ["16,32,64"], "Widths of an assistant, large to small.")
flags.DEFINE_string("student", "8,16,32", "Widths of the student's stages.")
flags.DEFINE_integer("teacher_epochs", 4, "Epochs of teacher and assistants.", lower_bound=1)
flags.DEFINE_integer("teacher_images", 10_000, "Their training images.", 1, 10_000)
flags.DEFINE_integer("epochs", 20, "Epochs of every student.", lower_bound=1)
flags.DEFINE_integer("images", 1000, "Training images of every student.", 1, 10_000)
flags.DEFINE_integer("seeds", 3, "Repetitions of the students' training.", lower_bound=1)
flags.DEFINE_float("temperature", 4.0, "Temperature of KD.", lower_bound=0.1)

TEACHER, ASSISTANT, STUDENT = (128, 3e-3), (64, 1e-2), (32, 2e-2)  # batch size, learning rate

Split = tuple[np.ndarray, np.ndarray]  # images, classes
Trained = keras.Model | mr.TeacherAssistantChain


def network(widths: str, name: str, seed: int) -> keras.Model:
    """Returns an untrained network from images to the logits of ten classes."""
    keras.utils.set_random_seed(seed)
    stages = [int(width) for width in widths.split(",")]
    return mr.models.get("convnet", num_classes=10, widths=stages, name=name)


def kd() -> mr.Response:
    """Returns what each network learns from the one before."""
    return mr.Response(mr.losses.KD(temperature=FLAGS.temperature))


def train(model: Trained, data: Split, epochs: int, batch: int, rate: float) -> None:
    """Compiles and fits a network, a distiller or a chain of them."""
    steps = epochs * math.ceil(len(data[0]) / batch)
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(*data, epochs=epochs, batch_size=batch, verbose=0)


def train_chain(data: Split) -> list[keras.Model]:
    """Returns the teacher and its assistants, each distilled from the one before."""
    teacher = network(FLAGS.teacher, "teacher", seed=0)
    train(teacher, data, FLAGS.teacher_epochs, *TEACHER)
    assistants = [
        network(widths, f"assistant{link}", seed=0)
        for link, widths in enumerate(FLAGS.assistant, start=1)
    ]
    chain = mr.TeacherAssistantChain(teacher=teacher, students=assistants, knowledge=kd())
    train(chain, data, FLAGS.teacher_epochs, *ASSISTANT)
    return [teacher, *assistants]


def train_student(teacher: keras.Model | None, data: Split, seed: int) -> keras.Model:
    """Returns a student that learns from a network of the chain or from the labels alone."""
    student = network(FLAGS.student, "student", seed)
    taught = teacher and mr.Distiller(student=student, teacher=teacher, knowledge=kd())
    train(taught or student, data, FLAGS.epochs, *STUDENT)
    return student


def gap(student: keras.Model, teacher: keras.Model, *images: np.ndarray) -> str:
    """Returns whether an assistant is likely to help, in words."""
    data = dict(zip(("data", "validation_data"), images, strict=True))
    found = mr.evaluation.capacity_gap(
        teacher=teacher, students=student, temperature=FLAGS.temperature, **data
    )
    return f"\n{found}\n"


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    (images, classes), (test_images, test_classes) = mr.data.load_sample()
    chain = train_chain((images[: FLAGS.teacher_images], classes[: FLAGS.teacher_images]))
    sizes, accuracies = {}, defaultdict(list)

    def record(model: keras.Model, teacher: keras.Model | None) -> None:
        logits = model.predict(test_images, batch_size=500, verbose=0)
        percent = 100 * (logits.argmax(axis=1) == test_classes).mean()
        names = model.name, "labels" if teacher is None else teacher.name
        sizes[model.name] = model.count_params()
        accuracies[names].append(percent)
        print("{}, taught by {}".format(*names), f"{percent:.1f} %", sep=": ", flush=True)

    for teacher, model in zip([None, *chain], chain, strict=False):
        record(model, teacher)
    for seed in range(1, FLAGS.seeds + 1):
        for teacher in (None, chain[0], chain[-1]):
            data = images[: FLAGS.images], classes[: FLAGS.images]
            student = train_student(teacher, data, seed)
            record(student, teacher)
            if seed == 1 and teacher is chain[0]:
                print(gap(student, teacher, data[0], test_images))

    print("\n| network | taught by | test accuracy, % | parameters |\n|---|---|---|---|")
    for (name, teacher), values in accuracies.items():
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        print(f"| {name} | {teacher} | {np.mean(values):.1f}{spread} | {sizes[name]:,} |")


if __name__ == "__main__":
    app.run(main)
