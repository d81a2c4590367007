"""ModReduce: offline distillation of several kinds of knowledge together with online learning."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras

from modreduce_keras import registry
from modreduce_keras.arguments import is_number
from modreduce_keras.calls import by_name
from modreduce_keras.distillers import checks, recipes
from modreduce_keras.distillers.checks.foreign import former_modreduce
from modreduce_keras.distillers.checks.shares import Share
from modreduce_keras.distillers.peer_averaging import PeerAveraging
from modreduce_keras.distillers.peers import PeerDistiller
from modreduce_keras.distillers.step.terms import Term
from modreduce_keras.knowledge import Feature, Knowledge, Relation, Response
from modreduce_keras.registry import register
from modreduce_keras.schedules import Exponential


@register("distiller", "modreduce")
class ModReduce(PeerDistiller):
    """Trains students that each learn one kind of knowledge offline, and all from one another.

    For each student i, with w the online weight and K_k its knowledge:

    total_i = (1 - w) · m_i · (CE_i + Σ_k weight_k K_k) / (1 + Σ_k weight_k) + w · online(z_i, z_e)

    (CE is multiplied by the supervised weight, 1 by default.) The aggregator is trained on the
    labels at the same time, on logits behind stopped gradients.

    With `recipe="peer_averaging"`, equal students train on different samples, and their weights are
    averaged instead of their outputs: every ten steps, each student moves 1 % towards the mean. (To
    change this, pass your own `mr.callbacks.PeerAveraging` to `fit`.) If `students` is a single
    model, three copies of it are trained. Each batch is split between the students, so use batches
    and epochs P times as large as for one student, for P students: each then takes as many steps,
    on batches of the usual size. No student learns from the outputs of another.

    Args:
        teacher: The trained model to learn from, which is never changed; a list of several; or
            `None` for students that learn only from labels and from one another.
        students: See `PeerDistiller`; usually `{"response": ..., "feature": ..., "relation": ...}`.
            Their architectures may differ. With a recipe, one model is enough.
        recipe: `None`, the default: the method of the paper. `"peer_averaging"`: the recipe
            described above, which was more accurate in our measurements.
        knowledge: What each student learns: a dict from student to what `mr.Distiller` takes.
            `None` is the paper's knowledge for three students with the names above
            (`paper_knowledge`), with the paper's multipliers, and needs `samples`. With a recipe,
            `None` is the default of `mr.Distiller` for each student, and names of losses, such as
            `"kd"`, are for all of them.
        aggregator: See `PeerDistiller`. Defaults to `"auto"`: `"weighted_average"`, or `None` with
            a recipe. With `None`, w is 0.
        online_weight: The share w of the online loss, from 0 to 1: a number or a schedule;
            `schedules.CutOff(0.7, steps=...)` for the paper's asynchronous variant. `None`, the
            default, is the paper's increase from 0.01 to 0.7 in 24 stairs if `steps` is given, and
            0.5 otherwise.
        online_loss: See `PeerDistiller`. Defaults to `KD(temperature=4)`, and to
            `BinaryKD(temperature=4)` for students with one logit.
        multipliers: Positive m by student. A student without a multiplier has
            m_i = 1 + Σ_k weight_k, which cancels the normalization: its labels then have weight 1,
            as in `Distiller`. Defaults to none.
        samples: Number of training samples, for the memory bank of the paper's knowledge; the
            data then need `mr.data.with_index`. Only with `knowledge=None`.
        steps: Total number of training steps, for the paper's increase of the online weight. Only
            with `online_weight=None`.
        supervised_weight: See `PeerDistiller`.
        features_at: See `PeerDistiller`.
        student_inputs: See `PeerDistiller`.
        split_batches: See `PeerDistiller`. `None`, the default, is `True` with a recipe, and
            `False` without.
        teacher_input: See `PeerDistiller`.
        teacher_dtype: See `PeerDistiller`.
        criterion: See `PeerDistiller`.
        criterion_mode: See `PeerDistiller`.
        name: Name of the model. Defaults to the name of the class.
        dtype: Dtype policy of the distiller itself. Defaults to the global one.
        trainable: As for every Keras model. Defaults to `True`.

    Raises:
        ValueError: See `PeerDistiller`; also if a multiplier is not positive, the online weight is
            above 1, `knowledge=None` comes without `samples` or with students of other names,
            `samples` or `steps` would have no effect, or a recipe is unknown or comes with an
            argument that it decides.

    Example:
        >>> import modreduce_keras as mr
        >>> def net(widths):
        ...     return mr.models.get("convnet", num_classes=3, widths=widths)
        >>> modreduce = mr.ModReduce(
        ...     teacher=net((8, 16)),
        ...     students={name: net((4, 8)) for name in ("response", "feature", "relation")},
        ...     knowledge={
        ...         "response": [mr.Response("kd")],
        ...         "feature": [mr.Response("kd"), mr.Feature("hint", at="stage2")],
        ...         "relation": [mr.Response("kd"), mr.Relation("rkd_distance", at="embedding")],
        ...     },
        ... )
        >>> modreduce.compile("sgd", mr.losses.LogitMSE())
        >>> list(modreduce.term_weights())[:3]
        ['response/logit_mse', 'response/kd', 'feature/logit_mse']

        With the recipe, which trains three copies of the student:

        >>> better = mr.ModReduce(
        ...     teacher=net((8, 16)), students=net((4, 8)), recipe="peer_averaging"
        ... )
        >>> list(better.students), better.split_batches
        (['student_0', 'student_1', 'student_2'], True)

    Reference:
        ModReduce: A Multi-Knowledge Distillation Framework with Online Learning, 2023. The paper's
        losses in addition to KD are SemCKD (weight 400, multiplier 100) and CRD (0.8, multiplier
        1), with multiplier 10 for the response student; here any knowledge can be used. The
        recipe is PopulAtion Parameter Averaging (Jolicoeur-Martineau et al., 2024), with a teacher.
    """

    online_weight = Share()
    _online_temperature = 4.0
    PAPER_MULTIPLIERS: ClassVar = {"response": 10.0, "feature": 100.0, "relation": 1.0}

    @by_name(
        "mr.ModReduce(teacher=..., students=...)",
        why="so that students and teacher are not swapped",
        former=former_modreduce,
    )
    def __init__(
        self,
        *,
        teacher: Any,
        students: Any,
        recipe: str | None = None,
        knowledge: Any = None,
        aggregator: Any = "auto",
        online_weight: Any = None,
        online_loss: Any = None,
        multipliers: Mapping[str, float] | None = None,
        samples: int | None = None,
        steps: int | None = None,
        supervised_weight: Any = 1.0,
        features_at: str | Mapping[str, str] = "embedding",
        student_inputs: Any = None,
        split_batches: bool | None = None,
        teacher_input: Any = None,
        teacher_dtype: str | None = None,
        criterion: str | None = None,
        criterion_mode: str | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        if recipe is not None:
            decided = {"samples": samples, "steps": steps, "online_loss": online_loss}
            decided["online_weight"] = online_weight or None  # files have 0
            decided |= {"student_inputs": student_inputs, "teacher_input": teacher_input}
            decided["split_batches"] = None if split_batches is True else split_batches
            recipes.require_free(recipe, aggregator, decided)
            students, knowledge = recipes.completed(students, knowledge, teacher)
            aggregator, split_batches = None, True
        elif aggregator == recipes.AUTO:
            aggregator = "weighted_average"
        _require_used("samples", samples, teacher is not None and knowledge is None)
        _require_used("steps", steps, online_weight is None and aggregator is not None)
        _require_used("online_weight", online_weight or None, aggregator is not None)
        if knowledge is None and teacher is not None:
            knowledge = self._paper_knowledge_for(students, samples)
            multipliers = self.PAPER_MULTIPLIERS if multipliers is None else multipliers
        if online_weight is None and aggregator is None:
            online_weight = 0.0
        elif online_weight is None:
            online_weight = 0.5 if steps is None else Exponential(0.01, 0.7, steps=steps, stairs=24)
        super().__init__(
            students,
            teacher=teacher,
            knowledge=knowledge,
            aggregator=aggregator,
            online_weight=online_weight,
            online_loss=online_loss,
            supervised_weight=supervised_weight,
            features_at=features_at,
            student_inputs=student_inputs,
            split_batches=False if split_batches is None else split_batches,
            teacher_input=teacher_input,
            teacher_dtype=teacher_dtype,
            criterion=criterion,
            criterion_mode=criterion_mode,
            name=name,
            dtype=dtype,
            trainable=trainable,
        )
        self.recipe, self.multipliers = recipe, _checked_multipliers(multipliers, self.students)

    @classmethod
    def _paper_knowledge_for(cls, students: Any, samples: int | None) -> dict[str, list[Knowledge]]:
        expected = list(cls.PAPER_MULTIPLIERS)
        named = students if isinstance(students, Mapping) else getattr(students, "students", None)
        received = list(named) if isinstance(named, Mapping) else students
        if samples is None or received is students or set(received) != set(expected):
            raise ValueError(
                "knowledge=None is the paper's knowledge, for students named "
                f"{expected} and with samples=, the number of training samples. Give those, or "
                "knowledge= as a dict from student to list. Received: students="
                f"{received}, {samples=}"
            )
        return cls.paper_knowledge(samples)

    @staticmethod
    def paper_knowledge(
        samples: int,
        *,
        batch_size: int = 64,
        stages: Sequence[str] = ("stage1", "stage2", "stage3"),
        embedding: str = "embedding",
    ) -> dict[str, list[Knowledge]]:
        """Returns the paper's knowledge: KD for all, and SemCKD or CRD in addition for one each.

        Args:
            samples: Number of training samples, which CRD's memory bank holds.
            batch_size: Size of the training batches, which SemCKD's attention is made for. Others
                work too, see `mr.adapters.LayerAttention`. Defaults to 64, the paper's.
            stages: Taps of student and teacher that SemCKD compares.
            embedding: Tap of student and teacher that CRD compares.

        Returns:
            Knowledge for students named `"response"`, `"feature"` (SemCKD, weight 400) and
            `"relation"` (CRD, weight 0.8), each with KD at temperature 4 and weight 1.
        """
        memory = registry.get("adapter", "contrastive_memory", samples=samples)
        attention = registry.get("adapter", "layer_attention", batch_size=batch_size)
        taps: dict[str, Any] = {"student": list(stages), "teacher": list(stages)}

        def kd() -> Any:
            return Response(registry.get("loss", "kd", temperature=4.0), weight=1.0)

        return {
            "response": [kd()],
            "feature": [kd(), Feature("semckd", **taps, adapter=attention, weight=400.0)],
            "relation": [kd(), Relation("crd", at=embedding, adapter=memory, weight=0.8)],
        }

    def own_callbacks(self, given: list[Any]) -> list[keras.callbacks.Callback]:
        """Returns the callbacks that `fit` puts first, with that of the recipe if it needs one."""
        own = super().own_callbacks(given)
        has_one = any(isinstance(one, PeerAveraging) for one in given)
        if self.recipe == recipes.PEER_AVERAGING and not has_one:
            own.append(PeerAveraging())
            own[-1].set_model(self)
        return own

    def offline_terms(self) -> list[Term]:
        """Returns the terms on the labels and the teacher's outputs, rescaled."""
        return [
            term.scaled(functools.partial(self._offline_scale, term.student))
            for term in super().offline_terms()
        ]

    def _offline_scale(self, name: str | None) -> Any:
        """Returns (1 - w) · m / (1 + Σ_k weight_k) of a student; 1 - w if it has no multiplier."""
        offline = 1.0 - self.online_weight
        if name not in self.multipliers:
            return offline
        weights = [one.weight_in_loss() for one in self.knowledge[str(name)] if not one.staged]
        return offline * self.multipliers[name] / (1.0 + sum(weights))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        return {
            **super().get_config(),
            "recipe": self.recipe,
            "multipliers": dict(self.multipliers),
        }


def _checked_multipliers(multipliers: Any, students: Mapping[str, Any]) -> dict[str, float]:
    """Returns the multipliers by student, or raises if they are invalid."""
    checks.require_by_student("multipliers", multipliers, "{'a': 3.0}")
    given = dict(multipliers or {})
    wrong = {
        name: multiplier
        for name, multiplier in given.items()
        if name not in students or not (is_number(multiplier) and multiplier > 0)
    }
    if wrong:
        raise ValueError(
            f"multipliers must be positive numbers by student, one of {list(students)}. "
            f"Received: {wrong}"
        )
    return given


def _require_used(name: str, value: Any, used: bool) -> None:
    """Raises if an argument was given that has no effect."""
    if value is None or used:
        return
    what = {
        "samples": "for the paper's knowledge, which knowledge=None and a teacher stand for",
        "online_weight": "of what students learn from one another through an aggregator",
        "steps": "for the paper's growth of the online weight, which online_weight=None stands for",
    }[name]
    raise ValueError(f"{name} is {what}; here it would do nothing. Received: {name}={value!r}")
