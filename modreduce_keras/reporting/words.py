"""Words: numbers formatted for readers, and the table and the sentences of a page."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from modreduce_keras.output_kind import LABELS
from modreduce_keras.reporting.measures import Figures

_LEAST_AGREEMENT = 0.97
MICRO = "\N{MICRO SIGN}"
NONE, MINUS, TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


class Table(NamedTuple):
    """A table of texts, whose first column are names."""

    header: list[str]
    rows: list[list[str]]


def percent(share: float | None, digits: int = 1) -> str:
    """Returns a share in percent."""
    return NONE if share is None else f"{100 * share:.{digits}f} %"


def decimal(value: float | None) -> str:
    """Returns a number with three decimals."""
    return NONE if value is None else f"{value:.3f}".replace("-", MINUS)


def number(value: int | None) -> str:
    """Returns a whole number."""
    return NONE if value is None else f"{value:,}"


def signed(value: int) -> str:
    """Returns a whole number with its sign."""
    return f"+{value:,}" if value > 0 else f"{MINUS}{-value:,}" if value else "0"


def size(octets: int) -> str:
    """Returns a number of bytes."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if octets >= 1 << power:
            return f"{octets / (1 << power):.1f} {unit}"
    return f"{octets} bytes"


def milliseconds(value: float) -> str:
    """Returns a time, given in milliseconds, in these or in microseconds."""
    if value < 0.1:
        return f"{1000 * value:.1f} {MICRO}s"
    return f"{value:.2f} ms" if value < 100 else f"{value:.0f} ms"


def log(name: str) -> str:
    """Returns the name of a log of a training as people say it: validation accuracy."""
    return name.replace("val_", "validation ", 1).replace("_", " ")


def fraction(part: float, whole: float) -> str:
    """Returns a ratio as people say it: 1/17, 62 %, 1.4 ×."""
    if whole >= 2 * part:
        return f"1/{whole / part:.0f}"
    return f"{100 * part / whole:.0f} %" if part <= whole else f"{part / whole:.1f} {TIMES}"


def table(figures: Sequence[Any]) -> Table:
    """Returns the figures of all networks and files."""
    taught = any(one.agreement is not None for one in figures)
    filed = any(one.role == "file" for one in figures)
    answered = any(one.accuracy is not None for one in figures)
    measured = any(one.error is not None for one in figures)
    same = "same answer as" if answered else "agrees with"
    header = ["network"]
    header += ["accuracy", "95 % interval"] if answered else []
    header += ["mean absolute error", "R²"] if measured else []
    header += [f"{same} the teacher"] if taught else []
    header += [f"{same} its student"] if filed else []
    header += ["mean confidence", "calibration error (ECE)"] if answered else []
    header += ["parameters", "multiply-adds", "size", "time per sample"]
    rows = []
    for one in figures:
        row = [label(one)]
        if answered:
            low, high = one.interval
            row += [percent(one.accuracy), f"{100 * low:.1f} {NONE} {percent(high)}"]
        row += [f"{one.error:.4g}", decimal(one.determination)] if measured else []
        row += [percent(one.agreement)] if taught else []
        row += [percent(one.owner_agreement, 2)] if filed else []
        row += [percent(one.confidence), percent(one.calibration.error)] if answered else []
        row += [number(one.parameters), number(one.multiply_adds), size(one.size)]
        rows.append([*row, milliseconds(one.milliseconds)])
    return Table(header, rows)


def label(one: Figures) -> str:
    """Returns how the table calls a network or file."""
    return f"{one.name} (of {one.owner})" if one.role == "file" else one.name


def lead(figures: Sequence[Any]) -> Any:
    """Returns the student that the page speaks of first: the first with a file, or of all."""
    owners = [one.owner for one in figures if one.role == "file"]
    students = [one for one in figures if one.role == "student"]
    return next((one for one in students if one.name in owners), students[0])


