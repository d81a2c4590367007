"""What is compared on CIFAR-100: each method as its paper has it, for any two networks.

A method makes what `fit` trains out of a `Task`. Weights are the published ones. Of the methods
with one student, those that Tian et al. (2020) compare stand alone beside the labels, KD with 0.1
for these and 0.9 for the teacher (`kd_even` has 1 and 1); SemCKD goes with KD, as it was published.
Peers without a teacher learn from one another as the papers say: a ramp-up over a third of the
training (80 of 240 epochs) to 1 at temperature 3, and they share the first stages.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras

import modreduce_keras as mr
from benchmarks.cifar100.protocols import Protocol

KINDS = ("response", "feature", "relation")
"""Students of ModReduce's paper, by the knowledge that each learns from."""

ALIKE = ("student_0", "student_1", "student_2")
"""Students that learn from the same knowledge."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What a method is given.

    Attributes:
        network: Makes an untrained student, by its name.
        teacher: The teacher, or a cache of its outputs.
        protocol: How it is trained.
    """

    network: Callable[[str], keras.Model]
    teacher: Any
    protocol: Protocol

    def stages(self) -> tuple[list[str], list[str]]:
        """Returns the taps of the student's and of the teacher's stages."""
        teacher = getattr(self.teacher, "teacher", self.teacher)
        return stages_of(self.network("pattern")), stages_of(teacher)


@dataclasses.dataclass(frozen=True)
class Trainee:
    """What a method trains.

    Attributes:
        model: A student or a distiller.
        students: Forward passes of students in a training step; parts of a student count by their
            multiply-adds.
        teachers: Forward passes of the teacher in a training step, over as many images as a student
            sees.
        views: Augmentations of each image in a batch.
        parts: Number of students that share a batch, each a part of its own. The batch is larger by
            that factor, and so is the number of epochs.
        ema_momentum: Momentum of the moving averages that take the place of the weights at the end,
            by step; `None` for the last weights.
    """

    model: keras.Model
    students: float = 1.0
    teachers: int = 0
    views: int = 1
    parts: int = 1
    ema_momentum: float | None = None


def stages_of(network: keras.Model) -> list[str]:
    """Returns the taps of a network's stages, in their order."""
    names = {layer.name for layer in network.layers}
    return [f"stage{n}" for n in range(1, 10) if f"stage{n}" in names]


def plain(task: Task) -> Trainee:
    """A student that learns from the labels only."""
    return Trainee(task.network("student"))


def single(task: Task, knowledge: Callable[[Task], list[mr.Knowledge]], labels=1.0) -> Trainee:
    """One student that is distilled from a teacher."""
    model = mr.Distiller(
        student=task.network("student"),
        teacher=task.teacher,
        knowledge=knowledge(task),
        supervised_weight=labels,
    )
    return Trainee(model, teachers=1)


def attention(task: Task, weight: Any = None) -> list[mr.Knowledge]:
    """Attention transfer of every stage; of the last ones, if a network has more than the other."""
    student, teacher = task.stages()
    few = min(len(student), len(teacher))
    pairs = zip(student[-few:], teacher[-few:], strict=True)
    return [mr.Feature("at", student=s, teacher=t, name=f"at_{s}", weight=weight) for s, t in pairs]


def hint(task: Task, weight: Any = None, stages: Sequence[str] = ("stage2",)) -> list[mr.Knowledge]:
    return [mr.Feature("hint", at=one, name=f"hint_{one}", weight=weight) for one in stages]


def relational(task: Task, weight: Any = None) -> list[mr.Knowledge]:
    losses = ("rkd_distance", "rkd_angle")
    return [mr.Relation(loss, at="embedding", weight=weight) for loss in losses]


def similarity(task: Task, weight: Any = None) -> list[mr.Knowledge]:
    student, teacher = task.stages()
    return [mr.Relation("sp", student=student[-1], teacher=teacher[-1], weight=weight)]


