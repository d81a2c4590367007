"""TeacherAssistantChain: students from large to small, each the teacher of the next."""

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import keras

from modreduce_keras.arguments import require_integer
from modreduce_keras.batches import require_readable_again
from modreduce_keras.calls import by_name, of_names, shown, stacklevel_of_user
from modreduce_keras.distillers import checks, compiling, optimizers
from modreduce_keras.distillers.metrics.student_metrics import for_each_student
from modreduce_keras.distillers.offline import Distiller
from modreduce_keras.models.kernel_wrapper import count_in_use

_RUNS = "outputs are attached to the data of one link, and the data here are of all"
_FIRST_LINK = (
    "train the first link by itself, mr.Distiller(student=assistant, teacher=outputs, "
    "knowledge='kd'), and give TeacherAssistantChain teacher=assistant"
)


class TeacherAssistantChain:
    """Trains a student in several steps, through networks of intermediate size (*assistants*).

    The first student learns from the teacher, each other one from the student before it. A student
    that is much smaller than its teacher may learn better from a network nearer to its own size.
    Each link of the chain is a `Distiller` (`chain.distillers`). The links are trained one after
    the other.

    `chain.evaluate` and `chain.predict` use the last student, with its compiled loss and metrics.
    `chain.student` itself is not compiled.

    To resume an interrupted chain, give each link its own folder:
    `fit(..., callbacks=lambda name: [mr.callbacks.Resume(f"run/{name}")])`.

    Args:
        teacher: The trained model at the head of the chain. It is never changed.
        students: The models to train, from large to small; the last is the student, the others are
            its assistants. At least one; their names differ.
        knowledge: What each student learns from the one before; see `Distiller`. Pass a dict by the
            names of the students for different knowledge. Defaults to `None`: as for `Distiller`.
        supervised_weight: Weight of the compiled loss on the labels, in each link. Defaults to 1.
        teacher_dtype: Precision of the teachers; see `BaseDistiller`. Defaults to `None`.

    Raises:
        TypeError: If a model is not a Keras model.
        ValueError: If there is no student, two have the same name, or shapes do not match.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> def net(width, name):
        ...     return mr.models.get("convnet", num_classes=3, widths=(width,), name=name)
        >>> chain = mr.TeacherAssistantChain(
        ...     teacher=net(16, "teacher"),
        ...     students=[net(8, "assistant"), net(4, "student")],
        ...     knowledge="kd",
        ... )
        >>> chain.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> images, labels = np.ones((8, 28, 28, 1), "float32"), np.arange(8) % 3
        >>> histories = chain.fit(images, labels, epochs=2, verbose=0)
        >>> {name: len(history.history["kd"]) for name, history in histories.items()}
        {'assistant': 2, 'student': 2}
        >>> chain.student.name
        'student'

    Reference:
        Mirzadeh et al., Improved Knowledge Distillation via Teacher Assistant, 2020. There the
        assistants are trained with KD; here any knowledge can be used.
    """

    @by_name(
        "mr.TeacherAssistantChain(teacher=..., students=[assistant, student])",
        why="as those of the other distillers",
        meant=of_names(
            ("student", "assistant", "assistants"),
            "mr.TeacherAssistantChain(teacher=..., students=[assistant, student])",
        ),
    )
    def __init__(
        self,
        *,
        teacher: keras.Model,
        students: Sequence[keras.Model],
        knowledge: Any = None,
        supervised_weight: Any = 1.0,
        teacher_dtype: str | None = None,
    ):
        checks.require_running_teacher(teacher, _RUNS, _FIRST_LINK)
        several = list(students) if isinstance(students, Sequence) else []
        if not several:
            raise ValueError(
                "students must be a list of at least one model, from large to small: "
                f"students=[assistant, student]. Received: students={shown(students)}"
            )
        for number, student in enumerate(several):
            checks.require_model(student, f"students[{number}]")
        _warn_of_order(several)
        names = [student.name for student in several]
        twice = checks.repeated(names)
        if twice:
            raise ValueError(
                f"The students of a chain are told apart by their models' names. Received: {names}"
            )
        own = self._by_name(knowledge, names)
        self.teacher = teacher
        self.students = dict(zip(names, several, strict=True))
        self.distillers: dict[str, Distiller] = {}
        """The distiller of each link, by the name of its student."""
        for before, student in zip([teacher, *several], several, strict=False):
            self.distillers[student.name] = Distiller(
                student=student,
                teacher=before,
                knowledge=own[student.name],
                supervised_weight=supervised_weight,
                teacher_dtype=teacher_dtype,
            )

    @staticmethod
    def _by_name(knowledge: Any, names: list[str]) -> dict[str, Any]:
        """Returns the knowledge of each student. A dict of losses ({"kd": 0.9}) is for all."""
        if isinstance(knowledge, Mapping) and set(knowledge) & set(names):
            if set(knowledge) != set(names):
                raise ValueError(
                    "knowledge by student must be a dict with each of "
                    f"{names}. Received: a dict with the keys {list(knowledge)}"
                )
            return dict(knowledge)
        return dict.fromkeys(names, knowledge)

    @property
    def student(self) -> keras.Model:
        """The last student, the smallest: plain Keras, to be saved and deployed."""
        return list(self.students.values())[-1]

    @property
    def assistants(self) -> list[keras.Model]:
        """The students between the teacher and the last one, from large to small."""
        return list(self.students.values())[:-1]

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, metrics: Any = None, **arguments: Any
    ) -> None:
        """Configures the training of every link.

        Args:
            optimizer: One for all links, which is copied for each, or a dict by the names of the
                students.
            loss: Loss on the labels, or `None`; see `BaseDistiller.compile`.
            metrics: List of metrics, which are copied for each link.
            **arguments: As in `BaseDistiller.compile`.

        Raises:
            ValueError: If a dict of optimizers lacks a student, or has an unknown name.
        """
        names = list(self.students)
        if isinstance(optimizer, Mapping) and set(optimizer) != set(names):
            raise ValueError(
                "optimizer must be one optimizer for all links, or a dict with one for each of "
                f"{names}. Received: a dict with the keys {list(optimizer)}"
            )
        copies = for_each_student(metrics, names)
        with contextlib.ExitStack() as stack:  # of all links, or of none
            for name, distiller in self.distillers.items():
                stack.enter_context(compiling.unchanged_on_error(distiller))
                given = optimizer[name] if isinstance(optimizer, Mapping) else optimizer
                own = None if copies is None else copies[f"{name}/"]
                distiller.compile(optimizers.copy_of(given), loss, own, **arguments)

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        epochs: int | Mapping[str, int] = 1,
        callbacks: Callable[[str], Any] | None = None,
        **arguments: Any,
    ) -> dict[str, keras.callbacks.History]:
        """Trains the links, from the teacher to the student.

        Args:
            x: The data of every link: arrays, or a dataset that can be read again.
            y: The labels, if `x` does not contain them.
            epochs: Epochs of every link, or a dict by the names of the students. Defaults to 1.
            callbacks: Function from the name of a link's student to its callbacks, new ones for
                each. Defaults to `None`: none.
            **arguments: `batch_size`, `validation_data`, ..., as in `keras.Model.fit`.

        Returns:
            The history of each link, by the name of its student.

        Raises:
            ValueError: If the epochs of a student are missing.
            TypeError: If `callbacks` is a list, because each training needs its own callbacks; or
                if the data can be read only once, like a generator.
        """
        names = list(self.students)
        if len(names) > 1:
            for argument, data in {"x": x, **arguments}.items():
                if argument in ("x", "validation_data"):
                    require_readable_again(argument, data)
        if callbacks is not None and not callable(callbacks):
            raise TypeError(
                "callbacks must be a function that makes those of each link: "
                "callbacks=lambda name: [mr.callbacks.Resume(f'run/{name}')]. "
                f"Received: {shown(callbacks)}"
            )
        by_name = epochs if isinstance(epochs, Mapping) else dict.fromkeys(names, epochs)
        if set(by_name) != set(names):
            raise ValueError(
                "epochs must be a number for all links, or a dict with one for each of "
                f"{names}. Received: a dict with the keys {list(by_name)}"
            )
        numbers = {name: require_integer("epochs", by_name[name], least=0) for name in names}
        return {
            name: distiller.fit(
                x,
                y,
                epochs=numbers[name],
                callbacks=None if callbacks is None else callbacks(name),
                **arguments,
            )
            for name, distiller in self.distillers.items()
        }

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates the student by the last link; see `BaseDistiller.evaluate`."""
        return self.distillers[self.student.name].evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the student's predictions, as `keras.Model.predict`."""
        return self.distillers[self.student.name].predict(*args, **kwargs)


def _warn_of_order(students: Sequence[keras.Model]) -> None:
    """Warns if a student is larger than the one that is to teach it."""
    sizes = [count_in_use(student) if student.built else 0 for student in students]
    if 0 not in sizes and any(later > before for before, later in pairwise(sizes)):
        warnings.warn(
            "students go from large to small, and the last one is the student: "
            "students=[assistant, student]. Received: "
            + ", ".join(
                f"{student.name!r} of {size:,} weights"
                for student, size in zip(students, sizes, strict=True)
            ),
            stacklevel=stacklevel_of_user(),
        )
