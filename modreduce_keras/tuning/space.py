"""Search spaces: the hyperparameters of distillation with ranges that papers use."""

from collections.abc import Mapping, Sequence
from typing import Any

from modreduce_keras import registry, schedules
from modreduce_keras.arguments import require_integer, require_number
from modreduce_keras.knowledge import Knowledge

SCHEDULES = ("constant", "linear", "cosine", "sigmoid_ramp_up", "cut_off")


class Space:
    """Hyperparameters of distillation, for the function that builds a distiller from `hp`.

    Each method returns this trial's value, to be given to a constructor. Quantities whose order of
    magnitude matters are sampled by their logarithm. The names are those below, with the prefix in
    front, and stay the same from version to version, because a search that goes on finds its
    trials by them. The value that is tried first, and where nothing is searched, is the default.

    A grid search tries ten values of a range that has no `step`.

    Args:
        hp: KerasTuner's hyperparameters, as a hypermodel's `build` gets them.
        prefix: What every name begins with, for the spaces of several students. Defaults to none.

    Raises:
        TypeError: If `hp` or `prefix` is something else.
        ValueError: If a range is empty or a name comes twice; of each method, if a choice is
            unknown.

    Example:
        >>> import keras_tuner, modreduce_keras as mr
        >>> hp = keras_tuner.HyperParameters()
        >>> space = Space(hp)
        >>> space.temperature(), space.weights(["kd", "hint"])
        (4.0, {'kd': 1.0, 'hint': 1.0})
        >>> [one.name for one in hp.space]
        ['temperature', 'weight/kd', 'weight/hint']
    """

    def __init__(self, hp: Any, prefix: str = "") -> None:
        if not all(hasattr(hp, method) for method in ("Float", "Int", "Choice")):
            raise TypeError(
                f"hp must be the hyperparameters that build receives. Received: hp={hp!r}"
            )
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a string. Received: prefix={prefix!r}")
        self._hp, self._prefix = hp, prefix
        self._names: set[str] = set()

    def _name(self, name: str) -> str:
        if not isinstance(name, str) or not name:
            raise TypeError(f"name must be a string that is not empty. Received: name={name!r}")
        full = self._prefix + name
        if full in self._names:
            raise ValueError(
                "Two hyperparameters with the same name would be the same one: pass name=, or make "
                f"a Space with another prefix. Received twice: {full!r}"
            )
        self._names.add(full)
        return full

    def _positive(self, name: str, least: float, most: float, default: float, step: Any) -> float:
        require_number("least", least, above=0.0)
        require_number("most", most, above=least)
        if not least <= require_number("default", default) <= most:
            raise ValueError(
                f"default must lie from least to most. Received: {default=}, {least=}, {most=}"
            )
        if step is not None:
            require_number("step", step, above=1.0)
        range_ = {"min_value": float(least), "max_value": float(most), "default": float(default)}
        return self._hp.Float(self._name(name), **range_, step=step, sampling="log")

    def temperature(
        self,
        least: float = 1.0,
        most: float = 20.0,
        *,
        default: float = 4.0,
        step: float | None = None,
        name: str = "temperature",
    ) -> float:
        """Returns a temperature, sampled by its logarithm.

        Args:
            least: The smallest. Defaults to 1.
            most: The largest. Defaults to 20, the largest that Hinton et al. use.
            default: Tried first. Defaults to 4.
            step: Factor between neighbours, above 1, or `None` for all values between.
            name: Its name. Defaults to `"temperature"`.
        """
        return self._positive(name, least, most, default, step)

    def weights(
        self,
        knowledge: Sequence[str | Knowledge],
        least: float = 0.01,
        most: float = 10.0,
        *,
        default: float = 1.0,
        step: float | None = None,
        name: str = "weight",
    ) -> dict[str, float]:
        """Returns a weight for each knowledge, sampled by its logarithm, by the knowledge's name.

        Args:
            knowledge: Names of knowledge, or knowledge that has names: one or a list.
            least: The smallest. Defaults to 0.01.
            most: The largest. Defaults to 10.
            default: Tried first. Defaults to 1.
            step: Factor between neighbours, above 1, or `None` for all values between.
            name: What their names begin with: `"weight/kd"`. Defaults to `"weight"`.
        """
        several = [knowledge] if isinstance(knowledge, (str, Knowledge)) else list(knowledge)
        names = [one.name if isinstance(one, Knowledge) else one for one in several]
        if not names or not all(isinstance(one, str) and one for one in names):
            raise TypeError(
                "knowledge must be at least one name of a knowledge, such as ['kd', 'hint'], or "
                f"knowledge itself. Received: knowledge={knowledge!r}"
            )
        given: dict[str, Any] = {"least": least, "most": most, "default": default, "step": step}
        return {one: self._positive(f"{name}/{one}", **given) for one in names}

    def aggregator(self, names: Sequence[str], *, name: str = "aggregator") -> str:
        """Returns the identifier of an aggregator, for `mr.PeerDistiller(..., aggregator=...)`.

        Args:
            names: Identifiers to choose from; the first is tried first.
            name: Its name. Defaults to `"aggregator"`.
        """
        names = self._choices("names", names)
        for one in names:
            registry.lookup("aggregator", one)
        return self._hp.Choice(self._name(name), names, default=names[0], ordered=False)

    def schedule(
        self,
        end: float,
        *,
        steps: int,
        kinds: Sequence[str] = SCHEDULES,
        name: str = "schedule",
    ) -> schedules.Schedule:
        """Returns a schedule of a weight, from 0 to its end or constant.

        Two hyperparameters: the kind under the name itself, and, for all but the constant,
        `NAME/part`, the part of the training after which the end is reached: from 0.1 to 1, in
        steps of 0.1, at first 0.3.

        Args:
            end: The value from then on, such as a weight of `weights`; not negative.
            steps: Training steps of the whole training, `epochs * steps_per_epoch`.
            kinds: Identifiers to choose from, among `"constant"`, `"linear"`, `"cosine"`,
                `"sigmoid_ramp_up"` and `"cut_off"`; the first is tried first. Defaults to all.
            name: Its name. Defaults to `"schedule"`.
        """
        require_number("end", end, least=0.0)
        require_integer("steps", steps)
        kinds = self._choices("kinds", kinds)
        unknown = sorted(set(kinds) - set(SCHEDULES))
        if unknown:
            raise ValueError(f"kinds must be among {list(SCHEDULES)}. Received: {unknown}")
        parent = self._name(name)
        kind = self._hp.Choice(parent, kinds, default=kinds[0], ordered=False)
        part: Any = None
        moving = [one for one in kinds if one != "constant"]
        if moving:
            with self._hp.conditional_scope(parent, moving):
                range_ = {"min_value": 0.1, "max_value": 1.0, "step": 0.1, "default": 0.3}
                part = self._hp.Float(self._name(f"{name}/part"), **range_)
        if kind == "constant":
            return schedules.Constant(end)
        until = max(1, round(part * steps))
        if kind in ("linear", "cosine"):
            return schedules.get(kind, start=0.0, end=end, steps=until)
        if kind == "cut_off":
            return schedules.CutOff(end, steps=until)
        return schedules.SigmoidRampUp(end, steps=until)

    def taps(
        self, student: Sequence[str], teacher: Sequence[str], *, name: str = "taps"
    ) -> dict[str, str]:
        """Returns which tap of the student is paired with which of the teacher.

        `mr.Feature("hint", **space.taps(["stage1", "stage2"], ["stage2", "stage3"]))`. The names
        are `"taps/student"` and `"taps/teacher"`.

        Args:
            student: Taps of the student to choose from; the last is tried first.
            teacher: Taps of the teacher to choose from; the last is tried first.
            name: What their names begin with. Defaults to `"taps"`.
        """
        given = {"student": student, "teacher": teacher}
        chosen = {}
        for role, several in given.items():
            several = self._choices(role, several)
            place = self._name(f"{name}/{role}")
            chosen[role] = self._hp.Choice(place, several, default=several[-1], ordered=False)
        return chosen

    def width(
        self,
        least: int = 8,
        most: int = 64,
        *,
        stages: int = 3,
        default: int | None = None,
        name: str = "width",
    ) -> tuple[int, ...]:
        """Returns the channels of a student's stages, each twice those of the stage before.

        The width of the first stage is `least` times a power of two:
        `mr.models.get("convnet", num_classes=10, widths=space.width())`.

        Args:
            least: The smallest width of the first stage. Defaults to 8.
            most: Not above this. Defaults to 64.
            stages: Number of stages. Defaults to 3.
            default: Tried first: `least` times a power of two. Defaults to `least`.
            name: Its name. Defaults to `"width"`.
        """
        least, most = require_integer("least", least), require_integer("most", most)
        stages = require_integer("stages", stages)
        widths = [least * 2**power for power in range(64) if least * 2**power <= most]
        if not widths:
            raise ValueError(f"most must be at least {least}, the least width. Received: {most=}")
        default = least if default is None else default
        if default not in widths:
            raise ValueError(f"default must be one of {widths}. Received: {default=}")
        first = self._hp.Choice(self._name(name), widths, default=default, ordered=True)
        return tuple(first * 2**stage for stage in range(stages))

    @staticmethod
    def _choices(argument: str, given: Any) -> list[str]:
        is_list = isinstance(given, Sequence) and not isinstance(given, (str, Mapping))
        names = list(given) if is_list else []
        if not names or not all(isinstance(one, str) and one for one in names):
            raise TypeError(
                f"{argument} must be a list of at least one name. Received: {argument}={given!r}"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"{argument} must not name one twice. Received: {given}")
        return names
