"""Several processes on one port, beside one."""

from __future__ import annotations

import os
from collections.abc import Iterator

from bench.figures import Figure, median
from bench.generator import Load, generate
from bench.messages import P2P, Fleet
from bench.setting import Setting, published

__all__ = ["measure"]

_WORKERS = 2_000


def measure(setting: Setting) -> Iterator[Figure]:
    """UpdateStatus of 2,000 workers on 64 connections. The load needs cores too: on few, expect little."""
    fleet = Fleet(0)
    most = max(2, (os.cpu_count() or 2) // 2)
    for front in setting.fronts:
        rates: dict[int, list[float]] = {}
        for processes in (1, most):
            with setting.serving("sqlite", front, "--processes", str(processes)) as server:
                source_id = published(server.address, fleet, range(_WORKERS))
                calls = [(f"{P2P}UpdateStatus", fleet.update(source_id, number)) for number in range(_WORKERS)]
                load = Load(calls, connections=64, streams=2, processes=max(2, setting.generators))
                told = [generate(server.address, setting.seconds, load)[0] for _ in range(setting.rounds)]
            if failed := sum(each.failed for each in told):
                raise RuntimeError(f"{failed} calls failed")
            rates[processes] = [each.rate for each in told]
        yield Figure(
            row="several",
            case=f"UpdateStatus, {most} processes",
            store="sqlite",
            front=front,
            unit="/s",
            value=median(rates[most]),
            bound=median(rates[1]),
            bounded_by="one process",
            rounds=tuple(rates[most]),
        )
