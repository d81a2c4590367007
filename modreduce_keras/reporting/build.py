"""Build: makes the pages that compare a teacher and its students, in one call."""

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
    """What `mr.report` found, and where it wrote it.

    Attributes:
        figures: The `Figures` of the teacher (`"teacher"`), the students and the files, by name.
        classes: Names of the classes; of one logit no and yes, else of the labels or numbers.
        samples: How many samples there were.
        kind: What the outputs are, see `kind` of `mr.report`.
        markdown: The Markdown page; its pictures lie in `report_files/` beside it.
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
    """Compares students, and files made from them, with their teacher, on a page to look at.

    Accuracy with its 95 % interval, parameters, size and time; agreement with the teacher, and who
    is right where they differ; classes that are confused more or less than the teacher does; the
    mistakes that a student is surest of, where the inputs are images; calibration with reliability
    diagrams; accuracy over size and over time, with the Pareto front; learning curves. Every
    network runs once over the data, of which only the logits and the images of the gallery are
    kept.

    What is compared depends on the kind of the outputs. Of classes the page says all this; of one
    logit too, for the classes no and yes. Independent labels are each answered by yes or no, all
    labels of all samples count alike, and there are no classes to confuse and no gallery. Numbers
    have mean absolute errors and R² in the place of accuracies, and agree with the teacher's
    within a tolerance; embeddings agree in direction, and labels do not count for them.

    In the folder, `report.html` holds everything in one file and needs no network; `report.md` has
    its pictures in `report_files/`. A report that is there is replaced when the new one is
    complete. All is measured on the data given: choose students on others.

    Args:
        teacher: A built Keras model with one output (batch, units), logits where the labels are
            classes or yes and no; or `None`.
        students: One such model, or several by name.
        exports: What `mr.export` wrote, TFLite and ONNX files or folders of SavedModels: `{name:
            path}` with one student, else `{student: {name: path}}`.
        data: Dataset of batches `(x, y)`, or a tuple `(x, y)` of arrays, as `mr.export.verify`
            takes them. Labels are classes or one-hot, 0 and 1 for each label, or numbers; of
            `kind="embedding"` there may be none, `x` alone. Sample weights do not count.
        path: Folder to write to; it is made if it is missing.
        histories: Logs of trainings, `history.history` of `fit`, for any of `"teacher"` and the
            names of the students (`"student"` if it has none).
        curve: The log to draw of them. Defaults to `"val_accuracy"`.
        trials: What `mr.tuning.find_student` returned, of which the page shows how good students
            are over their size and their time. Defaults to `None`.
        class_names: Names of the classes, two for one logit. Defaults to their numbers, and to
            no and yes.
        kind: What the outputs are: `"classes"`, `"logit"`, `"labels"`, `"regression"` or
            `"embedding"`. Defaults to `None`: what the loss says that a network is compiled with,
            else what the labels are, as in `mr.export.verify`.
        tolerance: How far numbers and directions may be apart that agree, see
            `mr.export.verify`. Defaults to 0.1.
        title: Heading of the page.
        gallery: How many images at most of each student, 0 for none. Defaults to 12. Images are
            (height, width, 1 or 3).
        bins: Bins of confidence from 0 to 1 in the calibration error. Defaults to 15.
        threads: How many threads TFLite and ONNX files may use. Defaults to 1.
        batch_size: For arrays: how many samples run together. Defaults to 256.
        repeats: How many runs of one sample are timed. Defaults to 100.

    Returns:
        A `Report`: the figures and the two files.

    Raises:
        TypeError: If a model, the data, a path, histories or names are something else.
        ValueError: If names are not known or not new, classes or inputs differ, labels are missing
            or out of range, outputs are not finite logits, or an argument is out of range.
        FileNotFoundError: If there is no such file.
        VerificationError: If a file is damaged, or is not of its student's shapes.
        ImportError: If what runs a file is missing: LiteRT, which
            `pip install 'modreduce-keras[export]'` brings, or ONNX Runtime (`[onnx]`).

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
    for name, value, least in (
        ("gallery", gallery, 0),
        ("bins", bins, 1),
        ("threads", threads, 1),
        ("batch_size", batch_size, 1),
        ("repeats", repeats, 1),
    ):
        require_integer(name, value, least)
    for name, text in (("title", title), ("curve", curve)):
        if not isinstance(text, str) or not text.strip():
            raise TypeError(f"{name} must be a string, not empty. Received: {name}={text!r}")
    folder = files.require_folder(path)
    if exports is not None and not isinstance(exports, Mapping):
        raise TypeError(
            "exports must be a dict of files by name, {'name': path}, or of such dicts by student; "
            "data without files come as data=. Received: exports of type "
            f"{type(exports).__name__}"
        )
    if data is None:
        raise TypeError("data must be a tuple (x, y) of arrays, or a dataset. Received: data=None")
    require_number("tolerance", tolerance, above=0)
    found = networks(teacher, students)
    shape = (None, found[0].units)
    kind = judging.require_kind(kind, shape)
    compiled = (judging.compiled_kind(one.model, shape) for one in reversed(found))
    kind = kind or next((one for one in compiled if one), None)
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
    page = compose(content)
    markdown = markdown_page.render(page, files.PICTURES)
    files.write(folder, markdown, html_page.render(page), markdown_page.files(page))
    return Report(
        collected.figures,
        classes,
        collected.samples,
        collected.kind,
        folder / files.MARKDOWN,
        folder / files.HTML,
    )


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
