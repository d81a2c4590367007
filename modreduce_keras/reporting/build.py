"""Build: writes the pages that compare a teacher and its students, in one call."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras

from modreduce_keras._version import __version__
from modreduce_keras.arguments import is_number, require_integer, require_number
from modreduce_keras.calls import by_name
from modreduce_keras.export import judging
from modreduce_keras.reporting import files, html_page, markdown_page
from modreduce_keras.reporting.collect import collect
from modreduce_keras.reporting.measures import Figures
from modreduce_keras.reporting.page import Content, compose
from modreduce_keras.reporting.subjects import Network, networks
from modreduce_keras.reporting.subjects import files as export_files


class Report(NamedTuple):
    """The results of `mr.report`, and the paths of the pages.

    Attributes:
        figures: The `Figures` of the teacher (`"teacher"`), the students and the files, by name.
        classes: Names of the classes; `no` and `yes` for one logit, else names of the labels or
            numbers.
        samples: Number of samples.
        kind: What the outputs are, see `kind` of `mr.report`.
        markdown: The Markdown page; its pictures are in `report_files/` next to it.
        html: The HTML page, which needs no other file.
    """

    figures: dict[str, Figures]
    classes: list[str]
    samples: int
    kind: str
    markdown: Path
    html: Path


def _former_report(given: tuple[Any, ...]) -> dict[str, Any] | None:
    """Returns the arguments of a call by position, where only one model can be the teacher."""
    names = ("teacher", "students", "exports", "data")
    if not 2 <= len(given) <= len(names):
        return None
    is_told = given[0] is None or isinstance(given[1], Mapping)
    return dict(zip(names, given, strict=False)) if is_told else None


@by_name(
    "mr.report(teacher=..., students=..., data=..., path=...)",
    why="so that students and teacher are not swapped",
    former=_former_report,
)
def report(
    *,
    teacher: keras.Model | None,
    students: keras.Model | Mapping[str, keras.Model],
    exports: Mapping[str, Any] | None = None,
    data: Any = None,
    path: str | os.PathLike,
    histories: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    curve: str = "val_accuracy",
    trials: Any = None,
    class_names: Sequence[str] | None = None,
    kind: str | None = None,
    tolerance: float = 0.1,
    title: str = "What the student has learnt",
    gallery: int = 12,
    bins: int = 15,
    threads: int = 1,
    batch_size: int = 256,
    repeats: int = 100,
) -> Report:
    """Writes a page that compares students, and files exported from them, with their teacher.

    The page shows accuracy with its 95 % interval, parameters, size and time; agreement with the
    teacher, and which of the two is right where they differ; classes that the student confuses more
    or less often than the teacher; for images, the student's most confident mistakes; calibration
    with reliability diagrams; accuracy over size and over time, with the Pareto front; and learning
    curves. Every network runs once over the data. Only the logits and the images of the gallery are
    kept in memory.

    What is compared depends on the kind of the outputs. For classes, and for one logit (`no` and
    `yes`), the page shows all of this. For independent labels, each label is yes or no, all labels
    have equal weight, and there is no confusion of classes and no gallery. For numbers, the page
    shows mean absolute errors and R² instead of accuracies, and agreement within a tolerance. For
    embeddings, it compares directions, and labels are not used.

    `report.html` is a single file that needs no network; `report.md` has its pictures in
    `report_files/`. An existing report is replaced only when the new one is complete. Use data
    that were not used to choose the students.

    Args:
        teacher: A built Keras model with one output (batch, units), logits where the labels are
            classes or yes and no; or `None`.
        students: One such model, or several by name.
        exports: TFLite and ONNX files or folders of SavedModels from `mr.export`: `{name: path}`
            with one student, else `{student: {name: path}}`.
        data: Dataset of batches `(x, y)`, or a tuple `(x, y)` of arrays, as `mr.export.verify`
            takes them. Labels are classes or one-hot, 0 and 1 for each label, or numbers; of
            `kind="embedding"` there may be none, `x` alone. Sample weights do not count.
        path: Folder to write to; it is created if it is missing.
        histories: `history.history` of `fit` for any of `"teacher"` and the names of the students
            (`"student"` for a single student).
        curve: The log to draw from the histories. Defaults to `"val_accuracy"`.
        trials: The result of `mr.tuning.find_student`; the page then shows its students over their
            size and time. Defaults to `None`.
        class_names: Names of the classes, two for one logit. Defaults to their numbers, and to
            no and yes.
        kind: What the outputs are: `"classes"`, `"logit"`, `"labels"`, `"regression"` or
            `"embedding"`. Defaults to `None`: determined by the compiled loss of a network, else by
            the labels, as in `mr.export.verify`.
        tolerance: Largest difference of numbers or directions that count as equal, see
            `mr.export.verify`. Defaults to 0.1.
        title: Heading of the page.
        gallery: Largest number of images per student, 0 for none. Defaults to 12. Images are
            (height, width, 1 or 3).
        bins: Bins of confidence from 0 to 1 in the calibration error. Defaults to 15.
        threads: Number of threads for TFLite and ONNX files. Defaults to 1.
        batch_size: For arrays: number of samples in a batch. Defaults to 256.
        repeats: Number of timed runs of one sample. Defaults to 100.

    Returns:
        A `Report`: the figures and the two files.

    Raises:
        TypeError: If a model, the data, a path, histories or names have another type.
        ValueError: If a name is unknown or used twice, classes or inputs differ, labels are missing
            or out of range, outputs are not finite logits, or an argument is out of range.
        FileNotFoundError: If there is no such file.
        VerificationError: If a file is damaged, or its shapes differ from its student's.
        ImportError: If the runtime for a file is missing: LiteRT, which
            `pip install 'modreduce-keras[export]'` installs, or ONNX Runtime (`[onnx]`).

    Example:
        >>> import tempfile, numpy as np, modreduce_keras as mr
        >>> student = mr.models.convnet(num_classes=10, widths=(4, 8))
        >>> _, (images, labels) = mr.data.load_sample()
        >>> folder = tempfile.mkdtemp()
        >>> made = report(
        ...     teacher=student, students=student, data=(images[:64], labels[:64]), path=folder
        ... )
        >>> made.html.name, made.samples, made.figures["student"].agreement
        ('report.html', 64, 1.0)

    Reference:
        Guo et al., On Calibration of Modern Neural Networks, 2017, for the calibration error.
    """
    counts = {"bins": bins, "threads": threads, "batch_size": batch_size, "repeats": repeats}
    _require_plain({"gallery": gallery, **counts}, {"title": title, "curve": curve})
    folder = files.require_folder(path)
    _require_data(exports, data)
    require_number("tolerance", tolerance, above=0)
    found = networks(teacher, students)
    kind = _kind(kind, found)
    classes = _class_names(class_names, found[0].units)
    lines = _lines(histories, found, curve)
    _require_trials(trials)
    subjects = [*found, *export_files(exports, found, threads)]
    collected = collect(
        subjects,
        data,
        kind=kind,
        tolerance=tolerance,
        gallery=gallery,
        bins=bins,
        batch_size=batch_size,
        repeats=repeats,
    )
    content = Content(
        title=title,
        kind=collected.kind,
        figures=list(collected.figures.values()),
        samples=collected.samples,
        classes=classes,
        galleries=collected.galleries,
        lines=lines,
        curve=curve,
        trials=trials,
        threads=threads,
        footer=_footer(),
    )
    written = _write(folder, content)
    return Report(collected.figures, classes, collected.samples, collected.kind, *written)


def _write(folder: Path, content: Content) -> tuple[Path, Path]:
    """Writes both pages, and returns where they are: the Markdown page, and the HTML page."""
    page = compose(content)
    markdown = markdown_page.render(page, files.PICTURES)
    files.write(folder, markdown, html_page.render(page), markdown_page.files(page))
    return folder / files.MARKDOWN, folder / files.HTML


def _require_plain(numbers: Mapping[str, Any], texts: Mapping[str, Any]) -> None:
    for name, value in numbers.items():
        require_integer(name, value, 0 if name == "gallery" else 1)
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise TypeError(f"{name} must be a string, not empty. Received: {name}={text!r}")


def _require_data(exports: Any, data: Any) -> None:
    if exports is not None and not isinstance(exports, Mapping):
        raise TypeError(
            "exports must be a dict of files by name, {'name': path}, or of such dicts by student; "
            "data without files come as data=. Received: exports of type "
            f"{type(exports).__name__}"
        )
    if data is None:
        raise TypeError("data must be a tuple (x, y) of arrays, or a dataset. Received: data=None")


def _kind(given: str | None, found: list[Network]) -> str | None:
    """Returns what the outputs are, if it was said or a network is compiled for it."""
    shape = (None, found[0].units)
    kind = judging.require_kind(given, shape)
    compiled = (judging.compiled_kind(one.model, shape) for one in reversed(found))
    return kind or next((one for one in compiled if one), None)


def _class_names(names: Any, units: int) -> list[str]:
    classes = max(2, units)  # one logit is of two
    if names is None:
        return ["no", "yes"] if units == 1 else [str(index) for index in range(classes)]
    several = list(names) if isinstance(names, Sequence) and not isinstance(names, str) else []
    if len(several) != classes or not all(isinstance(name, str) for name in several):
        raise ValueError(
            f"class_names must be a list of {classes} strings, as the networks' classes. Received: "
            f"class_names={names!r}"
        )
    return several


def _lines(histories: Any, found: list[Network], curve: str) -> dict[str, list[float]]:
    """Returns the values over the epochs of each network that has a history, in their order."""
    if histories is None:
        return {}
    if not isinstance(histories, Mapping):
        raise TypeError(
            "histories must be a dict of logs by network, {'student': history.history}. Received: "
            f"histories of type {type(histories).__name__}"
        )
    names = [one.name for one in found]
    unknown = [name for name in histories if name not in names]
    if unknown:
        raise ValueError(f"histories must be of {names}. Received: {unknown}")
    lines = {}
    for name in (name for name in names if name in histories):
        logs = histories[name]
        if not isinstance(logs, Mapping):
            raise TypeError(
                f"histories[{name!r}] must be a dict of lists, history.history of fit. Received: "
                f"{type(logs).__name__}"
            )
        if curve not in logs:
            raise ValueError(
                f"histories[{name!r}] must have the log {curve!r}; curve= names another one. "
                f"Received: {sorted(logs)}"
            )
        values = logs[curve]
        fits = isinstance(values, Sequence) and not isinstance(values, str) and len(values)
        if not fits or not all(map(is_number, values)):
            raise ValueError(
                f"histories[{name!r}][{curve!r}] must be a list of finite numbers, one for each "
                f"epoch. Received: {values!r}"
            )
        lines[name] = [float(value) for value in values]
    return lines


def _require_trials(trials: Any) -> None:
    known = ("rows", "objective", "direction", "budget")
    if trials is not None and not all(hasattr(trials, name) for name in known):
        raise TypeError(
            "trials must be what mr.tuning.find_student returned. Received: trials of type "
            f"{type(trials).__name__}"
        )


def _footer() -> str:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    tensorflow = importlib.metadata.version("tensorflow")
    return (
        f"Written on {today} by modreduce_keras {__version__} with TensorFlow {tensorflow}, "
        f"Keras {keras.__version__} and Python {platform.python_version()}, on {os.cpu_count()} "
        f"processors ({platform.machine()})."
    )
