"""The fleet's worst minute: 2,000 workers that all start at once."""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures import Figure, percentiles
from bench.generator import Load, generate
from bench.messages import P2P, Fleet, list_request
from bench.setting import Setting, published

__all__ = ["SOURCES", "measure", "starting"]

_WORKERS = 2_000
SOURCES = 64
"""Workers that have the weights already, of each fleet."""


def starting(fleet: Fleet, source_id: str, first: int, workers: int, processes: int) -> Load:
    """So many workers from number `first` on, all at once: each lists, reads the manifest of one of the 64 before it, publishes and
    heartbeats, over a connection of its own."""
    calls = []
    for worker in range(first, first + workers):
        calls += [
            (f"{P2P}ListSources", list_request(fleet.identity)),
            (f"{P2P}GetMetadata", fleet.get(source_id, worker % SOURCES)),
            (f"{P2P}PublishMetadata", fleet.request(worker)),
            (f"{P2P}UpdateStatus", fleet.update(source_id, worker)),
        ]
    return Load(calls, connections=workers, each=4, processes=max(2, processes))


def measure(setting: Setting) -> Iterator[Figure]:
    """Each lists, reads a manifest, publishes and heartbeats, over a connection of its own."""
    for store, front in setting.pairs():
        for tensors in (0, 1_500):
            fleet = Fleet(tensors)
            with setting.serving(store, front) as server:
                source_id = published(server.address, fleet, range(SOURCES))
                before = server.memory()
                (told,) = generate(server.address, 0, starting(fleet, source_id, SOURCES, _WORKERS, setting.generators))
                grown = (server.memory() - before) / 1e6
            case = f"{_WORKERS:,} workers, {tensors:,} tensors"
            yield Figure(
                row="restart", case=f"{case}: errors", store=store, front=front, unit="calls", less=True,
                value=told.failed, goal=0, more={"seconds in all": told.seconds, "MB grown": grown, "cores of the load": told.cores},
            )  # fmt: skip
            for path, times in told.times.items():
                spread = percentiles(times)
                yield Figure(
                    row="restart", case=f"{case}: p99 of {path.removeprefix(P2P)}", store=store, front=front, unit="ms",
                    less=True, value=spread.get("99", 0.0), percentiles=spread,
                )  # fmt: skip
