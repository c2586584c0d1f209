"""Figures of runs find their place in docs/performance.md, and stand there as they should."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.figures import Figure
from bench.page import BEGIN, END, PAGE, fill
from bench.report import picture, write
from bench.rows import ROWS

ABOUT = {"processor": "one", "cores": 2, "load average": 0.1, "python": "3", "kernel": "6", "seconds": 1}


def figure(row: str, value: float, *, curve: str = "") -> Figure:
    return Figure(row=row, case="c", unit="/s", value=value, goal=1.0, rounds=(value, value), curve=curve, at=value)


def run(folder: Path, *figures: Figure, ended: dict[str, str] | None = None) -> Path:
    write(folder, figures, ABOUT, ended or {})
    for each in figures:
        if each.curve:
            (folder / picture(each.row, each.curve)).write_bytes(folder.name.encode())
    return folder


def between(page: Path) -> str:
    return page.read_text().partition(BEGIN)[2].partition(END)[0]


def check(page: Path) -> list[str]:
    """Which rows have figures. Tables are whole, and pictures are there."""
    block = between(page)
    tables: list[list[str]] = [[]]
    for line in block.splitlines():
        if line.startswith("|"):
            tables[-1].append(line)
        elif tables[-1]:
            tables.append([])
    for table in filter(None, tables):
        assert len({line.count(" | ") for line in table}) == 1, table[0]
        assert set(table[1]) <= set("| -")
    pictures = re.findall(r"^!\[[^]]+\]\(([^)]+)\)$", block, re.MULTILINE)
    assert all((page.parent / name).is_file() for name in pictures)
    folder = page.with_suffix("")
    assert {Path(name).name for name in pictures} == {path.name for path in folder.glob("*")}
    found = re.findall(r"^### `(\w+)`: (.+)$", block, re.MULTILINE)
    assert all(ROWS[row].about == about for row, about in found)
    return [row for row, _ in found]


def test_the_last_run_of_a_row_counts_and_the_page_stays_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    first = run(tmp_path / "first", figure("update", 7.0), figure("records", 3.0, curve="start"))
    second = run(
        tmp_path / "second",
        figure("records", 4.0, curve="memory"),
        figure("single", 5.0),
        ended={"records": "not done\nat all"},
    )
    for _ in range(2):  # It can be filled again.
        fill(page, [first, second])
        assert check(page) == ["single", "update", "records"]
        text = page.read_text()
        assert text.startswith(f"# Before\n\n{BEGIN}\n")
        assert text.endswith(f"{END}\n\nAfter.\n")
        block = between(page)
        assert "old" not in block
        assert "| c | 7 /s | ≥ 1 ✓ | 0% |" in block
        assert "| c | 4 /s | ≥ 1 ✓ | 0% |" in block
        assert "`single`, `records`: one, 2 cores" in block
        assert "`records` ended early: not done." in block
        assert [path.read_bytes() for path in (tmp_path / "performance").iterdir()] == [b"second"]


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(BEGIN)
    with pytest.raises(RuntimeError, match="lacks the marks"):
        fill(page, [run(tmp_path / "run", figure("update", 7.0))])


def test_the_page_of_the_documentation_is_whole() -> None:
    check(PAGE)
