"""The page of settings, from the fields of `Settings` and the README's tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from peerload.server.settings import Settings

__all__ = ["page"]

ROOT = Path(__file__).resolve().parents[2]

_HEAD = """# Settings

What `peerload serve` runs with. A flag wins over its variable `PEERLOAD_…`, which wins over the name that deployments of the stock
server already set; an empty variable counts as unset. `peerload serve --print-config` shows what holds, and where each
value comes from.

## Of the server

"""
_CLIENTS = """
## Of clients and commands

"""


def page() -> str:
    """The page, in Markdown."""
    readme = (ROOT / "README.md").read_text()
    lines = ["| setting | default | |", "| --- | --- | --- |"]
    lines += [row(name, field, readme) for name, field in Settings.model_fields.items()]
    return _HEAD + "\n".join(lines) + "\n" + _CLIENTS + clients(readme)


def row(name: str, field: FieldInfo, readme: str) -> str:
    """One setting: flag and variable, default, and what it means with its range and its older names."""
    flag = f"--{name.replace('_', '-')}"
    variable = f"PEERLOAD_{name.upper()}"
    about = [(field.description or "").replace("|", "\\|")]
    if limits := span(field):
        about.append(limits)
    if deployed := deployed_names(variable, readme):
        about.append(f"On existing deployments: {deployed}.")
    anchor = f'<a id="{flag.strip("-")}"></a>'
    return f"| {anchor}`{flag}`<br>`{variable}` | {default(field)} | {' '.join(about)} |"


def default(field: FieldInfo) -> str:
    """What holds where nothing is said; never what would hold on the machine that makes the page."""
    if field.default_factory is not None:
        return "`sqlite:` in the user's state folder"
    value: Any = field.default
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g} s"
    return f"`{value}`" if value not in ("", None) else "none"


def span(field: FieldInfo) -> str:
    """The least and the largest value that is taken, as a sentence; empty where the type says neither."""
    bounds = {
        name: value
        for each in field.metadata
        for name in ("gt", "ge", "le")
        if (value := getattr(each, name, None)) is not None
    }
    if "le" not in bounds:
        return ""
    most = f"{bounds['le']:,.0f}"
    return f"From {bounds['ge']:,.0f} to {most}." if "ge" in bounds else f"More than {bounds['gt']:g}, at most {most}."


def deployed_names(variable: str, readme: str) -> str:
    """The README's words on what deployments of the stock server call the same; empty: nothing."""
    found = re.search(rf"^\| [^|]+ \| [^|]*`{variable}`[^|]* \| ([^|]+) \| [^|]+ \|$", readme, re.MULTILINE)
    return found[1].strip() if found else ""


def clients(readme: str) -> str:
    """The README's table for clients, its links as they are from this page."""
    table = "| clients and commands |" + readme.partition("| clients and commands |")[2].partition("\n\n")[0]
    return table.replace("](docs/", "](../") + "\n"
