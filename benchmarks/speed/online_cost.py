"""Online cost: what a step of several students costs beside the same step written by hand.

In one process and taking turns, three students each:

- branches: students that share their lower layers and learn from their mean or from ONE's gated
  ensemble, by hand and with this library; and three separate networks that learn from their mean.
- modreduce: ModReduce with KD for every student and the learnt weighted average, by hand and with
  this library, in bfloat16 as well where the processor has its arithmetic; three separate steps of
  KD by hand, each with its own run of the teacher; and ModReduce with the paper's knowledge (KD,
  SemCKD, CRD) beside three separate distillers with it.

The steps by hand (`by_hand.py`) are one `tf.function` each, with none of our code in them: their
branches are cut from ordinary networks. Every contender trains students of its own from the same
weights, with an optimizer of its own (Keras' SGD with momentum), on the same batch, and keeps the
same books. Before anything is timed, the first step by hand and ours must give the same logs and
move all variables alike.

Ratios are taken within a round, then summarized; `wanted` is the most that one may be. It takes
four minutes on two cores. Run it with nothing else on the machine:

    python -m benchmarks.speed.online_cost
    python -m benchmarks.speed.online_cost --form=modreduce
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common
from benchmarks.speed import by_hand

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum(
    "form", ["branches", "modreduce"], ["branches", "modreduce"], "What is measured"
)
flags.DEFINE_string("student", "resnet20", "Students, from mr.models")
flags.DEFINE_string("teacher", "resnet56", "Teacher, from mr.models")
flags.DEFINE_string("at", "stage2", "Last layer that branches share")
flags.DEFINE_integer("batch", 64, "Images in a batch", lower_bound=2)
flags.DEFINE_integer("samples", 50_000, "Training samples that a memory bank holds", lower_bound=2)
flags.DEFINE_integer("rounds", 20, "Rounds, each with every contender", lower_bound=1)
flags.DEFINE_integer("steps", 1, "Steps of a contender in a round", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of weights and images")
flags.DEFINE_string("output", str(common.RESULTS / "online_cost.jsonl"), "Rows go here")

CLASSES = 100
NAMES = ("response", "feature", "relation")

Step = Callable[[], dict[str, Any]]


class Comparison(NamedTuple):
    """Two contenders; `wanted` is the most that the ratio may be, if anything is."""

    contender: str
    reference: str
    wanted: float | None = None


BFLOAT16 = "ModReduce, KD, ours, bfloat16"
COMPARISONS = {
    "branches": [
        Comparison("ONE, branches, ours", "ONE, branches, by hand", 1.05),
        Comparison("mean, branches, ours", "mean, branches, by hand", 1.05),
        Comparison("mean, branches, ours", "mean, three networks, ours"),
    ],
    "modreduce": [
        Comparison("ModReduce, KD, ours", "ModReduce, KD, by hand", 1.05),
        Comparison("ModReduce, KD, ours", "three steps of KD, by hand", 0.63),
        Comparison(BFLOAT16, "three steps of KD, by hand", 0.40),
        Comparison("ModReduce, the paper's, ours", "three steps, the paper's, ours"),
        Comparison("ModReduce, the paper's, ours", "three steps of KD, by hand"),
    ],
}


class Contender:
    """One way to train: `step()` runs one step and returns its logs.

    Args:
        step: The step.
        variables: What it trains, in an order that contenders share.
    """

    def __init__(self, step: Step, variables: Iterable[keras.Variable]):
        self.step, self._variables = step, list(variables)
        self._start = [variable.numpy() for variable in self._variables]

    def movement(self) -> np.ndarray:
        """Returns how far the variables have moved from the start, as one vector."""
        pairs = zip(self._variables, self._start, strict=True)
        return np.concatenate([np.ravel(now.numpy() - start) for now, start in pairs])


class Scene:
    """What the contenders share: the batch, the teacher, and the weights they start from.

    Args:
        fused: Whether ours run the fused kernel of batch normalizations, and the folded teacher.
    """

    def __init__(self, fused: bool = True):
        self.fused = fused
        random = np.random.default_rng(FLAGS.seed)
        images = random.normal(size=(FLAGS.batch, 32, 32, 3)).astype("float32")
        labels = random.integers(CLASSES, size=FLAGS.batch)
        index = random.choice(FLAGS.samples, FLAGS.batch, replace=FLAGS.samples < FLAGS.batch)
        self.batch = images, labels
        self.indexed = {"inputs": images, "sample_index": index}, labels
        self.teacher = network(FLAGS.teacher, "teacher")
        common.adopt_statistics(self.teacher, images)
        self._start = {name: self._new(name).get_weights() for name in NAMES}

    @staticmethod
    def _new(name: str) -> keras.Model:
        return network(FLAGS.student, name)

    def students(self, policy: str = "float32") -> dict[str, keras.Model]:
        """Returns new students, equal to all others of their names.

        Args:
            policy: Dtype policy that they compute with.
        """
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        students = {name: self._new(name) for name in NAMES}
        keras.config.set_dtype_policy(before)
        for name, student in students.items():
            student.set_weights(self._start[name])
        return students

    def cut(self) -> tuple[keras.Model, dict[str, keras.Model]]:
        """Returns a trunk and heads that are cut from new students; the first gives the trunk."""
        students = self.students()
        first = students[NAMES[0]]
        trunk = keras.Model(first.input, first.get_layer(FLAGS.at).output)
        heads = {
            name: keras.Model(student.get_layer(FLAGS.at).output, student.output)
            for name, student in students.items()
        }
        return trunk, heads

    def by_hand(self, step: by_hand.Step) -> Step:
        iterator = iter(tf.data.Dataset.from_tensors(self.batch).repeat())
        return lambda: step(*next(iterator))

    def in_keras(self, distiller: keras.Model, rate: float = 0.01, indexed: bool = False) -> Step:
        """Returns the step of a distiller, compiled."""
        distiller.compile(
            optimizer=optimizer(rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            fused_normalization=self.fused,
        )
        distiller.make_train_function()
        batch = self.indexed if indexed else self.batch
        iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())
        return lambda: distiller.train_function(iterator)


def network(identifier: str, name: str) -> keras.Model:
    """Returns an untrained network on the images of a batch."""
    return mr.models.get(identifier, num_classes=CLASSES, input_shape=(32, 32, 3), name=name)


def optimizer(rate: float = 0.01) -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(rate, momentum=0.9)


def trained(*parts: Any) -> list[keras.Variable]:
    """Returns the trainable variables of some models and layers, one after the other."""
    return [variable for part in parts for variable in part.trainable_variables]


def branches(scene: Scene) -> dict[str, Contender]:
    """Returns students that share a trunk, and three that share nothing."""
    contenders = {}
    for name, aggregator in (("ONE", mr.aggregators.get("one")), ("mean", "mean")):
        trunk, heads = scene.cut()
        pattern = scene.students()[NAMES[0]]
        branched = mr.models.branch(pattern, at=FLAGS.at, branches=len(NAMES), names=NAMES)
        branched.trunk.set_weights(trunk.get_weights())
        for branch, head in heads.items():
            branched.heads[branch].set_weights(head.get_weights())
        distiller = mr.PeerDistiller(branched, aggregator=aggregator)
        gate = None
        if name == "ONE":
            gate = keras.Sequential(
                [
                    keras.Input((trunk.output.shape[-1],)),
                    keras.layers.Dense(len(NAMES)),
                    keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
                ]
            )
            gate.set_weights(distiller.aggregator.get_weights())
        step = by_hand.branch_step(trunk, heads, gate, optimizer())
        contenders[f"{name}, branches, by hand"] = Contender(
            scene.by_hand(step), trained(trunk, *heads.values(), *([gate] if gate else []))
        )
        contenders[f"{name}, branches, ours"] = Contender(
            scene.in_keras(distiller),
            trained(branched.trunk, *branched.heads.values(), distiller.aggregator),
        )
    whole = mr.PeerDistiller(scene.students(), aggregator="mean")
    contenders["mean, three networks, ours"] = Contender(scene.in_keras(whole), trained(whole))
    return contenders


def modreduce(scene: Scene) -> dict[str, Contender]:
    """Returns ModReduce, by hand and ours, and students that learn separately."""
    joint, separate = scene.students(), scene.students()
    shares = keras.Variable(np.zeros(len(NAMES), "float32"), name="shares")
    together = by_hand.modreduce_step(joint, scene.teacher, shares, optimizer())
    kd = kd_for_all(scene, scene.students(), None if scene.fused else "as_given")
    papers = mr.ModReduce(
        teacher=scene.teacher, students=scene.students(), samples=FLAGS.samples, online_weight=0.5
    )
    alone = {
        name: mr.Distiller(student=student, teacher=scene.teacher, knowledge=knowledge)
        for (name, student), knowledge in zip(
            scene.students().items(), paper_knowledge().values(), strict=True
        )
    }
    # The paper's weights are large: at this rate nothing diverges, and the cost is the same.
    slowly = {"rate": 1e-6, "indexed": True}
    contenders = {
        "three steps of KD, by hand": Contender(
            in_turn(
                scene.by_hand(by_hand.kd_step(student, scene.teacher, optimizer()))
                for student in separate.values()
            ),
            trained(*separate.values()),
        ),
        "ModReduce, KD, by hand": Contender(
            scene.by_hand(together), [*trained(*joint.values()), shares]
        ),
        "ModReduce, KD, ours": Contender(
            scene.in_keras(kd), trained(*kd.students.values(), kd.aggregator)
        ),
        "three steps, the paper's, ours": Contender(
            in_turn(scene.in_keras(one, **slowly) for one in alone.values()),
            trained(*alone.values()),
        ),
        "ModReduce, the paper's, ours": Contender(
            scene.in_keras(papers, **slowly), trained(papers)
        ),
    }
    if scene.fused and common.has_bfloat16():
        half = kd_for_all(scene, scene.students("mixed_bfloat16"), "bfloat16")
        contenders[BFLOAT16] = Contender(scene.in_keras(half), trained(half))
    return contenders


def kd_for_all(
    scene: Scene, students: dict[str, keras.Model], teacher_dtype: str | None
) -> mr.ModReduce:
    """Returns ModReduce with KD for every student."""
    return mr.ModReduce(
        teacher=scene.teacher,
        students=students,
        knowledge={name: [mr.Response("kd")] for name in NAMES},
        aggregator="weighted_average",
        online_weight=0.5,
        teacher_dtype=teacher_dtype,
    )


def paper_knowledge() -> dict[str, list[mr.Knowledge]]:
    return mr.ModReduce.paper_knowledge(FLAGS.samples, batch_size=FLAGS.batch)


def in_turn(steps: Iterable[Step]) -> Step:
    """Returns a step that runs several, one after the other, and adds their losses."""
    steps = list(steps)
    return lambda: {"loss": sum(float(step()["loss"]) for step in steps)}


def first_steps(form: str, contenders: dict[str, Contender]) -> None:
    """Runs one step of each contender, and compares ours with the same one by hand.

    Raises:
        RuntimeError: If the logs or the movements differ.
    """
    for name, reference, _ in COMPARISONS[form]:
        if reference == name.replace("ours", "by hand"):
            logs = {one: contenders[one].step() for one in (name, reference)}
            common.require_same_logs(name, logs[name], reference, logs[reference])
            moved, should = (contenders[n].movement() for n in (name, reference))
            common.require_same_movement(name, moved, reference, should)


def measure(form: str) -> list[dict[str, Any]]:
    """Returns the rows of one form: one for each comparison, and for what is compared with."""
    keras.utils.set_random_seed(FLAGS.seed)
    contenders_of = {"branches": branches, "modreduce": modreduce}[form]
    # Compared with Keras' own batch normalizations: the kernel's rounding grows through a network.
    first_steps(form, contenders_of(Scene(fused=False)))
    keras.utils.set_random_seed(FLAGS.seed)
    contenders = contenders_of(Scene())

    def finished(step: Step) -> Callable[[], float]:
        # Reading a number from the logs waits for a device that computes asynchronously.
        return lambda: float(next(iter(step().values())))

    steps = {name: finished(contender.step) for name, contender in contenders.items()}
    for step in steps.values():
        step()
    times = common.interleave(steps, rounds=FLAGS.rounds, steps=FLAGS.steps)
    for name, contender in contenders.items():
        if not np.isfinite(contender.movement()).all():
            raise RuntimeError(f"{name!r} has trained its students to infinity or NaN")
    rows = []
    for name, own in times.items():
        row = {"form": form, "contender": name, **common.spread(own, "ms")}
        compared = [one for one in COMPARISONS[form] if one.contender == name]
        for _, reference, wanted in compared:
            ratios = common.spread(common.paired_ratios(own, times[reference]), "ratio")
            rows.append({**row, "ratio_to": reference, **ratios, "wanted": wanted})
        if not compared:
            rows.append(row)
    return rows


def main(_) -> None:
    # Every contender traces a step of its own, which TensorFlow takes for retracing.
    tf.get_logger().setLevel("ERROR")
    names = ("student", "teacher", "at", "batch", "samples", "rounds", "steps")
    sizes = {name: FLAGS[name].value for name in names}
    about = common.metadata(FLAGS.seed)
    for form in FLAGS.form:
        rows = measure(form)
        common.append_rows(Path(FLAGS.output), [{**row, **sizes, **about} for row in rows])
        for row in rows:
            ratio = f"{row['ratio_median']:.3f} x {row['ratio_to']}" if "ratio_to" in row else ""
            print(f"{row['contender']:32} {row['ms_median']:8.1f} ms  {ratio}", flush=True)


if __name__ == "__main__":
    app.run(main)
