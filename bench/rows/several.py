"""Several processes on one port, beside one."""

from __future__ import annotations

import os
from collections.abc import Iterator

from bench.figures import Figure, median
from bench.generator import Load, generate
from bench.processes import served
from bench.seeding import heartbeats
from bench.setting import Setting

__all__ = ["measure"]

_RECORDS = 3_000


def measure(setting: Setting) -> Iterator[Figure]:
    """UpdateStatus of 3,000 workers on 64 connections. The load needs cores too: on few, expect little."""
    load = Load(heartbeats(_RECORDS), connections=64, streams=2, processes=max(2, setting.generators))
    most = max(2, (os.cpu_count() or 2) // 2)
    for front in setting.fronts:
        rates: dict[int, list[float]] = {}
        cores = 0.0
        for processes in (1, most):
            with setting.filled(_RECORDS) as url, served(url, front, "--processes", str(processes)) as server:
                told = [generate(server.address, setting.seconds, load)[0] for _ in range(setting.rounds)]
            if failed := sum(each.failed for each in told):
                raise RuntimeError(f"{failed} calls failed")
            rates[processes] = [each.rate for each in told]
            cores = max(cores, *(each.cores for each in told))
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
            more={"cores of the load": cores},
        )
