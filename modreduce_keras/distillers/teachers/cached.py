"""CachedTeacher: a teacher whose outputs come with the batch.

They are from a `mr.data.TeacherCache`, or all that there is of the teacher
(`mr.data.TeacherOutputs`).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from modreduce_keras.data import TeacherCache, TeacherOutputs
from modreduce_keras.data.index import teacher_outputs_of
from modreduce_keras.data.outputs_only import not_attached
from modreduce_keras.data.student_views import key_of_view
from modreduce_keras.distillers.checks.heads import compares_plain_numbers
from modreduce_keras.distillers.step.inputs import Inputs
from modreduce_keras.distillers.teachers.forms import AS_GIVEN
from modreduce_keras.distillers.teachers.live import LiveTeacher
from modreduce_keras.knowledge import Knowledge, Response
from modreduce_keras.output_kind import CLASSES, REGRESSION, UNKNOWN, output_kind
from modreduce_keras.taps import ModelOutput
from modreduce_keras.top_k import TopK


class CachedTeacher:
    """Reads a teacher's outputs from the batch, and runs it where they are missing and it may.

    The model of a cache runs outside of training, a function in any step, and stored outputs never.
    Where a cache has the largest logits alone, its model runs outside of training in any case.

    Args:
        cache: The cache, which holds on to the teacher; or the outputs of one.
        taps: Names of the taps to read.
        inputs: Tells what of a batch the teacher sees.
        dtype: Has to be `None`: the cache says what is stored.
        specs: Symbolic inputs of a teacher that does not say what it takes.

    Raises:
        ValueError: If a tap is not in the cache, or the teacher would see something other than the
            inputs that the cache was filled with.
    """

    def __init__(
        self,
        cache: TeacherCache | TeacherOutputs,
        taps: list[str],
        inputs: Inputs,
        dtype: str | None = None,
        *,
        specs: Any = None,
    ):
        if dtype is not None:
            why = (
                "A teacher in a cache does not run: teacher_dtype= would do nothing, and "
                "mr.data.TeacherCache(dtype=) sets the stored dtype."
                if isinstance(cache, TeacherCache)
                else "A teacher that is only outputs has no dtype to compute in: leave out "
                "teacher_dtype."
            )
            raise ValueError(f"{why} Received: teacher_dtype={dtype!r}")
        self._inputs = inputs
        if isinstance(cache, TeacherCache) or cache.holds_rows:
            _require_seen_alike(cache, inputs)
        self._live = LiveTeacher(cache.teacher, taps, inputs, AS_GIVEN, specs=specs)
        self.awaits_batch, self.forms = False, self._live.forms
        self.models, self.model = self._live.models, self._live.model
        self.reader, self.specs = self._live.reader, self._live.specs
        # What the teacher ends with is stored as its output.
        self._output_taps = set(self.reader.output_taps())
        missing = sorted(set(self.reader.taps) - set(cache.taps) - self._output_taps)
        if missing:
            raise ValueError(
                f"The knowledge reads taps of the teacher that are not in the cache: {missing}. "
                f"Those in it are {cache.taps}; give a new cache the others too, "
                "mr.data.TeacherCache(taps=)"
            )
        self.given = cache
        self._top_k, self._rest = None, "one"
        if isinstance(cache, TeacherCache):
            self._top_k, self._rest = cache.top_k, cache.rest
        self._fingerprint = cache.fingerprint()

    def look_at(
        self, x: Any, seen: Mapping[str, Any], *, jit_compile: bool, measures: bool
    ) -> None:
        """Chooses nothing: what is stored are the outputs of the model itself."""

    def settle(self, forms: Sequence[str]) -> None:
        """Chooses nothing."""

    def follow(self) -> bool:
        """Notes which outputs are the teacher's.

        Returns:
            Whether steps have to be traced anew: they look for the outputs of one teacher, whose
            weights may have changed too.
        """
        before, self._fingerprint = self._fingerprint, self.given.fingerprint()
        return self._live.follow() or before != self._fingerprint

    def chosen_by(self, taps: list[str]) -> keras.Model:
        """Returns the model that some taps are of."""
        return self._live.chosen_by(taps)

    def specs_of_output(self) -> ModelOutput:
        """Returns the teacher's symbolic output and features; masks are not stored."""
        return self._live.specs_of_output()._replace(masks={})

    def require_comparable(self, knowledge: Iterable[Knowledge], output: ModelOutput) -> None:
        """Raises unless each knowledge can do with the outputs that there are.

        They may be the largest logits alone, or probabilities of classes or of labels.

        Args:
            knowledge: What the students learn.
            output: The teacher's symbolic output.
        """
        few = self._few(output.logits)
        for one in knowledge:
            if isinstance(self.given, TeacherOutputs) and one.loss.needs_teacher:
                _require_kind(self.given, one)
            taps: set[str | None] = set(one.taps("teacher")) or {None}
            reason = why_not_few(one, self._rest) if one.loss.needs_teacher else None
            if reason is not None and few & taps:
                raise ValueError(
                    f"Knowledge {one.name!r} cannot learn from the {self._top_k} largest "
                    f"logits that the cache holds: {reason}. A cache without top_k= holds all. "
                    f"Received: the loss {one.loss.name!r}"
                )

    def _few(self, logits: Any) -> set[str | None]:
        """Returns the taps of which the largest logits are stored; `None` is the output itself."""
        number, kept = self._top_k, set(self.given.taps)
        if number is None:
            return set()
        if isinstance(logits, Mapping):
            return {name for name, one in logits.items() if one.shape[-1] > number}
        return {None, *(self._output_taps - kept)} if logits.shape[-1] > number else set()

    def _taught(self, logits: Any) -> Any:
        """Returns stored logits, without the rest where it is not to be compared."""
        if isinstance(logits, Mapping):
            return {name: self._taught(one) for name, one in logits.items()}
        leaves_out = isinstance(logits, TopK) and self._rest != "one"
        return logits.without_rest() if leaves_out else logits

    def outputs_for(
        self, x: Any, seen: Mapping[str, Any], training: bool = True
    ) -> dict[str, ModelOutput]:
        """Returns what the batch has of the teacher, the same for each student.

        Raises:
            ValueError: If it is a batch to train on and has nothing, or that of another cache, or
                it has outputs and the teacher sees something other than the batch.
        """
        stored = teacher_outputs_of(x)
        if self._may_run(training) and (stored is None or self._top_k is not None):
            return self._live.outputs_for(x, seen)
        if stored is None:
            raise ValueError(
                f"{self._not_attached()} Received: x={keras.tree.map_structure(_described, x)}"
            )
        _require_seen_alike(self.given, self._inputs)
        views = {student: self._inputs.key_of(student) for student in seen}
        outputs = {view: self._output(stored, view) for view in dict.fromkeys(views.values())}
        return {student: outputs[view] for student, view in views.items()}

    def _output(self, stored: Mapping[str, Any], view: str | None) -> ModelOutput:
        """Returns the teacher's output in a batch for one view of it; `None` is the batch."""
        key = key_of_view(self._fingerprint, view)
        if key not in stored:
            apart = self._inputs.teacher_follows_students
            without = self._without_view(view) if apart else self._other_outputs()
            raise ValueError(f"{without} Received: fingerprint {list(stored)}, expected {key!r}")
        logits, features = (stored[key][name] for name in ("logits", "features"))
        if isinstance(logits, tuple) and not isinstance(logits, TopK):  # of several teachers
            logits = list(logits)
            features = dict(zip(self.given.taps, logits, strict=True))
        logits = self._taught(logits)
        features = dict.fromkeys(self._output_taps, logits) | features
        left_out = sorted(set(self.reader.taps) - set(features))
        if left_out:
            raise ValueError(
                f"The batch is without taps of the teacher that the knowledge reads: {left_out}. "
                f"It has {sorted(features)}, by cache.attach(dataset, taps=)"
            )
        named = {name: logits[name] for name in self.reader.outputs}
        return ModelOutput(logits, {tap: features[tap] for tap in self.reader.taps} | named)

    def _may_run(self, training: bool) -> bool:
        return self.given.runs if isinstance(self.given, TeacherOutputs) else not training

    def _other_outputs(self) -> str:
        if isinstance(self.given, TeacherOutputs):
            return (
                "The batch has other outputs than the distiller's teacher: of another number of "
                "teachers or classes, of independent labels or not, or of a cache. Attach those of "
                "the distiller's mr.data.TeacherOutputs, or of one with the same arguments."
            )
        return (
            "The batch has outputs of another cache than the distiller's: another teacher, or "
            "other taps, views or dtype."
        )

    def _without_view(self, view: str | None) -> str:
        if view is None:
            return (
                "With a cache, student_inputs= must have a key of x for each student, or for none."
            )
        keys = list(dict.fromkeys(map(self._inputs.key_of, self._inputs.own)))
        return (
            f"The batch has no outputs of the teacher for {view!r}, which a student sees. Train on "
            f"cache.attach(dataset, student_inputs={keys})."
        )

    def _not_attached(self) -> str:
        if isinstance(self.given, TeacherOutputs):
            return not_attached()
        return (
            "The batch has no outputs of the teacher. Train on cache.attach(dataset), which "
            "adds them."
        )