def tiles(figures: Sequence[Any]) -> list[tuple[str, str]]:
    """Returns the few figures to see first: each and what it is."""
    one = lead(figures)
    teacher = next((other for other in figures if other.role == "teacher"), None)
    files = [other for other in figures if other.owner == one.name]
    answered = one.accuracy is not None
    found = [(percent(one.accuracy), f"accuracy of {one.name}")] if answered else []
    if one.error is not None:
        found = [(f"{one.error:.4g}", f"mean absolute error of {one.name}")]
    if teacher is not None:
        if answered:
            kept = one.accuracy / teacher.accuracy if teacher.accuracy else None
            found = [(percent(kept), f"of the teacher's accuracy kept by {one.name}")]
        same = "same answer as" if answered else "agreement with"
        found += [
            (fraction(one.parameters, teacher.parameters), "of the teacher's parameters"),
            (percent(one.agreement), f"{same} the teacher"),
        ]
    for file in files[:1]:
        found.append((size(file.size), f"file {file.name}"))
        found.append((milliseconds(file.milliseconds), "per sample, of that file"))
    if not files:
        found.append((milliseconds(one.milliseconds), "per sample, in Keras"))
    return found


def summary(
    figures: Sequence[Figures], samples: int, classes: Sequence[str]
) -> list[tuple[str, str]]:
    """Returns one or two sentences for each student and file: its name, and the text after it."""
    teacher = next((one for one in figures if one.role == "teacher"), None)
    found = []
    if teacher is not None:
        found.append(
            (
                "The teacher",
                f"is right on {percent(teacher.accuracy)} of {counted(teacher, samples)}, with "
                f"{number(teacher.parameters)} parameters.",
            )
        )
    for one in figures:
        if one.role == "student":
            found.append((one.name, f"{_student(one, teacher, samples)} {_doubts(one)}"))
        if one.role == "student" and one.changes:
            name, sentence = found[-1]
            found[-1] = name, f"{sentence} {_change(one, classes)}"
        if one.role == "file":
            found.append((one.name, _file(one)))
    return found


def _file(one: Any) -> str:
    said = (
        f"is {one.owner} as a file of {size(one.size)}: the same answer on "
        f"{percent(one.owner_agreement, 2)} of {_all(one)}, {percent(one.accuracy)} right, "
        f"{milliseconds(one.milliseconds)} per sample."
    )
    if one.owner_agreement < _LEAST_AGREEMENT:
        said += " That is far from its student: see mr.export.verify for what may be the reason."
    return said


def counted(one: Figures, samples: int) -> str:
    """Returns how many answers there are, in words."""
    if one.kind != LABELS:
        return f"{samples:,} samples"
    return f"the answers of yes or no for {samples:,} samples"


def _all(one: Figures) -> str:
    return "the answers" if one.kind == LABELS else "the samples"


def _student(one: Any, teacher: Any, samples: int) -> str:
    right = percent(one.accuracy)
    if teacher is None or not teacher.accuracy:
        return (
            f"is right on {right} of {counted(one, samples)}, with {number(one.parameters)} "
            "parameters."
        )
    cost = f"{fraction(one.parameters, teacher.parameters)} of its parameters"
    kept = f"keeps {percent(one.accuracy / teacher.accuracy)} of the teacher's accuracy ({right})"
    if one.accuracy > teacher.accuracy:
        kept = f"is right more often than the teacher ({right})"
    return f"{kept} with {cost}, and gives the same answer {percent(one.agreement)} of the time."


def _doubts(one: Any) -> str:
    gap = one.confidence - one.accuracy
    if abs(gap) < 0.02:
        return "It is about as sure as it is right."
    way = "surer than it should be" if gap > 0 else "less sure than it could be"
    return f"It is {way}: {percent(one.confidence)} on average."


def _change(one: Figures, classes: Sequence[str]) -> str:
    change = one.changes[0]
    more = "more" if change.student > change.teacher else "less"
    return (
        f"What changed most: it takes {classes[change.truth]} for {classes[change.said]} {more} "
        f"often ({change.student} times, the teacher {change.teacher})."
    )
