"""The method `compile` of distillers: supervision, objective, policy, metrics for Keras."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras

from modreduce_keras.calls import answering
from modreduce_keras.distillers import balanced, checks, optimizers
from modreduce_keras.distillers.checks import compile_and_fit, heads, kind_checks
from modreduce_keras.distillers.checks.foreign import meant_by_compile
from modreduce_keras.distillers.gradients.base import GradientPolicy
from modreduce_keras.distillers.gradients.loss_scales import taken_apart
from modreduce_keras.distillers.metrics import metrics_of_logits, student_metrics
from modreduce_keras.distillers.metrics.labelled_metrics import of_labelled
from modreduce_keras.distillers.step import evaluating
from modreduce_keras.distillers.step.objective import Objective
from modreduce_keras.distillers.step.supervision import NamedSupervision, Supervision, supervision
from modreduce_keras.distillers.step.terms import Term
from modreduce_keras.keras_internals import (
    forget_compiled_metrics,
    present_attributes,
    set_unnoticed,
)
from modreduce_keras.knowledge import Knowledge
from modreduce_keras.knowledge.label_choice import require_ignored
from modreduce_keras.models.head_kinds import LOGITS
from modreduce_keras.output_kind import output_kinds


@dataclasses.dataclass
class Compilation:
    """What a distiller is compiled with, beside what Keras keeps.

    Attributes:
        arguments: Those of `compile`, by name.
        supervision: The compiled loss on the labels, or `None`.
        label_checks: What the labels have to be.
        evaluates_knowledge: Whether evaluation computes the terms of the training loss.
        fuses_normalization: Whether training steps compute batch normalizations by a fused kernel.
        scales_loss: Whether networks that compute in float16 get loss scales.
        objective: The loss; `None` until it is built.
        trainable: The paths of the students' trainable weights.
        has_warned: Whether it was said which terms evaluation leaves out.
        watches_balance: Whether the balance of the terms is still to be looked at.
    """

    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    supervision: Supervision | NamedSupervision | None = None
    label_checks: list[kind_checks.LabelCheck] = dataclasses.field(default_factory=list)
    evaluates_knowledge: bool = False
    fuses_normalization: bool = True
    scales_loss: bool = True
    objective: Objective | None = None
    trainable: frozenset[str] = frozenset()
    has_warned: bool = False
    watches_balance: bool = True


@contextlib.contextmanager
def unchanged_on_error(distiller: Any) -> Iterator[None]:
    """Leaves a distiller as it was if a block raises that compiles it."""
    scales = vars(distiller).get("_loss_scales")
    held = [distiller] if scales is None else [distiller, scales]
    restores = [present_attributes(one) for one in held]
    values = [] if scales is None else scales.get_weights()
    try:
        yield
    except BaseException:
        for restore in restores:
            restore()
        if scales is not None:
            scales.set_weights(values)
        raise


def all_or_nothing(compiles: Callable[..., None]) -> Callable[..., None]:
    """Decorates a `compile` of a distiller, which changes nothing if it raises."""

    @functools.wraps(compiles)
    def compile_whole(self: Any, *args: Any, **kwargs: Any) -> None:
        with unchanged_on_error(self):
            compiles(self, *args, **kwargs)

    return compile_whole


@answering(meant_by_compile)
@all_or_nothing
def compile(  # noqa: D417
    self: Any,
    optimizer: Any = "rmsprop",
    loss: Any = None,
    metrics: Any = None,
    weighted_metrics: Any = None,
    *,
    evaluate_knowledge: bool | None = None,
    on_nonfinite: str | None = None,
    fused_normalization: bool = True,
    run_eagerly: bool = False,
    steps_per_execution: int = 1,
    jit_compile: bool | str = "auto",
    auto_scale_loss: bool = True,
    loss_weights: None = None,
) -> None:
    """Configures training, as `keras.Model.compile` does.

    Args:
        optimizer: One optimizer for everything that trains, or a dict with one for each
            group: the students by name, and `"aggregator"` where there is one that learns.
            Layers of a student may have their own, under their name, their path through
            nested models or a pattern of these (`"logits"`, `"backbone/block_1"`,
            `"block_*"`); the innermost layer with a key decides, and the key of the student
            (`"student"`, where there is one) is for the rest and the adapters:
            `{"logits": Adam(1e-3), "student": Adam(1e-5)}`.
        loss: Loss on the labels, the same for every student, or `None` to train on the teacher's
            outputs alone. For a student that returns a dict, a dict by output.
            `SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)` trains on labelled
            and unlabelled samples together: samples with label -1 are left out of this loss, which
            is the mean over the labelled samples of the batch; knowledge uses all samples. (With
            several replicas, the mean is over all replicas. It is 0 if no sample is labelled.)
        metrics: List of metrics; each student gets its own copy. With several students also a
            dict from student (or `"ensemble"`) to list. Names are interpreted for logits:
            `"accuracy"` of one logit, or of several independent labels, uses the threshold 0.
            Keras metrics of probabilities (`AUC()`, `Precision()`, `BinaryAccuracy()`,
            `"auc"`, ...) receive probabilities: sigmoids if the loss is binary, else a
            softmax. Metrics that are set to logits (`AUC(from_logits=True)`,
            `Precision(thresholds=0)`, `BinaryAccuracy(threshold=0)`), and your own metrics,
            receive the logits. Samples, and positions, whose label is the `ignore_class` of the
            loss do not count in metrics that are means: accuracies, cross-entropies, functions.
        weighted_metrics: As `metrics`, weighted by `sample_weight`.
        evaluate_knowledge: Whether `evaluate` and validation compute every term of the training
            loss, so that `val_loss` is their weighted sum and each term is logged (`val_kd`). The
            models run in inference mode, and the weights of the terms are those of the current
            step. The teacher then runs on these data too, or its outputs are read from the batches
            of `cache.attach(dataset)`. No weights or statistics change. Terms that need the index
            of each sample in the training data (CRD's memory bank, temporal ensembling) are left
            out. `None`, the default: only if there is no loss on the labels. With a loss on the
            labels, only the students run, and `val_loss` is the sum of their compiled losses and
            regularizers.
        on_nonfinite: What to do if a term of the loss, or a gradient, is not finite on any
            replica. `"stop"`: `fit` ends with a `NonFiniteError` that names the student, the
            term and the step, before any callback can save; the weights are those before the
            step. `"skip"`: the step of that student is skipped and counted
            (`nonfinite_steps`, `skipped_steps`), with a warning the first time. Schedules
            count such a step, and EMA weights are updated. `None`, the default: no check,
            except when float16 is trained with loss scales.
        fused_normalization: Whether training steps compute batch normalizations with one
            fused kernel instead of Keras' dozen operations, where this is possible. The result
            is the same up to rounding, and the models are not changed. Defaults to `True`.
        run_eagerly: As in Keras.
        steps_per_execution: As in Keras.
        jit_compile: As in Keras.
        auto_scale_loss: As in Keras. Each student that computes in float16 gets its own loss
            scale; a `keras.optimizers.LossScaleOptimizer` only sets how it begins and grows.
        loss_weights: Must be `None`: terms are weighted by `supervised_weight` and by the
            `weight` of each knowledge.

    Raises:
        ValueError: If the loss expects probabilities and the students give logits, if a student
            has no trainable weights, if `evaluate_knowledge=True` and no such term can be
            computed in evaluation, if the loss and a knowledge are for different kinds of
            outputs (such as a binary cross-entropy and `"kd"`, where `"binary_kd"` is right),
            or if the optimizers do not fit the groups.
    """
    given = {
        "optimizer": optimizer,
        "loss": loss,
        "metrics": metrics,
        "weighted_metrics": weighted_metrics,
        "evaluate_knowledge": evaluate_knowledge,
        "on_nonfinite": on_nonfinite,
        "fused_normalization": fused_normalization,
        "run_eagerly": run_eagerly,
        "steps_per_execution": steps_per_execution,
        "jit_compile": jit_compile,
        "auto_scale_loss": auto_scale_loss,
    }
    require_compilable(self, given, loss_weights, self._forward.teachers)
    self.compilation = compilation(self, given)
    arguments, schedules = arguments_for_keras(self, given)
    forget_compiled_metrics(self)
    keras.Model.compile(self, **arguments)
    set_unnoticed(self, "loss", loss)  # Keras too tracks nothing of a loss
    self.optimizer.build(self.trainable_variables)
    prepare_step(self, schedules if auto_scale_loss else None, on_nonfinite)
    if evaluate_knowledge:
        evaluating.require_evaluable(self.objective())


def require_compilable(
    distiller: Any, given: Mapping[str, Any], loss_weights: Any, teachers: Sequence[keras.Model]
) -> None:
    """Raises if a distiller cannot be compiled, or not with these arguments."""
    compile_and_fit.require_compile({**given, "loss_weights": loss_weights})
    compile_and_fit.require_trainable(distiller.students)
    compile_and_fit.require_apart(distiller.students, teachers)
    compile_and_fit.require_jit(given["jit_compile"], teachers)
    compile_and_fit.require_parts_in_scope(distiller)


def compilation(distiller: Any, given: Mapping[str, Any]) -> Compilation:
    """Returns what arguments of `compile` mean for a distiller; its objective is the former one.

    Raises:
        ValueError: If the loss does not fit; see `supervised`.
    """
    made, label_checks = supervised(distiller, given["loss"])
    return Compilation(
        arguments=given,
        supervision=made,
        label_checks=label_checks,
        evaluates_knowledge=evaluating.evaluates_knowledge(given["evaluate_knowledge"], made),
        fuses_normalization=given["fused_normalization"],
        scales_loss=given["auto_scale_loss"],
        objective=distiller.compilation.objective,
        trainable=compile_and_fit.trainable_paths(distiller.students),
    )


def arguments_for_keras(
    distiller: Any, given: Mapping[str, Any]
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Returns the arguments of Keras' own `compile`, and how loss scales begin and grow."""
    groups = distiller.variable_groups()
    optimizer, schedules = taken_apart(given["optimizer"], groups)
    metrics = {
        name: metrics_for_keras(distiller, given[name], given["loss"])
        for name in ("metrics", "weighted_metrics")
    }
    optimizer = optimizers.resolve(optimizer, groups, distiller.students)
    logged = distiller.names_in_logs()
    compile_and_fit.require_metrics(list(metrics.values()), distiller.all_knowledge(), logged)
    passed_on = ("run_eagerly", "steps_per_execution", "jit_compile")
    own = {name: given[name] for name in passed_on}
    return {"optimizer": optimizer, **metrics, **own, "auto_scale_loss": False}, schedules


def prepare_step(
    distiller: Any, schedules: Mapping[str, Any] | None, on_nonfinite: str | None
) -> None:
    """Builds the objective and the gradient policy of a distiller.

    Args:
        distiller: The distiller, whose optimizer is built.
        schedules: How loss scales begin and grow, where not as by default; `None` for none.
        on_nonfinite: See `BaseDistiller.compile`.

    Raises:
        TypeError: If what a subclass makes is no list of terms, or no policy.
        ValueError: If a term trains a network that there is not, or a weight is balanced with
            nothing.
    """
    terms, owner = distiller.build_terms(), type(distiller).__name__
    if not (isinstance(terms, (list, tuple)) and all(isinstance(t, Term) for t in terms)):
        raise TypeError(
            f"build_terms of {owner} must return a list of modreduce_keras.distillers.Term. "
            f"Received: {terms!r}"
        )
    balanced.require_measure(terms, [one for one in distiller.all_knowledge() if not one.staged])
    distiller.compilation.objective = objective(distiller, terms)
    policy = distiller.build_gradient_policy(schedules, on_nonfinite)
    if not isinstance(policy, GradientPolicy) or (on_nonfinite and policy.guard is None):
        raise TypeError(
            f"build_gradient_policy of {owner} must return a GradientPolicy, and one with a "
            f"guard where compile(on_nonfinite=) asks for it. Received: {policy!r}, "
            f"{on_nonfinite=}"
        )
    checks.require_networks(terms, list(policy.networks), list(distiller.students))
    policy.transform = distiller.transform_gradients
    distiller.policy = policy


def objective(distiller: Any, terms: Iterable[Term]) -> Objective:
    """Returns the loss of a distiller, of these terms."""
    evaluates_all = distiller.compilation.evaluates_knowledge
    return Objective(list(terms), distiller.logged_names(), evaluates_all=evaluates_all)


def supervised(
    distiller: Any, loss: Any
) -> tuple[Supervision | NamedSupervision | None, list[kind_checks.LabelCheck]]:
    """Returns the compiled loss, and what the labels have to be.

    Raises:
        ValueError: If the loss does not fit the students' heads, a part that compares their
            outputs, or what a knowledge takes for labels.
    """
    output, made = distiller.student_output(), None
    if loss:
        made = supervision(loss, output)
        for student in distiller.students.values():
            made.require_fitting_head(student)
        _require_ignored(distiller.all_knowledge(), made, output)
    kinds = output_kinds(loss, output)
    return made, kind_checks.require_fitting(distiller.parts_on_outputs(), kinds, loss)


def _require_ignored(
    several: Sequence[Knowledge], made: Supervision | NamedSupervision, output: Any
) -> None:
    """Raises if a knowledge takes labels for classes that the loss of their output leaves out."""
    for rule in made.label_rules(output):
        shape = (output if rule.output is None else output[rule.output]).shape
        for one in several:
            own = one.student if one.labels is None else one.labels
            if rule.output in (None, own):
                for ignored in rule.ignored:
                    require_ignored(one, ignored, rule.classes, on_maps=len(shape) == 4)


def metrics_for_keras(distiller: Any, given: Any, loss: Any) -> Any:
    """Returns metrics as Keras' `compile` takes them, for the logits of every student.

    Args:
        distiller: The distiller.
        given: What its `compile` was given.
        loss: The compiled loss.
    """
    if distiller.has_several:
        given = student_metrics.for_each_student(given, distiller.measured())
    student = next(iter(distiller.students.values()))  # they are alike
    is_logits = functools.partial(_is_logits, student, distiller.compilation.supervision)
    made_of_logits = metrics_of_logits.for_outputs(
        given, loss, distiller.student_output(), is_logits
    )
    return None if given is None else of_labelled(made_of_logits, loss)


def _is_logits(
    student: keras.Model,
    made: Supervision | NamedSupervision | None,
    output: str | None = None,
) -> bool:
    """Returns whether a student gives logits at an output.

    Where the head cannot be told, the compiled loss says what it takes them for.
    """
    head = heads.of_model(student, output).head(output)
    if head is not None:
        return head == LOGITS
    return made is None or made.from_logits(output) is not False