def _require_seen_alike(given: TeacherCache | TeacherOutputs, inputs: Inputs) -> None:
    """Raises if the teacher would see something other than what its outputs are of."""
    if not (inputs.teacher_is_apart or inputs.teacher_follows_students):
        return
    if isinstance(given, TeacherCache) and inputs.students_have_keys:
        return  # `attach` looks for the outputs of each view
    view = "teacher_input=" if inputs.teacher_is_apart else "student_inputs="
    alike = "for the inputs x of the batch as they are"
    if isinstance(given, TeacherCache):
        raise ValueError(
            f"A cache has the teacher's outputs {alike}, or for views that are keys of x, one for "
            "each student: student_inputs=['view_0', 'view_1']. Fill it from data that the teacher "
            "and the students see alike, or give the teacher itself. Received: a TeacherCache with "
            + view
        )
    raise ValueError(
        f"Stored outputs, and those that attach computes, are {alike}: leave out {view} and make "
        "what each side sees in the dataset or in the models; or, for a function as the teacher, "
        f"fit on data without attach. Received: a TeacherOutputs with {view}"
    )


def _require_kind(given: TeacherOutputs, knowledge: Knowledge) -> None:
    """Raises if probabilities are of another kind than a loss compares."""
    if given.kind is None:
        return
    kinds = knowledge.loss.output_kinds
    if kinds is None and given.kind == CLASSES and _compares_numbers(knowledge.loss):
        reason = (
            "takes logits as numbers, and probabilities of classes give them up to a constant "
            "alone: mr.Response('kd') compares classes, and logits= takes logits or plain numbers"
        )
    elif kinds is None or given.kind in kinds:
        return
    elif kinds == (REGRESSION,):
        reason = (
            "compares the numbers of a regression, and these are probabilities: logits= takes "
            "numbers too"
        )
    elif given.kind == CLASSES:
        reason = (
            "compares labels that are each yes or no, and the probabilities are of classes that "
            "exclude one another: mr.Response('kd') compares those, and of independent labels they "
            "are TeacherOutputs(probabilities=..., independent=True)"
        )
    else:
        reason = (
            "compares classes that exclude one another, and the probabilities are of independent "
            "labels, or of one yes or no: mr.Response('binary_kd') compares those"
        )
    raise ValueError(
        f"Knowledge {knowledge.name!r} {reason}. Received: the loss {knowledge.loss.name!r} and "
        f"probabilities with independent={given.independent}"
    )


def _compares_numbers(loss: Any) -> bool:
    """Returns whether a loss is known not to take the softmax or sigmoid of logits."""
    of_keras = getattr(loss, "loss", None)  # one of the user's own may take it
    return compares_plain_numbers(loss) and (
        of_keras is None or output_kind(of_keras, (None, 2)) != UNKNOWN
    )


def why_not_few(knowledge: Knowledge, rest: str) -> str | None:
    """Returns why a knowledge cannot compare a few logits of each position; `None` if it can."""
    loss = knowledge.loss
    if not isinstance(knowledge, Response) or knowledge.adapter is not None:
        return "it takes those of all classes as a feature, or its adapter does"
    if loss.output_kinds != (CLASSES,):
        return "the loss does not compare probabilities of classes, which are what is stored"
    if not loss.independent_positions:
        return "the loss compares positions with one another, whose largest classes differ"
    if getattr(loss, "standardize", False):
        return "standardize=True needs mean and standard deviation of all logits"
    if loss.needs_labels and rest != "one":
        return "the labelled class may be among those left out, so rest='one' is needed"
    return None


def _described(tensor: Any) -> str:
    return f"{keras.backend.standardize_dtype(tensor.dtype)} {tuple(tensor.shape)}"
