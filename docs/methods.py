"""Writes the catalogue of methods, docs/methods.md, from the registry; nothing in it is typed.

    python -m docs.methods            rewrites docs/methods.md
    python -m docs.methods --check    fails if docs/methods.md is not up to date

The same goes into a file of the package, which `modreduce methods` prints.

Names, equations and references are read from the classes and their docstrings, costs from the
rows of `benchmarks/speed/method_cost.py`, how far the terms fall from those of
`benchmarks/accuracy/fifty_steps.py`, what students gain from those of `benchmarks/cifar100`, and
the kind of check from the tests.
"""

import inspect
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

import modreduce_keras as mr
from benchmarks import common
from benchmarks.cifar100 import every_loss_table, evidence
from modreduce_keras.registry import components

ROOT = Path(__file__).parents[1]
FLAGS = flags.FLAGS
flags.DEFINE_bool("check", False, "Write nothing; fail if the page is not up to date")
flags.DEFINE_string("page", str(ROOT / "docs" / "methods.md"), "The file to write")
flags.DEFINE_string(
    "listing",
    str(ROOT / "modreduce_keras" / "command" / "methods.json"),
    "The file to write for the command",
)
flags.DEFINE_string("results", str(common.RESULTS), "The folder of the rows")

HEADER = """\
# Methods

All losses by which a student can learn from a teacher, with equations, papers and defaults. This
page is generated from the code by `python -m docs.methods`. `help(mr.losses.KD)` explains the
symbols of an equation.

How to read the tables:

- **Equations** give the value of one sample. `z` are logits, `f` features, `p` probabilities; `s`
  means the student and `t` the teacher.
- **Cost** is the time of a training step with the labels and this loss, relative to the same step
  with KD, and its additional peak memory. *Held* is what the adapter's weights and memory take
  permanently.
- **50 steps** is the factor by which the loss falls on held-out images in the first fifty steps of
  a small student, which learns from the labels as well, with the default weight unless the cell
  says otherwise. Below 1 the loss rises; see the [last section](#where-the-factors-come-from).
- **Gain** is how many points of test accuracy a student gains on CIFAR-100 over the labels alone,
  if it learns from the labels and by this loss with its default weight: 20 epochs of 10,000 images,
  and after a slash, where it was measured, 30 epochs of 45,000 images. The student is a
  convolutional network of 106,820 parameters, with one seed unless the cell says otherwise. Less
  than a point means nothing. See [Does it work?](evidence.md#every-loss-with-its-default-weight).
- **Weights** are those of the papers. Those of `at`, `sp`, `semckd`, `catkd`, `dino`, `nst` and
  `rkd_angle` are too large for small students, which lost more than a point on CIFAR-100, or
  diverged. Set a tenth, a quarter for `semckd`, and `weight="balanced"` for `catkd`; each loss's
  docstring has the numbers.
- **Check** says what values and gradients are compared with in the tests: `golden` numbers of a
  reference implementation in PyTorch, or an independent computation in `NumPy`.
"""
COLUMNS = (
    "method",
    "equation",
    "reference",
    "weight, arguments",
    "adapter",
    "needs",
    "cost",
    "50 steps",
    "gain",
    "check",
)
KINDS = {
    "response": ("Responses", 'They compare logits: `mr.Response("kd")`.'),
    "feature": ("Features", 'They compare intermediate layers: `mr.Feature("hint", at="stage2")`.'),
    "relation": (
        "Relations",
        'They compare the samples of a batch: `mr.Relation("sp", at="embedding")`.',
    ),
}
FACTORS = """\
The student's batches have 64 images, and its optimizer is SGD with a learning rate of 0.02 and
momentum 0.9, for every loss. Where a loss falls little, or not at all:

- `multi_level` rises in the first fifty steps, and has fallen after 200. It adds up five
  temperatures, and its part on classes is a sum over the batch: at the default weight it is by far
  the largest of the losses on logits, and the steps are long.
- `irg` and `vkd` have small default weights, with which the labels decide where the features go.
  With the larger weights in their cells, both fall.
- `fgd`, `fgd_global` and `fgfi` have the weights of their papers, for the large maps of detectors,
  and are small here beside the labels. Without a loss on the labels, all three fall (see
  `tests/distillers/step/test_label_maps.py`).
- `shake` has two parts. The shadow head of the teacher comes nearer to the teacher. But it leaves
  the student behind, and the part between these two rises: both begin with nearly uniform outputs.
- `confidence_penalty` has no teacher: the labels make the student more confident, and it rises.

Losses on attention, on maps of labels and on numbers have networks of their own, a wide teacher and
a narrow student (`benchmarks/accuracy/fifty_steps_pairs.py`).
"""
NOT_MEASURED = "not measured"
STEPS = 50
PROTOCOLS = tuple(reversed(evidence.FILES))
"""The files of the protocols that gains are measured by, the shorter one first."""
MEASURE = "kd"
"""The method that costs are multiples of."""

_REFERENCE = re.compile(r"(.+?(?: et al\.| and [\w-]+)), .+?, (\d{4})")

