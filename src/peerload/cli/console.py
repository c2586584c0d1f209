"""Where commands write: tables and results to stdout, progress and remarks to stderr, JSON lines for programs.

Piped output carries no control codes and no frames; NO_COLOR is honoured (by rich).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from peerload.cli.text import clean

__all__ = ["cell", "err", "fitted", "out", "print_json", "remark", "say", "table", "write"]

_NATURAL_WIDTH: Final = 10_000
_PIPED_WIDTH: Final = 240
"""Columns when nobody looks: enough that no cell is cut or wrapped."""


def out() -> Console:
    """The console of results."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def err() -> Console:
    """The console of progress and remarks."""
    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else _PIPED_WIDTH)


def say(line: str, style: str = "") -> None:
    """One line of result."""
    out().print(Text(line, style=style), soft_wrap=True)


def remark(line: str, style: str = "") -> None:
    """One line about what goes on."""
    err().print(Text(line, style=style), soft_wrap=True)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on one line, at once."""
    sys.stdout.write(json.dumps(value, ensure_ascii=True, separators=(",", ":"), default=str) + "\n")
    sys.stdout.flush()


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table of `columns`, those in `right` aligned to the right. Ruled on a terminal, bare columns when piped."""
    terminal = sys.stdout.isatty()
    made = Table(
        box=box.SIMPLE_HEAD if terminal else None,
        pad_edge=terminal,
        header_style="bold",
        show_edge=False,
        padding=(0, 2, 0, 0),
    )
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def fitted(made: Table, *spare: str) -> Table:
    """The table without the `spare` columns, as far as it takes to make it fit the terminal: first those in which nothing
    stands, then in their order."""
    console = out()
    natural = console.options.update(max_width=_NATURAL_WIDTH)
    empty = {column.header for column in made.columns if {str(cell) for cell in column.cells} <= {"", "-"}}
    for name in sorted(spare, key=lambda name: name not in empty):
        if console.measure(made, options=natural).maximum <= console.width:
            break
        kept = [column for column in made.columns if column.header != name]
        right = tuple(str(column.header) for column in kept if column.justify == "right")
        made = table(*(str(column.header) for column in kept), right=right)
        for row in zip(*(column.cells for column in kept), strict=True):
            made.add_row(*row)
    return made


def write(made: Table) -> None:
    """Print a table."""
    out().print(made)


def cell(text: object, style: str = "") -> Text:
    """A cell with text that others chose."""
    return Text(clean(str(text)), style=style)
