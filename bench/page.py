"""The figures of runs, in docs/performance.md: `python -m bench.page FOLDER …`, or `make figures`.

What stands between the page's two marks is replaced by the tables of those runs, and the folder beside the page by their curves. Where a row
was measured by several runs, the last folder's counts. Nothing is measured, and the rest of the page stays.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.figures import Figure
from bench.report import picture, table, told_of
from bench.rows import ROWS

__all__ = ["BEGIN", "END", "PAGE", "fill", "main"]

PAGE: Final = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN: Final = "<!-- Figures of `make bench`, put here by `make figures`. -->"
END: Final = "<!-- The end of the figures. -->"


def fill(page: Path, folders: Sequence[Path]) -> None:
    """Put the figures of the runs into the page, and their pictures into the folder of its name. Raises `RuntimeError` for a page without marks."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise RuntimeError(f"{page} lacks the marks between which the figures stand")
    runs = [json.loads((folder / "figures.json").read_text()) for folder in folders]
    # By row, which run has it.
    taken = {each["row"]: run for run, told in enumerate(runs) for each in told["figures"]}
    rows = {row: _of(runs[taken[row]], row) for row in ROWS if row in taken}
    pictures = page.with_suffix("")
    if pictures.is_dir():
        shutil.rmtree(pictures)
    names = {picture(row, each.curve): taken[row] for row, figures in rows.items() for each in figures if each.curve}
    for name, run in names.items():
        pictures.mkdir(exist_ok=True)
        shutil.copy(folders[run] / name, pictures / name)
    parts = [_run(told, [row for row in rows if taken[row] == run]) for run, told in enumerate(runs)]
    parts += [table(figures, f"{pictures.name}/") for figures in rows.values()]
    page.write_text(f"{before}{begin}\n\n" + "\n".join(parts) + f"\n{end}{after}")


def _of(told: Mapping[str, Any], row: str) -> list[Figure]:
    return [Figure.of(each) for each in told["figures"] if each["row"] == row]


def _run(told: Mapping[str, Any], rows: Sequence[str]) -> str:
    ended = {row: why for row, why in told["ended"].items() if row in rows}
    return f"{', '.join(f'`{row}`' for row in rows)}: {told_of(told['machine'], ended)}\n"


def main() -> None:
    """Fill the page."""
    parser = argparse.ArgumentParser(prog="bench.page", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of a run, with its figures.json")
    fill(PAGE, parser.parse_args().folders)


if __name__ == "__main__":
    main()
