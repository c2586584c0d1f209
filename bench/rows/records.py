"""What many records cost: at the start, in memory, and for each heartbeat."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bench.figures import Figure
from bench.generator import Load, generate
from bench.processes import served
from bench.seeding import heartbeats
from bench.setting import Setting

__all__ = ["measure"]

_RATE = 2_000
_SECONDS = 4.0
_MOST_BYTES = 1024


def measure(setting: Setting) -> Iterator[Figure]:
    """At 1,000, 10,000 and all records, over sqlite and the last front; each beside an empty server's."""
    front = setting.fronts[-1]
    with setting.serving("sqlite", front) as empty:
        started, held = empty.started, empty.memory()
    for records in sorted({size for size in (1_000, 10_000) if size < setting.records} | {setting.records}):
        with setting.filled(records) as url, served(url, front) as server:
            figure = partial(Figure, row="records", store="sqlite", front=front, less=True, at=float(records))
            yield figure(
                case="more than an empty server's start",
                unit="s",
                curve="start",
                value=server.started - started,
            )
            yield figure(
                case="memory of a record",
                unit="bytes",
                curve="memory",
                value=(server.memory() - held) / records,
                goal=_MOST_BYTES if records == setting.records else None,
            )
            before = server.cpu()
            (told,) = generate(server.address, _SECONDS, Load(heartbeats(records), rate=_RATE))
            if told.failed:
                raise RuntimeError(f"{told.failed} heartbeats failed")
            yield figure(
                case=f"processor time of a heartbeat, {_RATE:,}/s",
                unit="µs",
                curve="heartbeat",
                value=(server.cpu() - before) / told.made * 1e6,
            )