Row = Mapping[str, Any]


def render(
    rows: list[Row],
    falls: Sequence[Row] = (),
    gains: Sequence[Mapping[str, every_loss_table.Gain]] = (),
    tests: Path = ROOT / "tests",
) -> str:
    """Returns the page, given the rows of the costs and of the fifty steps, oldest first.

    Args:
        rows: The costs.
        falls: The fifty steps.
        gains: What students gain on CIFAR-100 by each protocol, by loss.
        tests: The folder of the tests.
    """
    latest = {row["method"]: row for row in rows}
    losses = components("loss")
    parts = [HEADER]
    for kind, (title, explanation) in KINDS.items():
        same = {name: cls for name, cls in losses.items() if cls.kind == kind}
        lines = [
            [
                *describe(cls),
                cost(name, latest, losses),
                factors(cls, falls),
                gain(name, gains),
                check(name, tests),
            ]
            for name, cls in same.items()
        ]
        parts += [f"## {title}", explanation, table(COLUMNS, lines)]
    parts += ["## Adapters", adapters()]
    sizes = ("teacher", "student", "batch", "samples", "rounds", "steps")
    measured = [row for name, row in latest.items() if name in losses or _variant(name, losses)]
    if measured:
        parts += ["## Where the costs come from", *common.origins(measured, *sizes)]
    if falls:
        origins = common.origins(falls, "teacher", "student", "steps", "batch")
        parts += ["## Where the factors come from", FACTORS, *origins]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def listing(rows: list[Row]) -> str:
    """Returns the methods as JSON, given the rows of the method costs, oldest first."""
    latest = {row["method"]: row for row in rows}
    return json.dumps([_entry(cls, latest) for cls in components("loss").values()], indent=1) + "\n"


def _entry(cls: type, latest: Mapping[str, Row]) -> dict[str, Any]:
    """Returns a method as JSON holds it; its cost is `None` if it has not been measured."""
    authors, year = reference(cls)
    row = latest.get(cls.identifier)
    cost = {"times_kd": 1.0, "extra_mib": 0, "held_mib": 0} if cls.identifier == MEASURE else None
    if row is not None and "ratio_median" in row:
        cost = {
            "times_kd": round(row["ratio_median"], 2),
            "extra_mib": round(row["extra_mib"]),
            "held_mib": round(row["held_mib"]),
        }
    return {
        "name": cls.identifier,
        "kind": cls.kind,
        "class": cls.__name__,
        "summary": inspect.getdoc(cls).partition("\n")[0],
        "equation": _formula(cls),
        "reference": f"{authors} {year}",
        "weight": cls.default_weight,
        "arguments": [one.strip("`") for one in arguments(cls)],
        "adapter": cls.default_adapter,
        "needs": [one for one in needs(cls).split(", ") if one],
        "cost": cost,
    }


def describe(cls: type) -> list[str]:
    """Returns the cells of a loss that its class alone determines."""
    authors, year = reference(cls)
    weight = ", ".join([f"{cls.default_weight:g}", *arguments(cls)])
    adapter = f"`{cls.default_adapter}`" if cls.default_adapter else ""
    return [_name(cls), equation(cls), f"{authors} {year}", weight, adapter, needs(cls)]


def equation(cls: type) -> str:
    """Returns the formula under the summary of a class's docstring, ready for a table."""
    return escaped(_formula(cls))


def _formula(cls: type) -> str:
    formula = inspect.getdoc(cls).split("\n\n")[1]
    return " ".join(formula.split()).rstrip(":")


def reference(cls: type) -> tuple[str, str]:
    """Returns authors and year of the first work that a class's docstring refers to.

    Raises:
        ValueError: If there is none in the form of "Authors, Title, Year".
    """
    _, _, section = inspect.getdoc(cls).partition("\nReference:\n")
    found = _REFERENCE.match(" ".join(section.split()))
    if not found:
        raise ValueError(f"{cls.__name__} needs a section 'Reference:' with authors, title, year")
    return found[1], found[2]


