"""Figures as tables in Markdown, as JSON, and as curves."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from bench.figures import Figure
from bench.rows import ROWS

__all__ = ["line", "machine", "picture", "table", "told_of", "write"]

_HEAD: Final = ("case", "store", "front", "measured", "bound", "of it", "goal", "p50 / p99 / worst ms", "±", "besides")


def shown(value: float) -> str:
    """A number in three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cells(figure: Figure) -> tuple[str, ...]:
    told = figure.percentiles
    goal = ""
    if figure.goal is not None:
        goal = f"{'≤' if figure.less and figure.fraction is None else '≥'} {shown(figure.goal)}"
        goal += " ✓" if figure.met else " ✗"
    return (
        figure.case,
        figure.store,
        figure.front,
        f"{shown(figure.value)} {figure.unit}",
        "" if figure.bound is None else f"{shown(figure.bound)} ({figure.bounded_by})",
        "" if figure.fraction is None else f"{figure.fraction:.2f}",
        goal,
        " / ".join(shown(told[name]) for name in ("50", "99", "100")) if told else "",
        f"{figure.spread / 2:.0%}" if len(figure.rounds) > 1 else "",
        ", ".join(f"{name} {shown(value)}" for name, value in figure.more.items()),
    )


def line(figure: Figure) -> str:
    """For whoever watches the run."""
    return " | ".join(cell for cell in (figure.row, *_cells(figure)) if cell)


def machine() -> dict[str, Any]:
    """What is measured on, and how busy it is now."""
    model = next(
        (
            row.partition(":")[2].strip()
            for row in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in row
        ),
        platform.machine(),
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "kernel": platform.release().partition("-")[0],
    }


def told_of(about: Mapping[str, Any], ended: Mapping[str, str]) -> str:
    """A run in words: where it was, and what it lacks."""
    words = f"{about['processor']}, {about['cores']} cores, load average {about['load average']} at the beginning, Python {about['python']}, Linux {about['kernel']}; {about['seconds']} s in all."  # fmt: skip
    return " ".join((words, *(f"`{name}` ended early: {why.splitlines()[0]}." for name, why in ended.items())))


def picture(row: str, curve: str) -> str:
    """The name of the picture of a curve."""
    return f"{row}-{curve.replace(' ', '-')}.png"


def table(figures: Sequence[Figure], pictures: str = "") -> str:
    """A row's heading, its figures without the columns in which nothing stands, and its curves, which lie in the folder `pictures`."""
    row = figures[0].row
    lines = [_HEAD, *map(_cells, figures)]
    kept = [at for at in range(len(_HEAD)) if any(cells[at] for cells in lines[1:])]
    lines = [tuple(cells[at] for at in kept) for cells in lines]
    lines.insert(1, ("---",) * len(kept))
    curves = sorted({figure.curve for figure in figures if figure.curve})
    return "\n".join(
        (
            f"### `{row}`: {ROWS[row].about}" if row in ROWS else f"### `{row}`",
            "",
            *(f"| {' | '.join(cells)} |" for cells in lines),
            *(f"\n![{row}: {curve}]({pictures}{picture(row, curve)})" for curve in curves),
            "",
        )
    )


def write(folder: Path, figures: Sequence[Figure], about: Mapping[str, Any], ended: Mapping[str, str]) -> None:
    """Write `figures.json`, `figures.md` and a PNG for each curve."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"machine": about, "ended": ended, "figures": [figure.told() for figure in figures]}
    (folder / "figures.json").write_text(json.dumps(told, indent=2) + "\n")
    tables = [table(list(of_row)) for _, of_row in groupby(figures, key=lambda each: each.row)]
    (folder / "figures.md").write_text("\n".join((told_of(about, ended) + "\n", *tables)))
    _draw(folder, figures)


def _draw(folder: Path, figures: Sequence[Figure]) -> None:
    curved = sorted((each for each in figures if each.curve), key=lambda each: (each.row, each.curve))
    if not curved:
        return
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        print("there is no matplotlib (make bench installs it): no curves are drawn")
        return
    for (row, curve), of_curve in groupby(curved, key=lambda each: (each.row, each.curve)):
        points = list(of_curve)
        canvas = Canvas(figsize=(6.4, 3.6), layout="constrained")
        axes = canvas.subplots()
        for name, mine in _lines(points).items():
            at = [each.at or 0.0 for each in mine]
            (drawn,) = axes.plot(at, [each.value for each in mine], marker="o", label=name)
            bounds = [each.bound for each in mine if each.bound is not None]
            if len(bounds) == len(mine):
                label = f"{name}: {mine[0].bounded_by}"
                axes.plot(at, bounds, linestyle="--", color=drawn.get_color(), label=label)
        axes.set(title=f"{row}: {curve}", xlabel=points[0].along, ylabel=points[0].unit, xscale="log")
        if max(each.value for each in points) > 50 * min(each.value for each in points) > 0:
            axes.set(yscale="log")
        else:
            axes.set(ylim=(0, 1.1 * max(axes.get_ylim())))
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small")
        canvas.savefig(folder / picture(row, curve), dpi=100)


def _lines(points: Sequence[Figure]) -> dict[str, list[Figure]]:
    """The lines of a curve by what they are called."""
    found: dict[str, list[Figure]] = {}
    for each in sorted(points, key=lambda each: each.at or 0.0):
        found.setdefault(", ".join(filter(None, (each.line or each.case, each.store, each.front))), []).append(each)
    return dict(sorted(found.items()))
