"""The runner: which rows, how long, and where the results go."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import grpc

from bench.figures import Figure
from bench.limit import Overdue, limited
from bench.report import line, machine, write
from bench.rows import MADE_BY, ROWS, Row
from bench.setting import Setting
from peerload.errors import PeerloadError

__all__ = ["main"]

_ENDS_A_ROW: Final = (RuntimeError, PeerloadError, OSError, EOFError, AssertionError, grpc.RpcError, subprocess.SubprocessError, Overdue)  # fmt: skip
"""What a row may end with before its end, and the others be measured all the same. Clusters of the tests say what went wrong with
assertions."""
_SETS: Final[dict[str, Callable[[Row], bool]]] = {
    "plain": lambda row: row.plain,
    "starred": lambda row: not row.plain,
    "all": lambda row: True,
}
"""Rows by what they are together."""


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    words = ", ".join((*ROWS, *_SETS))
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {words}; default: plain, those without a *")
    parser.add_argument("--list", action="store_true", help="say what rows there are, and end")
    parser.add_argument("--seconds", type=float, default=0.8, help="of load in each round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each figure (default: %(default)s)")
    parser.add_argument("--stores", default="memory,sqlite,redis", help="default: %(default)s")
    parser.add_argument("--fronts", default="grpc,h2corn", help="default: %(default)s")
    parser.add_argument("--records", type=int, default=100_000, help="in the largest directory (default: %(default)s)")
    parser.add_argument("--mib", type=int, default=512, help="to move in each read (default: %(default)s)")
    parser.add_argument("--generators", type=int, default=1, help="processes that make load (default: %(default)s)")
    parser.add_argument("--cross", action="store_true", help="measure every store with every front")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    if unknown := set(options.rows) - set(ROWS) - set(_SETS):
        parser.error(f"{', '.join(sorted(unknown))}: there are {words}")
    return options


def _named(words: Sequence[str]) -> list[str]:
    """Rows in their order, each once."""
    sets = [_SETS[word] for word in words or ["plain"] if word in _SETS]
    return [name for name, row in ROWS.items() if name in words or any(one(row) for one in sets)]


def _measure(name: str, row: Row, setting: Setting, figures: list[Figure]) -> str:
    """Add a row's figures as they come; why it ended before its end, or nothing."""
    limit = row.seconds * setting.longer
    print(f"==> {name}: {row.about} (at most {limit:.0f} s)", flush=True)
    started, why = time.monotonic(), ""
    try:
        with limited(limit):
            for figure in row.measure(setting):
                figures.append(figure)
                print(f"    {line(figure)}", flush=True)
    except _ENDS_A_ROW as error:
        why = f"{error}" or type(error).__name__
        print(f"    this row ends here: {why}", flush=True)
    print(f"    ({time.monotonic() - started:.0f} s)", flush=True)
    return why


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the rows that are named. What was measured is written however it ends."""
    options = _options(arguments)
    if options.list:
        for name, row in ROWS.items():
            print(f"{name:12}{'' if row.plain else '* '}{row.about} (at most {row.seconds:.0f} s)")
        return
    stores = tuple(
        store for store in options.stores.split(",") if store != "redis" or shutil.which("redis-server") is not None
    )
    begun = time.monotonic()
    figures: list[Figure] = []
    ended: dict[str, str] = {}
    about = machine()
    print(f"load average {about['load average']} on {about['cores']} cores", flush=True)
    with tempfile.TemporaryDirectory(prefix="peerload-bench-") as folder:
        setting = Setting(
            seconds=options.seconds,
            rounds=options.rounds,
            stores=stores,
            fronts=tuple(options.fronts.split(",")),
            records=options.records,
            mib=options.mib,
            generators=options.generators,
            cross=options.cross,
            folder=Path(folder),
        )
        try:
            for name in _named(options.rows):
                row = ROWS[name]
                if why := f"there is no {row.needs}" if row.needs and shutil.which(row.needs) is None else "":
                    print(f"{name}: {why} ({MADE_BY[row.needs]})")
                else:
                    why = _measure(name, row, setting, figures)
                if why:
                    ended[name] = why
        finally:
            write(options.out, figures, {**about, "seconds": round(time.monotonic() - begun)}, ended)
    missed = [figure for figure in figures if figure.met is False]
    print(f"{len(figures)} figures in {options.out}/figures.md; {len(missed)} goals missed")
    if ended:
        sys.exit(f"not measured to their end: {', '.join(ended)}")