def arguments(cls: type) -> list[str]:
    """Returns the arguments of a constructor and their defaults, those of every class left out."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    left_out = {"self", "name", "dtype", "trainable", "reduction", "kwargs"}
    own = [parameter for parameter in parameters if parameter.name not in left_out]
    return [
        f"`{one.name}`" if one.default is one.empty else f"`{one.name}={one.default!r}`"
        for one in own
    ]


def needs(cls: type[mr.losses.Loss]) -> str:
    """Returns what a method needs beyond a teacher's and a student's tensors."""
    adapter = components("adapter").get(cls.default_adapter, mr.adapters.Adapter)
    needed = {
        "label maps": cls.label_maps,
        "labels": cls.needs_labels and not cls.label_maps,
        "no teacher": not cls.needs_teacher,
        "a stage of its own": cls.staged,
    }
    return ", ".join([name for name, holds in needed.items() if holds] + adapter_needs(adapter))


def adapter_needs(cls: type[mr.adapters.Adapter]) -> list[str]:
    """Returns what an adapter needs."""
    base = mr.adapters.Adapter
    needed = {
        "the sample index": cls.needs_index,
        "parts of the models": cls.adopt is not base.adopt,
        "an adapter trained first": cls.pretraining_loss is not base.pretraining_loss,
    }
    return [name for name, holds in needed.items() if holds]


def cost(identifier: str, latest: Mapping[str, Row], losses: Iterable[str]) -> str:
    """Returns the cost of a method, and of its variants by name."""
    names = [identifier, *(name for name in latest if _variant(name, losses) == identifier)]
    costs = [(name, _cost(latest[name])) for name in names if name in latest]
    lines = [text if name == identifier else f"`{name}` {text}" for name, text in costs]
    return "; ".join(lines) or ("1.00 x" if identifier == MEASURE else NOT_MEASURED)


def factors(cls: type, falls: Iterable[Row]) -> str:
    """Returns the factors by which a loss has fallen: by default, and by other settings."""
    found: dict[str, str] = {}
    for row in falls:
        if row["method"] != cls.identifier:
            continue
        is_default = math.isclose(row["weight"], cls.default_weight, rel_tol=1e-3)
        said = [] if is_default else [f"weight {row['weight']:g}"]
        said += [] if row["steps"] == STEPS else [f"{row['steps']} steps"]
        change = f"{row['before']:.2f} to {row['after']:.2f}"
        found[", ".join(said)] = change if row["factor"] is None else f"{row['factor']:.3g}"
    lines = [f"{factor} ({said})" if said else factor for said, factor in found.items()]
    return ", ".join(lines) or NOT_MEASURED


def gain(identifier: str, gains: Sequence[Mapping[str, every_loss_table.Gain]]) -> str:
    """Returns what a student gains over the labels alone, and the number of seeds if not one."""
    found = [own[identifier] for own in gains if identifier in own]
    told = [one.told if one.seeds == 1 else f"{one.told} ({one.seeds} seeds)" for one in found]
    return " / ".join(told) or NOT_MEASURED


def _cost(row: Row) -> str:
    if "ratio_median" not in row:
        return f"{row['ms_median']:.0f} ms, {row['mib']:.0f} MiB"
    parts = [f"{row['ratio_median']:.2f} x", f"{row['extra_mib']:+.0f} MiB"]
    if row["held_mib"] >= 0.5:
        parts.append(f"{row['held_mib']:.0f} MiB held")
    return ", ".join(parts)


def _variant(name: str, losses: Iterable[str]) -> str | None:
    """Returns the loss that a row's method is a variant of, such as "crd" of "crd_shared"."""
    found = [loss for loss in losses if name.startswith(f"{loss}_") and name not in losses]
    return max(found, key=len, default=None)


def check(identifier: str, tests: Path) -> str:
    """Returns what a loss is compared with: "golden", "NumPy", or nothing."""
    if any(
        file.stem == identifier or file.stem.startswith(f"{identifier}_")
        for file in (tests / "golden").glob("*.npz")
    ):
        return "golden"
    named = re.compile(rf"^def test_{identifier}_equals_numpy", re.MULTILINE)
    files = sorted(tests.rglob("test_*.py"))
    return "NumPy" if any(named.search(file.read_text("utf-8")) for file in files) else ""


def adapters() -> str:
    """Returns the table of the adapters."""
    losses = components("loss").items()
    lines = []
    for identifier, cls in components("adapter").items():
        users = [f"`{name}`" for name, loss in losses if loss.default_adapter == identifier]
        summary, _, _ = inspect.getdoc(cls).partition("\n")
        needed = ", ".join(adapter_needs(cls))
        cells = [escaped(summary), ", ".join(arguments(cls)), ", ".join(users), needed]
        lines.append([_name(cls), *cells])
    return table(("adapter", "what it does", "arguments", "default of", "needs"), lines)


def table(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Returns a Markdown table."""
    header = list(header)
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def escaped(text: str) -> str:
    """Returns a text that Markdown shows as it is in a table; what is `code` stays code."""
    pieces = text.replace("|", r"\|").split("`")
    pieces[::2] = [re.sub(r"([_*])", r"\\\1", piece) for piece in pieces[::2]]
    return "`".join(pieces)


def _name(cls: type) -> str:
    return f"`{cls.identifier}` (`{cls.__name__}`)"


def main(_) -> None:
    """Writes or checks the page, and the file of the command."""
    folder = Path(FLAGS.results)
    rows = common.read_rows(folder / "method_cost.jsonl")
    rows = [row for row in rows if not row.get("plain")]
    falls = common.read_rows(folder / "fifty_steps.jsonl")
    trained = {name: common.read_rows(folder / f"{name}.jsonl") for name in every_loss_table.FILES}
    gains = [every_loss_table.gains_of(trained, file) for file in PROTOCOLS]
    made = {Path(FLAGS.page): render(rows, falls, gains), Path(FLAGS.listing): listing(rows)}
    for path, text in made.items():
        if path.exists() and path.read_text("utf-8") == text:
            continue
        if FLAGS.check:
            sys.exit(f"{path.name} is not up to date: run python -m docs.methods")
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    app.run(main)