def decoupled(task: Task) -> list[mr.Knowledge]:
    """DKD with its warm-up, 20 of 240 epochs."""
    weight = mr.schedules.Linear(0.0, 1.0, steps=max(1, task.protocol.steps // 12))
    return [mr.Response("dkd", weight=weight)]


def shadow(task: Task) -> list[mr.Knowledge]:
    _, teacher = task.stages()
    return [
        mr.Response("kd"),
        mr.Feature("shake", student="logits", teacher=[*teacher, "logits"]),
    ]


def contrastive(task: Task, weight: Any = None) -> list[mr.Knowledge]:
    """CRD without KD, as published."""
    protocol = task.protocol
    memory = mr.adapters.get(
        "contrastive_memory", samples=protocol.samples, negatives=protocol.negatives
    )
    return [mr.Relation("crd", at="embedding", adapter=memory, weight=weight)]


def calibrated(task: Task, weight: Any = None) -> list[mr.Knowledge]:
    """KD and SemCKD between the stages of the protocol."""
    student, teacher = (stages[-(task.protocol.crossed or 0) :] for stages in task.stages())
    heads = mr.adapters.get("layer_attention", batch_size=task.protocol.batch)
    semckd = mr.Feature("semckd", student=student, teacher=teacher, adapter=heads, weight=weight)
    return [mr.Response("kd"), semckd]


def paper_knowledge(
    task: Task, semckd_weight: float | None = None
) -> dict[str, list[mr.Knowledge]]:
    """The knowledge of each student in the paper of ModReduce."""
    return {
        "response": [mr.Response("kd")],
        "feature": calibrated(task, semckd_weight),
        "relation": [mr.Response("kd"), *contrastive(task)],
    }


def modreduce(
    task: Task,
    *,
    aggregator: Any,
    names: Sequence[str] = KINDS,
    knowledge: Callable[[Task], dict[str, list[mr.Knowledge]]] = paper_knowledge,
    multipliers: dict[str, float] | None = mr.ModReduce.PAPER_MULTIPLIERS,
    online_weight: Callable[[int], Any] | None = None,
    online_loss: Callable[[], Any] | None = None,
) -> Trainee:
    """ModReduce, by default with the paper's knowledge and its growth of the online weight.

    Args:
        task: What it is given.
        aggregator: See `mr.ModReduce`.
        names: Names of the students.
        knowledge: Makes the knowledge of each.
        multipliers: See `mr.ModReduce`.
        online_weight: Makes the online weight of the number of steps.
        online_loss: Makes the online loss.
    """
    students = {name: task.network(name) for name in names}
    steps = task.protocol.steps
    grows = online_weight is None
    model = mr.ModReduce(
        teacher=task.teacher,
        students=students,
        knowledge=knowledge(task),
        multipliers=multipliers,
        aggregator=aggregator,
        steps=steps if grows else None,
        online_weight=None if grows else online_weight(steps),
        online_loss=online_loss and online_loss(),
    )
    return Trainee(model, 3.0 + ema_models(model), teachers=1)


def three(
    task: Task,
    names: Sequence[str],
    knowledge: Callable[[Task], dict[str, list[mr.Knowledge]]],
    multipliers: dict[str, float] | None = None,
) -> Trainee:
    """Three students trained independently, for the compute of ModReduce."""
    students = {name: task.network(name) for name in names}
    model = mr.ModReduce(
        teacher=task.teacher,
        students=students,
        knowledge=knowledge(task),
        multipliers=multipliers,
        aggregator="mean",
        online_weight=0.0,
    )
    return Trainee(model, 3.0, teachers=1)


def averaged(task: Task, knowledge: Callable[[Task], list[mr.Knowledge]]) -> Trainee:
    """Three students of equal initial weights that are pulled towards their mean (PAPA).

    Each sees images of its own.
    """
    model = mr.ModReduce(
        teacher=task.teacher,
        students=task.network("student"),
        recipe="peer_averaging",
        knowledge=alike(task, knowledge),
    )
    parts = len(model.students)
    return Trainee(model, 3.0, parts, parts=parts)


def alike(
    task: Task, knowledge: Callable[[Task], list[mr.Knowledge]]
) -> dict[str, list[mr.Knowledge]]:
    """The same knowledge for each of three students."""
    return {name: knowledge(task) for name in ALIKE}


def three_alike(knowledge: Callable[[Task], list[mr.Knowledge]]) -> Callable[[Task], Trainee]:
    """Returns what makes three independent students that learn from the same knowledge."""
    return partial(three, names=ALIKE, knowledge=partial(alike, knowledge=knowledge))


def dist_and_kinds(task: Task) -> dict[str, list[mr.Knowledge]]:
    """DIST for each of three students, and a loss of its own kind beside it."""
    return {
        "response": [mr.Response("dist")],
        "feature": [mr.Response("dist"), *hint(task)],
        "relation": [mr.Response("dist"), *contrastive(task)],
    }


def branches(task: Task, *, aggregator: str, number: int = 3, views: bool = False) -> Trainee:
    """Peers without a teacher that share their network up to the last stage but one."""
    student = task.network("student")
    branched = mr.models.branch(student, at=stages_of(student)[-2], branches=number)
    model = mr.PeerDistiller(
        branched,
        aggregator=aggregator,
        online_weight=mr.schedules.SigmoidRampUp(1.0, steps=max(1, task.protocol.steps // 3)),
        student_inputs=[f"view_{place}" for place in range(number)] if views else None,
    )
    parts = [branched.trunk] * (number if views else 1) + list(branched.heads.values())
    cost = sum(map(mr.evaluation.multiply_adds, parts)) / mr.evaluation.multiply_adds(student)
    return Trainee(model, cost + ema_models(model), views=number if views else 1)


def ema_models(distiller: mr.PeerDistiller) -> int:
    """Returns how many EMA models of the peers run in a step."""
    return len(distiller.students) if "averages" in distiller.aggregator.needs else 0


def kd(task: Task) -> list[mr.Knowledge]:
    return [mr.Response("kd", weight=0.9)]


def kd_even(task: Task) -> list[mr.Knowledge]:
    return [mr.Response("kd")]


def dist(task: Task) -> list[mr.Knowledge]:
    return [mr.Response("dist")]


def dist_and_hint(task: Task, **arguments: Any) -> list[mr.Knowledge]:
    return [*dist(task), *hint(task, **arguments)]


def by_dist(**changes: Any) -> Callable[[Task], Trainee]:
    """Returns what makes a ModReduce of three students with DIST, the labels with weight 1."""
    usual = {"aggregator": "weighted_average", "names": ALIKE, "multipliers": None}
    return partial(modreduce, **{**usual, "knowledge": partial(alike, knowledge=dist), **changes})


def by_moving_average(method: Callable[[Task], Trainee]) -> Callable[[Task], Trainee]:
    """Returns a method whose students end with averages of their weights, over about an epoch."""

    def made(task: Task) -> Trainee:
        momentum = 1.0 - task.protocol.epochs / task.protocol.steps
        return dataclasses.replace(method(task), ema_momentum=momentum)

    return made


AGGREGATORS = ("weighted_average", "fully_connected", "one", "pcl")
"""Those of ModReduce's paper; the last two in the paper's variants."""

BALANCED = "balanced"
"""The weight with which a term is as large as the loss on the labels in the first step."""

METHODS: dict[str, Callable[[Task], Trainee]] = {
    "plain": plain,
    "kd": partial(single, knowledge=kd, labels=0.1),
    "kd_even": partial(single, knowledge=kd_even),
    "hint": partial(single, knowledge=hint),
    "hint, balanced": partial(single, knowledge=partial(hint, weight=BALANCED)),
    "at": partial(single, knowledge=attention),
    "at, balanced": partial(single, knowledge=partial(attention, weight=BALANCED)),
    "at, a tenth": partial(single, knowledge=partial(attention, weight=100.0)),
    "sp": partial(single, knowledge=similarity),
    "sp, balanced": partial(single, knowledge=partial(similarity, weight=BALANCED)),
    "sp, a tenth": partial(single, knowledge=partial(similarity, weight=300.0)),
    "rkd": partial(single, knowledge=relational),
    "rkd, balanced": partial(single, knowledge=partial(relational, weight=BALANCED)),
    "crd": partial(single, knowledge=contrastive),
    "crd, balanced": partial(single, knowledge=partial(contrastive, weight=BALANCED)),
    "semckd": partial(single, knowledge=calibrated),
    "semckd, balanced": partial(single, knowledge=partial(calibrated, weight=BALANCED)),
    "semckd, a quarter": partial(single, knowledge=partial(calibrated, weight=100.0)),
    "dkd": partial(single, knowledge=decoupled),
    "dist": partial(single, knowledge=dist),
    "dist and hint": partial(single, knowledge=dist_and_hint),
    "dist and hint, last stage": partial(
        single, knowledge=partial(dist_and_hint, stages=["stage3"])
    ),
    "dist and hint, every stage": partial(
        single, knowledge=partial(dist_and_hint, stages=["stage1", "stage2", "stage3"])
    ),
    "dist and hint, a tenth": partial(single, knowledge=partial(dist_and_hint, weight=10.0)),
    "dist, moving average": by_moving_average(partial(single, knowledge=dist)),
    "shake": partial(single, knowledge=shadow),
    **{
        f"modreduce/{name}": lambda task, name=name: modreduce(
            task,
            aggregator=mr.aggregators.get(
                name, **({"variant": "modreduce"} if name in ("one", "pcl") else {})
            ),
        )
        for name in AGGREGATORS
    },
    "modreduce/weighted_average, even": partial(
        modreduce,
        aggregator="weighted_average",
        knowledge=partial(paper_knowledge, semckd_weight=100.0),
        multipliers=None,
    ),
    "modreduce/weighted_average, dist": by_dist(),
    "modreduce/weighted_average, dist, constant": by_dist(online_weight=lambda steps: 0.5),
    "modreduce/weighted_average, dist, late": by_dist(
        online_weight=lambda steps: mr.schedules.CutOff(0.7, steps=steps // 2)
    ),
    "modreduce/weighted_average, dist, temperature 1": by_dist(
        online_loss=lambda: mr.losses.KD(temperature=1.0)
    ),
    "modreduce/weighted_average, dist, moving average": by_moving_average(by_dist()),
    "modreduce/okddip, dist": by_dist(aggregator="okddip"),
    "modreduce/weighted_average, dist and kinds": by_dist(names=KINDS, knowledge=dist_and_kinds),
    "modreduce/peer_averaging, dist": partial(averaged, knowledge=dist),
    "modreduce/peer_averaging, dist and hint": partial(averaged, knowledge=dist_and_hint),
    "three/kd": three_alike(kd_even),
    "three/dist": three_alike(dist),
    "three/dist and hint": three_alike(dist_and_hint),
    "three/dist and kinds": partial(three, names=KINDS, knowledge=dist_and_kinds),
    "three/kinds": partial(
        three,
        names=KINDS,
        knowledge=paper_knowledge,
        multipliers=mr.ModReduce.PAPER_MULTIPLIERS,
    ),
    "one": partial(branches, aggregator="one"),
    "okddip": partial(branches, aggregator="okddip", number=4),
    "pcl": partial(branches, aggregator="pcl", views=True),
}
"""As `names.ORDER` has them. A tenth, a quarter: of the published weight. Even: the labels and KD
count alike for every student, of ModReduce without multipliers, and SemCKD with that quarter."""

ALONE = ("plain", "one", "okddip", "pcl")
"""Methods without a teacher."""
