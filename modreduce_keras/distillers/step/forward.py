"""ForwardPass: runs the students and the teacher of a distiller once, and returns their outputs."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import keras

from modreduce_keras.batches import INDEX
from modreduce_keras.distillers import checks
from modreduce_keras.distillers.step.batch import Batch
from modreduce_keras.distillers.step.branching import SharedTrunk
from modreduce_keras.distillers.step.inputs import Inputs
from modreduce_keras.distillers.teachers.base import Teacher
from modreduce_keras.knowledge import Knowledge
from modreduce_keras.models.graph import own_inputs
from modreduce_keras.taps import ModelOutput, TapReader

_OF_STUDENT = re.compile(r"(part|view)_\d+")
ENSEMBLE = "ensemble"
"""What the peers' ensemble is called among the students, in logs and metrics."""


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The result of one forward pass of every network.

    Attributes:
        batch: The batch that ran.
        students: The students' outputs, by name.
        teacher: The teacher's output by student, the same one for all who see the same; empty
            where the teacher did not run.
        seen: What each student saw.
        trunk: What the layers that the students share gave; `None` where they share none.
        extra: What a distiller has added: targets and logs of an aggregator, a consistency target.
        ensemble: Logits of the students' ensemble; `None` where there is none.
        training: Whether it is a training step.
        networks: Names of the networks that the step trains; `None`: all.
        part: Returns what is a student's of labels, weights or an index; see `Inputs.part`.
    """

    batch: Batch
    students: Mapping[str, ModelOutput]
    teacher: Mapping[str, ModelOutput] = dataclasses.field(default_factory=dict)
    seen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trunk: Any = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ensemble: Any = None
    training: bool = True
    networks: Collection[str] | None = None
    part: Callable[[str | None, Any], Any] = lambda student, values: values

    def batch_of(self, student: str | None) -> Batch:
        """Returns the batch with the labels, weights and index of one student, if it has its own.

        The inputs are those of all.
        """
        whole = self.batch
        given = whole.y, whole.sample_weight, whole.index
        y, weight, index = own = tuple(self.part(student, values) for values in given)
        if all(one is other for one, other in zip(own, given, strict=True)):
            return whole
        x = whole.x if index is None else {**whole.x, INDEX: index}
        return Batch(x, y, weight)

    def trains(self, network: str | None) -> bool:
        """Returns whether the step trains a network."""
        return self.networks is None or network in self.networks

    def replace(self, **changes: Any) -> "Outputs":
        """Returns outputs that differ in some attributes."""
        return dataclasses.replace(self, **changes)

    def with_labels(self, labels: Any) -> "Outputs":
        """Returns outputs of the same batch with other labels."""
        return self.replace(batch=dataclasses.replace(self.batch, y=labels))

    def logits(self) -> dict[str, Any]:
        """Returns the logits of every student, and of the ensemble where there is one."""
        logits = {name: output.logits for name, output in self.students.items()}
        return logits if self.ensemble is None else {**logits, ENSEMBLE: self.ensemble}

    def arguments_of(
        self, student: str, knowledge: Knowledge
    ) -> tuple[tuple[Any, Any], dict[str, Any]]:
        """Returns what a knowledge is called with: (student, teacher), and the rest by name."""
        batch = self.batch_of(student)
        outputs = self.students[student], self.teacher.get(student)
        pair = knowledge.read("student", outputs[0]), knowledge.read("teacher", outputs[1])
        labels = knowledge.labels_of(batch.y)
        kept = knowledge.kept(outputs, knowledge.given_mask(batch.inputs), labels)
        context = {"labels": labels, "index": batch.index, "by_position": batch.by_position}
        inputs = knowledge.needed_inputs(batch.inputs)
        more = {} if inputs is None else {"inputs": inputs}
        return pair, {**context, **more, "kept": kept}


@dataclasses.dataclass(frozen=True)
class ForwardPass:
    """Runs the models of a distiller, each once.

    Attributes:
        views: What of a batch each side sees.
        specs: The students' symbolic inputs; `None` where no student is functional, as only
            functional models declare the dtype of their inputs.
        readers: Runs each student.
        outputs: Each student's symbolic output and features.
        teacher: Gives the teacher's outputs, if there is a teacher.
        trunk: Runs students that share one; `None` where they do not.
    """

    views: Inputs
    specs: Any
    readers: Mapping[str, TapReader]
    outputs: Mapping[str, ModelOutput]
    teacher: Teacher | None
    trunk: SharedTrunk | None = None

    @property
    def teachers(self) -> list[keras.Model]:
        """The teachers; none where there is none, or outputs alone."""
        return list(self.teacher.models) if self.teacher else []

    def seen_by(self, student: str, x: Any, training: bool = False) -> Any:
        """Returns a student's inputs of a batch, or raises if they are invalid."""
        inputs = self.views.student(student, x, training)
        models = [*(reader.model for reader in self.readers.values()), *self.teachers]
        own = own_inputs(self.readers[student].model, inputs)
        checks.require_float_inputs(own, self.specs, models)
        return inputs

    def look_at(self, x: Any, **how: Any) -> None:
        """Lets the teacher choose how it runs, by the inputs of a batch; see `Teacher`."""
        if self.teacher is None:
            return
        try:
            seen = {name: self.seen_by(name, x) for name in self.readers}
        except Exception:
            return  # the step says what is wrong with them
        self.teacher.look_at(x, seen, **how)

    def __call__(
        self, batch: Batch, training: bool | Callable[[str], bool], with_teacher: bool
    ) -> Outputs:
        """Runs every student once, and perhaps the teacher.

        Args:
            batch: The batch.
            training: Whether it is a training step, or a function that tells this per student.
            with_teacher: Whether the teacher's outputs are wanted.
        """
        trains = training if callable(training) else lambda student: training
        seen = {name: self.seen_by(name, batch.x, trains(name)) for name in self.readers}
        any_trains, of_teacher, trunk = any(map(trains, seen)), {}, None
        if with_teacher and self.teacher:
            of_teacher = self.teacher.outputs_for(batch.x, seen, any_trains)
        if self.trunk is not None:
            students, trunk = self.trunk(self.readers, seen, any_trains)
        else:
            students = {n: reader(seen[n], trains(n)) for n, reader in self.readers.items()}
        part = self.views.part
        return Outputs(batch, students, of_teacher, seen, trunk, training=any_trains, part=part)


def first_output(outputs: Mapping[str, ModelOutput]) -> keras.KerasTensor | Mapping[str, Any]:
    """Returns the output of a student; those of several are alike."""
    return next(iter(outputs.values())).logits


@contextlib.contextmanager
def telling_missing_keys(knowledge: Iterable[Knowledge], inputs: Any) -> Iterator[None]:
    """Says, where the models cannot run, which key of the inputs a knowledge misses, if any.

    Without the key that a mask reads, the others are taken for names of a model's inputs, and the
    model would complain of those.
    """
    try:
        yield
    except ValueError as error:
        for one in knowledge:
            one.given_mask(inputs)
            one.needed_inputs(inputs)
        keys = list(inputs) if isinstance(inputs, Mapping) else []
        if keys and "student_inputs" not in str(error) and all(map(_OF_STUDENT.fullmatch, keys)):
            raise ValueError(
                "x has parts or views of the samples, one for each student: make the distiller "
                f"with student_inputs={keys}. Received: {error}"
            ) from error
        raise
