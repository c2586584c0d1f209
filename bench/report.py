"""Figures as a table in Markdown, as JSON, and as curves."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.figures import Figure

__all__ = ["line", "write"]

_HEAD = ("row", "case", "store", "front", "measured", "bound", "of it", "goal", "p50 / p99 / worst ms", "±", "besides")


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
        figure.row,
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
    return " | ".join(cell for cell in _cells(figure) if cell)


def machine() -> dict[str, Any]:
    """What it was measured on."""
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
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def write(folder: Path, figures: Sequence[Figure], seconds: float) -> None:
    """Write `figures.json`, `figures.md` and a PNG for each curve."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {**machine(), "seconds": seconds}
    told = {"machine": about, "figures": [figure.told() for figure in figures]}
    (folder / "figures.json").write_text(json.dumps(told, indent=2) + "\n")
    rows = [_HEAD, ("---",) * len(_HEAD), *map(_cells, figures)]
    head = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in about.items() if name != "seconds")
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    (folder / "figures.md").write_text(f"{head}; {seconds:.0f} s in all\n\n{table}\n")
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
        canvas = Canvas(figsize=(6.4, 4.0), layout="constrained")
        axes = canvas.subplots()
        cases = sorted({(each.case, each.store, each.front) for each in points})
        for case in cases:
            mine = sorted(
                (each.at or 0.0, each.value) for each in points if (each.case, each.store, each.front) == case
            )
            label = ", ".join(filter(None, case))
            axes.plot([at for at, _ in mine], [value for _, value in mine], marker="o", label=label)
        axes.set(title=f"{row}: {curve}", xlabel="records", ylabel=points[0].unit, xscale="log", ylim=(0, None))
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small")
        canvas.savefig(folder / f"{row}-{curve.replace(' ', '-')}.png", dpi=120)
