"""The established server of this protocol and ours, the same calls by turns, each over a Redis of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from bench.figures import Figure, median
from bench.generator import Load, generate
from bench.messages import P2P, Fleet, list_request
from bench.processes import Process, established, redis, served
from bench.rows.redis import used_memory
from bench.rows.restart import SOURCES, starting
from bench.setting import Setting, published

__all__ = ["measure"]

_CALLED = "established server"
_AHEAD = 1.0
_SIZES = {0: (2_000, 1_024, 512), 1_500: (128, 64, 64), 20_000: (16, 0, 0)}
"""By tensors: how many workers are published, how many are listed, and how many start at once. The established server takes seconds to
list more."""


def measure(setting: Setting) -> Iterator[Figure]:
    """Every call of a start, of records without tensors, with 1,500 and with 20,000; and starts of many at once."""
    front = setting.fronts[-1]
    for tensors, (workers, listed, start) in _SIZES.items():
        fleet, few = Fleet(tensors), Fleet(tensors, model="org/few")
        with redis() as theirs, redis() as ours, established(theirs) as other, served(ours, front) as server:
            taken = []
            for process, url in ((server, ours), (other, theirs)):
                before = _memory(url)
                source_id = published(process.address, fleet, range(workers))
                taken.append((_memory(url) - before) / workers)
                if listed:
                    published(process.address, few, range(listed))
            yield Figure(
                row="established", case=f"Redis memory of a worker, {tensors:,} tensors", store="redis", front=front, unit="bytes",
                less=True, value=taken[0], bound=taken[1], bounded_by=_CALLED, goal=_AHEAD,
            )  # fmt: skip
            for case, load in _loads(fleet, few, source_id, workers, listed):
                yield setting.beside(
                    other,
                    _CALLED,
                    server,
                    front,
                    [load],
                    row="established",
                    case=f"{case}, {tensors:,} tensors",
                    store="redis",
                    goal=_AHEAD,
                )
            if start:
                yield _starts(setting, server, other, Fleet(tensors, model="org/starting"), start)


def _memory(url: str) -> int:
    return asyncio.run(used_memory(int(url.rpartition(":")[2])))


def _starts(setting: Setting, server: Process, other: Process, fleet: Fleet, workers: int) -> Figure:
    """How long it takes until all of them are there. Each round starts others, so the fleet grows."""
    ours: list[float] = []
    theirs: list[float] = []
    failed = 0
    for process in (server, other):
        source_id = published(process.address, fleet, range(SOURCES))
    for number in range(setting.rounds):
        load = starting(fleet, source_id, SOURCES + number * workers, workers, setting.generators)
        for process, seconds in ((server, ours), (other, theirs)):
            (told,) = generate(process.address, 0, load)
            seconds.append(told.seconds)
            failed += told.failed
    if failed:
        raise RuntimeError(f"{failed} calls failed")
    return Figure(
        row="established",
        case=f"{workers:,} workers start at once beside {SOURCES}, {fleet.tensors:,} tensors",
        store="redis",
        front=setting.fronts[-1],
        unit="s",
        less=True,
        value=median(ours),
        bound=median(theirs),
        bounded_by=_CALLED,
        goal=_AHEAD,
        rounds=tuple(ours),
    )


def _loads(fleet: Fleet, few: Fleet, source_id: str, workers: int, listed: int) -> Iterator[tuple[str, Load]]:
    numbers = range(workers)
    update = [(f"{P2P}UpdateStatus", fleet.update(source_id, number)) for number in numbers]
    yield f"UpdateStatus of {workers:,} workers", Load(update)
    get = [(f"{P2P}GetMetadata", fleet.get(source_id, number)) for number in numbers[:64]]
    yield "GetMetadata", Load(get, connections=4, streams=4)
    if listed:
        ready = [(f"{P2P}ListSources", list_request(few.identity))]
        yield f"ListSources of {listed:,}", Load(ready, connections=2, streams=1)
    publish = [(f"{P2P}PublishMetadata", fleet.request(number)) for number in numbers]
    yield "PublishMetadata", Load(publish, connections=4, streams=2)
