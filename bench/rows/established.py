"""The established server of this protocol and ours, the same calls by turns, each over a Redis of its own."""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures import Figure
from bench.generator import Load
from bench.messages import P2P, Fleet, list_request
from bench.processes import established, redis
from bench.setting import Setting, published

__all__ = ["measure"]

_CALLED = "established server"
_AHEAD = 1.0
_SIZES = {0: (2_000, 1_024), 1_500: (128, 64), 20_000: (16, 0)}
"""By tensors: how many workers are published, and how many are listed; the established server takes seconds to list more."""


def measure(setting: Setting) -> Iterator[Figure]:
    """Every call of a start, of records without tensors, with 1,500 and with 20,000."""
    for tensors, (workers, listed) in _SIZES.items():
        fleet, few = Fleet(tensors), Fleet(tensors, model="org/few")
        with redis() as theirs, established(theirs) as other, setting.serving("redis", setting.fronts[-1]) as server:
            for process in (server, other):
                source_id = published(process.address, fleet, range(workers))
                if listed:
                    published(process.address, few, range(listed))
            for case, load in _loads(fleet, few, source_id, workers, listed):
                yield setting.beside(
                    other,
                    _CALLED,
                    server,
                    setting.fronts[-1],
                    [load],
                    row="established",
                    case=f"{case}, {tensors:,} tensors",
                    store="redis",
                    goal=_AHEAD,
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
