"""The page of commands, from what `peerload COMMAND --help` is made of."""

from __future__ import annotations

import enum
import importlib
import inspect
import re
from typing import Any, get_args

import typer

from peerload.cli import COMMANDS, build_app

__all__ = ["page"]

_HEAD = """# Commands

"""


def page() -> str:
    """The page, in Markdown."""
    group: Any = typer.main.get_command(build_app(COMMANDS))
    parts = [_HEAD + prose(group.help)]
    panel = ""
    for name, command in COMMANDS.items():
        if command.panel != panel:
            panel = command.panel
            parts.append(f"## {panel}\n")
        parts.append(section(name, group.commands[name]))
    return "\n".join(parts)


def section(name: str, command: Any) -> str:
    """One command: its usage, its help, its arguments and options."""
    types = kinds(name)
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    usage = " ".join(["peerload", name, "[OPTIONS]", *(shown(each, types[each.name]) for each in arguments)])
    lines = [f"### `peerload {name}`\n", f"```text\n{usage}\n```\n", prose(command.help)]
    rows = [row(each, types.get(each.name, bool)) for each in command.params if not each.hidden]
    if rows:
        lines += ["| | |", "| --- | --- |", *rows, ""]
    return "\n".join(lines)


def shown(parameter: Any, kind: type) -> str:
    """What stands for the value of a parameter of this type."""
    if parameter.metavar:
        word = str(parameter.metavar)
    elif issubclass(kind, enum.Enum):
        word = "|".join(str(each.value) for each in kind)
    else:
        word = {int: "NUMBER", float: "NUMBER"}.get(kind, parameter.name.upper())
    if parameter.param_type_name != "argument":
        return word
    word += "..." if parameter.nargs != 1 else ""
    return word if parameter.required or word.startswith("[") else f"[{word}]"


def kinds(name: str) -> dict[str, type]:
    """The type of each parameter of a command, or of what there may be several of."""
    function = importlib.import_module(COMMANDS[name].module).command
    found = {}
    for each in inspect.signature(function, eval_str=True).parameters.values():
        hint = each.annotation
        while get_args(hint):
            hint = get_args(hint)[0]
        found[each.name] = hint
    return found


def row(parameter: Any, kind: type) -> str:
    """One argument or option."""
    if parameter.param_type_name == "argument":
        return f"| `{shown(parameter, kind)}` | {escaped(parameter.help or '')} |"
    names = ", ".join(f"`{each}`" for each in (*parameter.opts, *parameter.secondary_opts))
    value = "" if parameter.is_flag else f" `{shown(parameter, kind)}`"
    default = getattr(parameter.default, "value", parameter.default)
    words = escaped(parameter.help or "")
    if isinstance(default, str | int | float) and not isinstance(default, bool) and default != "":
        words += f" Default: `{default}`."
    return f"| {names}{value} | {words} |"


def prose(text: str | None) -> str:
    """Help as Markdown: what stands as it is in a terminal does so here."""
    blocks = []
    for block in re.split(r"\n{2,}", (text or "").strip()):
        kept, mark, verbatim = block.partition("\b\n")
        if kept.strip():
            blocks.append(escaped(kept))
        if mark:
            lines = [line.removeprefix("  ") for line in verbatim.splitlines()]
            blocks.append("\n".join(["```text", *lines, "```"]))
    return "\n\n".join(blocks) + "\n"


def escaped(text: str) -> str:
    """Words for a terminal, with nothing in them that Markdown would take for its own."""
    return re.sub(r"([\\*_<>\[\]|])", r"\\\1", text)
