"""Page: the content of a report in order, for both Markdown and HTML."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from modreduce_keras.output_kind import EMBEDDING, LABELS, REGRESSION
from modreduce_keras.reporting import bars, charts, fronts, numbers_in_words, words
from modreduce_keras.reporting.gallery import Gallery, pixels, png
from modreduce_keras.reporting.subjects import TEACHER
from modreduce_keras.reporting.svg import Picture
from modreduce_keras.reporting.words import Table

_MOST_PAIRS = 8
_RIGHT, _WRONG = "\N{CHECK MARK}", "\N{BALLOT X}"


class Tile(NamedTuple):
    """An image of the gallery: the content of its PNG file, and what is said of it."""

    name: str
    image: bytes
    right: str
    wrong: str
    sample: int


class Shelf(NamedTuple):
    """The images of one student."""

    title: str
    tiles: list[Tile]


class Section(NamedTuple):
    """A part of the page: a heading, some text and what it describes."""

    title: str
    text: str
    pictures: Sequence[Picture] = ()
    table: Table | None = None
    shelves: Sequence[Shelf] = ()
    in_twos: bool = False


class Page(NamedTuple):
    """A whole page."""

    title: str
    tiles: list[tuple[str, str]]
    summary: list[tuple[str, str]]
    sections: list[Section]
    footer: str


class Content(NamedTuple):
    """What a page is made of.

    Attributes:
        title: Its heading.
        kind: What the outputs are.
        figures: Of all networks and files.
        samples: How many samples they come from.
        classes: Names of the classes.
        galleries: Of each student; empty without images.
        lines: Values over the epochs, by the network.
        curve: What these values are called in the logs.
        trials: Of a search for a student, or `None`.
        threads: Of the files.
        footer: Who wrote it, when, with what.
    """

    title: str
    kind: str
    figures: list[Any]  # each a Figures, with the figures that its kind has
    samples: int
    classes: list[str]
    galleries: Mapping[str, Gallery]
    lines: Mapping[str, Sequence[float]]
    curve: str
    trials: Any
    threads: int
    footer: str


def compose(content: Content) -> Page:
    """Returns the page of a report."""
    figures = content.figures
    sections = [
        _accuracy(content),
        _agreement(content),
        _changes(content),
        _gallery(content),
        _calibration(content),
        _cost(content),
        _front(content),
        _trials(content),
        _curves(content),
    ]
    return Page(
        content.title,
        words.tiles(figures),
        _summary(content),
        [section for section in sections if section is not None],
        content.footer,
    )


def _summary(content: Content) -> list[tuple[str, str]]:
    if content.kind in numbers_in_words.KINDS:
        return numbers_in_words.summary(content.figures)
    return words.summary(content.figures, content.samples, content.classes)


def _quality(content: Content) -> list[Picture]:
    """Returns how good the networks are: nothing where labels do not say so."""
    figures, kinds = content.figures, bars.kinds(content.figures)
    if content.kind == EMBEDDING:
        return []
    if content.kind == REGRESSION:
        rows = [(one.name, kinds[one.name], one.error, f"{one.error:.4g}") for one in figures]
        return [bars.bars("error", "Mean absolute error", "Against the labels.", rows)]
    caption = "The line is the 95 % interval: how far chance in the choice of samples may carry it."
    shares = [(one.name, kinds[one.name], one.accuracy, one.interval) for one in figures]
    return [bars.dots("accuracy", "Accuracy", caption, shares)]


def _accuracy(content: Content) -> Section:
    figures, kinds = content.figures, bars.kinds(content.figures)
    networks = [one for one in figures if one.role != "file"]
    shown = [
        *_quality(content),
        bars.bars(
            "parameters",
            "Parameters",
            "Numbers that each network has learnt.",
            [
                (one.name, kinds[one.name], one.parameters, words.number(one.parameters))
                for one in networks
            ],
        ),
        bars.bars(
            "size",
            "Size",
            "Of the weights in Keras, and of a whole file.",
            [(one.name, kinds[one.name], one.size, words.size(one.size)) for one in figures],
        ),
    ]
    text = f"Everything here is measured on the same {content.samples:,} samples."
    if content.kind == LABELS:
        text += (
            f" An answer is yes or no for one of {len(content.classes)} labels of a sample, and "
            "all answers count alike."
        )
    return Section("At a glance", text, shown, words.table(figures))


def _agreement(content: Content) -> Section | None:
    kinds = bars.kinds(content.figures)
    taught = [one for one in content.figures if one.agreement is not None]
    if not taught:
        return None
    rows = [(one.name, kinds[one.name], one.agreement, None) for one in taught]
    if content.kind in numbers_in_words.KINDS:
        title, caption = numbers_in_words.agreement(content.kind)
        shown = [bars.dots("agreement", title, caption, rows)]
        return Section("Agreement with the teacher", caption, shown)
    students = {one.name: one.together for one in taught if one.role == "student"}
    shown = [
        bars.dots("agreement", "Same answer as the teacher", "Right or wrong.", rows),
        bars.together(
            "together", "Who is right", "Where the two differ, and how often each wins.", students
        ),
    ]
    text = "How often a student says what its teacher says, and who is right where they differ."
    return Section("Agreement with the teacher", text, shown)


def _changes(content: Content) -> Section | None:
    by_name = {one.name: one for one in content.figures}
    students = [one for one in content.figures if one.role == "student" and one.changes]
    if not students or TEACHER not in by_name:
        return None
    shown = []
    for index, one in enumerate(students, 1):
        some = charts.shown_classes(one.changes, len(content.classes))
        if len(some) > 1:
            part = "" if len(some) == len(content.classes) else ", classes that changed most"
            shown.append(
                charts.change_table(
                    f"changes-{index}",
                    f"{one.name}: changes{part}",
                    "Rows are the right class, columns the answer. Orange: worse than the teacher, "
                    "by so many samples; blue: better.",
                    one.confusion - by_name[TEACHER].confusion,
                    some,
                    content.classes,
                )
            )
        shown.append(
            charts.pairs(
                f"pairs-{index}",
                f"{one.name}: largest changes",
                "How often, from the teacher to the student: orange for more, blue for fewer.",
                one.changes[:_MOST_PAIRS],
                content.classes,
            )
        )
    text = "Which classes a student takes for one another more often, or less, than its teacher."
    return Section("What is confused", text, shown, in_twos=True)


def _gallery(content: Content) -> Section | None:
    shelves = []
    for index, (name, gallery) in enumerate(content.galleries.items(), 1):
        mistakes = gallery.mistakes
        images = pixels([one.image for one in mistakes]) if mistakes else []
        tiles = []
        for number, (one, image) in enumerate(zip(mistakes, images, strict=True), 1):
            right = f"{_RIGHT} {content.classes[one.label]}"
            if one.teacher_confidence is not None:
                right += f", {words.percent(one.teacher_confidence, 0)}"
            sure = words.percent(one.confidence, 0)
            wrong = f"{_WRONG} {content.classes[one.said]}, {sure}"
            tiles.append(Tile(f"image-{index}-{number}", png(image), right, wrong, one.sample))
        if tiles:
            shelves.append(Shelf(name, tiles))
    if not shelves:
        return None
    text = f"The mistakes that each student is surest of. {_RIGHT} is the right class, "
    text += f"{_WRONG} what the student says, and how sure it is."
    if any(one.role == TEACHER for one in content.figures):
        text = f"Images that the teacher gets right ({_RIGHT}) and the student wrong ({_WRONG}), "
        text += "with how sure each is: the mistakes that each student is surest of."
    return Section("What it looks like", text, shelves=shelves)


def _calibration(content: Content) -> Section | None:
    if content.kind in numbers_in_words.KINDS:
        return None
    kinds = bars.kinds(content.figures)
    shown = [
        charts.reliability(
            f"reliability-{index}",
            one.name,
            f"Calibration error (ECE) {words.percent(one.calibration.error)}.",
            kinds[one.name],
            one.calibration,
        )
        for index, one in enumerate(content.figures, 1)
    ]
    text = (
        "Of the answers that a network is 80 % sure of, 80 % should be right: bars on the dashed "
        "line. The faint part is what is missing or too much, and its mean over all samples the "
        "calibration error. The small bars below say where the samples are."
    )
    return Section("Does it know how sure to be?", text, shown)


def _cost(content: Content) -> Section:
    kinds = bars.kinds(content.figures)
    models = [one for one in content.figures if one.role != "file"]
    files = [one for one in content.figures if one.role == "file"]
    rows = [
        [
            (one.name, kinds[one.name], one.milliseconds, words.milliseconds(one.milliseconds))
            for one in group
        ]
        for group in (models, files)
    ]
    shown = [
        bars.bars(
            "keras_time",
            "Keras",
            "On TensorFlow's threads. Of small networks, most is the cost of a call.",
            rows[0],
        )
    ]
    if files:
        several = f"{content.threads} thread" + "s" * (content.threads > 1)
        said = f"TFLite and ONNX on {several}, a SavedModel on TensorFlow's."
        shown.append(bars.bars("file_time", "Files", said, rows[1]))
    if all(one.multiply_adds for one in models):
        shown.append(
            bars.bars(
                "multiply_adds",
                "Multiply-adds",
                "Multiplications with an addition, for one sample.",
                [
                    (one.name, kinds[one.name], one.multiply_adds, words.number(one.multiply_adds))
                    for one in models
                ],
            )
        )
    text = "The median time of one sample on the machine that wrote this page, and the work in it."
    return Section("How fast it is", text, shown)


def _front(content: Content) -> Section | None:
    shown = fronts.of_networks(content.figures, bars.kinds(content.figures))
    text = "Whatever is not on the line is beaten by something that is no worse and no dearer."
    return Section("What it costs to be right", text, shown, in_twos=True) if shown else None


def _trials(content: Content) -> Section | None:
    trials = content.trials
    shown = [] if trials is None else fronts.of_trials(trials)
    if not shown:
        return None
    trained = sum(row["score"] is not None for row in trials.rows)
    refused = sum(bool(row["refused"]) for row in trials.rows)
    limits = ", ".join(f"{name} {limit:g}" for name, limit in trials.budget.items())
    text = (
        f"{len(trials.rows)} students of a family: {refused} over the budget ({limits}), {trained} "
        "trained, not all of them for as long. On the line are those that no other beats."
    )
    return Section("Which student?", text, shown, in_twos=True)


def _curves(content: Content) -> Section | None:
    if not content.lines:
        return None
    kinds = bars.kinds(content.figures)
    lines = {name: (kinds[name], values) for name, values in content.lines.items()}
    called = words.log(content.curve)
    picture = charts.curves(
        "curves",
        called.capitalize(),
        "With the value after the last epoch.",
        lines,
        content.curve.endswith("accuracy"),
    )
    return Section("How it learnt", f"The {called} after each epoch of training.", [picture])
