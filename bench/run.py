"""The runner: which rows, how long, and where the results go."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench import h2load
from bench.figures import Figure
from bench.report import line, write
from bench.rows import ROWS
from bench.setting import Setting
from peerload.errors import PeerloadError

__all__ = ["main"]


def main() -> None:
    """Measure the rows that are named, or all that a plain run has."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one of {', '.join(ROWS)}; default: those without a *")
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
    options = parser.parse_args()
    if options.list:
        for name, row in ROWS.items():
            print(f"{name:12}{'' if row.plain else '* '}{row.about}")
        return
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(ROWS)}")
    stores = tuple(
        store for store in options.stores.split(",") if store != "redis" or shutil.which("redis-server") is not None
    )
    begun = time.monotonic()
    figures: list[Figure] = []
    failed: list[str] = []
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores", flush=True)
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
        for name in options.rows or [name for name, row in ROWS.items() if row.plain]:
            row = ROWS[name]
            if row.needs_h2load and not h2load.is_there():
                print(f"{name}: there is no h2load (Debian: apt-get install nghttp2-client)")
                continue
            print(f"==> {name}: {row.about}", flush=True)
            started = time.monotonic()
            try:
                for figure in row.measure(setting):
                    figures.append(figure)
                    print(f"    {line(figure)}", flush=True)
            except (RuntimeError, PeerloadError, OSError, EOFError) as error:
                failed.append(name)
                print(f"    this row ends here: {error}", flush=True)
            print(f"    ({time.monotonic() - started:.0f} s)", flush=True)
    write(options.out, figures, time.monotonic() - begun)
    missed = [figure for figure in figures if figure.met is False]
    print(f"{len(figures)} figures in {options.out}/figures.md; {len(missed)} goals missed")
    if failed:
        sys.exit(f"not measured to their end: {', '.join(failed)}")
