"""Pages: the help of `modreduce` and of its subcommands."""

import shutil
import textwrap

from modreduce_keras.command.commands import COMMANDS, SWITCH, Command, Flag

_COLUMN = 30


def overview() -> str:
    """Returns the help of the whole command."""
    wide = max(map(len, COMMANDS))
    lines = [
        _wrapped(f"{one.name:<{wide}}  {one.about}", 2, 2 + wide + 2) for one in COMMANDS.values()
    ]
    return "\n".join(
        [
            "modreduce: knowledge distillation for Keras.",
            "",
            "usage: modreduce COMMAND [--flag=value ...]",
            "",
            *lines,
            "",
            "modreduce COMMAND --help shows the flags of a command.",
        ]
    )


def page(command: Command) -> str:
    """Returns the help of a subcommand: its own flags and nothing else."""
    required = [f"--{flag.name}={flag.value}" for flag in command.flags if flag.required]
    usage = " ".join(
        ["usage: modreduce", command.name, *filter(None, [command.arguments]), *required, "[flags]"]
    )
    parts = [_wrapped(usage, 0, 4), "", _wrapped(command.details)]
    for heading, flags in command.groups.items():
        parts += ["", f"{heading}:", *map(_flag, flags)]
    if command.examples:
        parts += ["", "Examples:", *(f"  {example}" for example in command.examples)]
    return "\n".join(parts)


def _flag(flag: Flag) -> str:
    value = "|".join(flag.choices) or flag.value
    head = f"--[no]{flag.name}" if flag.kind == SWITCH else f"--{flag.name}={value}"
    text = flag.text
    if flag.required:
        text += " Required."
    elif flag.default is not None and flag.kind != SWITCH:
        text += f" Default: {flag.default}."
    elif flag.kind == SWITCH:
        text += f" Default: {'yes' if flag.default else 'no'}."
    head = f"  {head}"
    begins = [head] if len(head) > _COLUMN - 2 else []
    first = " " * _COLUMN if begins else head.ljust(_COLUMN)
    return "\n".join([*begins, _wrapped(text, first, _COLUMN)])


def _wrapped(text: str, first: int | str = 0, rest: int = 0) -> str:
    width = max(60, min(100, shutil.get_terminal_size((100, 24)).columns))
    begin = first if isinstance(first, str) else " " * first
    return textwrap.fill(
        text,
        width,
        initial_indent=begin,
        subsequent_indent=" " * rest,
        break_on_hyphens=False,
        break_long_words=False,
    )
