"""Methods: prints what `docs/methods.py` has collected of each method, and what it costs.

`methods.json` is written from the registry and from measured rows, so this needs neither.
"""

import json
import shutil
import textwrap
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from modreduce_keras.command.mistakes import MistakeError, did_you_mean

KINDS = {
    "response": "Responses compare logits.",
    "feature": "Features compare layers inside the models: NAME@LAYER.",
    "relation": "Relations compare the samples of a batch: NAME@LAYER.",
}
COST = (
    "time: a training step with the labels and this method, as a multiple of one with kd (resnet56 "
    "to resnet20, batch 64, two CPU cores). memory: what it takes beyond kd at the peak."
)
_WITHOUT_LAYER = ("response",)
_IN_PYTHON = {
    "the sample index",
    "a stage of its own",
    "an adapter trained first",
    "label maps",
}


def load() -> list[dict[str, Any]]:
    """Returns the methods, in alphabetical order."""
    return json.loads(files(__package__).joinpath("methods.json").read_text("utf-8"))


def run(given: dict[str, Any], words: Sequence[str]) -> None:
    """Prints all methods, those of a kind, or what is known of one.

    Raises:
        MistakeError: If there is no such method, or several are named.
    """
    methods = load()
    if len(words) > 1:
        raise MistakeError(f"one name at most, or none for all methods. Received: {words}.")
    if words:
        methods = [_named(words[0], methods)]
    if given["kind"]:
        methods = [one for one in methods if one["kind"] == given["kind"]]
        if not methods:
            raise MistakeError(f"{words[0]!r} is no {given['kind']}: leave --kind out.")
    if given["json"]:
        print(json.dumps(methods, indent=1))
    elif words:
        print(explanation(methods[0]))
    else:
        print(table(methods))


def needs_python(method: dict[str, Any]) -> list[str]:
    """Returns what a method needs that `modreduce distill` cannot give it."""
    return [one for one in method["needs"] if one in _IN_PYTHON]


def table(methods: Sequence[dict[str, Any]]) -> str:
    """Returns the methods by kind, a line for each."""
    width = _width()
    wide = max(len(one["name"]) for one in methods)
    parts = []
    for kind, about in KINDS.items():
        same = [one for one in methods if one["kind"] == kind]
        if not same:
            continue
        lines = [f"{'':{wide}}  {'time':>6}  {'memory':>8}"]
        for one in same:
            time, memory = _cost(one)
            head = f"{one['name']:{wide}}  {time:>6}  {memory:>8}  "
            rest = width - len(head) - 2
            lines.append(head + textwrap.shorten(one["summary"], rest, placeholder=" ..."))
        parts += [about, *(f"  {line}" for line in lines), ""]
    parts += [*textwrap.wrap(COST, width), "modreduce methods NAME explains one."]
    return "\n".join(parts)


def explanation(method: dict[str, Any]) -> str:
    """Returns what is known of a method."""
    time, memory = _cost(method)
    name, held = method["name"], (method["cost"] or {}).get("held_mib")
    given = name if method["kind"] in _WITHOUT_LAYER else f"{name}@LAYER or {name}"
    layer = "" if method["kind"] in _WITHOUT_LAYER else ', at="LAYER"'
    knowledge = method["kind"].capitalize()
    cost = "not measured" if not method["cost"] else f"time {time}, memory {memory}"
    cost += f", of which {held} MiB are held for good" if held else ""
    rows = {
        "formula": method["equation"],
        "reference": method["reference"],
        "weight": f"{method['weight']:g}, unless another one is given",
        "arguments": ", ".join(method["arguments"]) or "none",
        "adapter": method["adapter"] or "none",
        "needs": ", ".join(method["needs"]) or "a teacher",
        "cost": cost,
        "command": "in Python only" if needs_python(method) else f"--knowledge={given}",
        "Python": f'mr.{knowledge}("{name}"{layer}), or mr.losses.{method["class"]}(...)',
    }
    wide, width = max(map(len, rows)), _width()
    lines = [
        textwrap.fill(
            f"{key:{wide}}  {text}",
            width,
            initial_indent="  ",
            subsequent_indent=" " * (wide + 4),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for key, text in rows.items()
    ]
    return "\n".join([f"{name} ({knowledge.lower()}): {method['summary']}", "", *lines])


def _named(name: str, methods: list[dict[str, Any]]) -> dict[str, Any]:
    by_name = {one["name"]: one for one in methods}
    if name.lower() not in by_name:
        raise MistakeError(
            f"there is no method {name!r}.{did_you_mean(name, by_name)} modreduce methods lists "
            "them."
        )
    return by_name[name.lower()]


def _cost(method: dict[str, Any]) -> tuple[str, str]:
    cost = method["cost"]
    if cost is None:
        return "-", "-"
    return f"{cost['times_kd']:.2f} x", f"{cost['extra_mib']:+d} MiB"


def _width() -> int:
    return max(60, min(120, shutil.get_terminal_size((100, 24)).columns))
