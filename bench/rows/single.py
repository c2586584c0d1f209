"""One worker's calls over and over, by h2load: how many the front, Python and the services let through."""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures import Figure, median
from bench.h2load import h2load
from bench.messages import P2P, Fleet
from bench.processes import bare
from bench.setting import Setting, asked, published

__all__ = ["measure"]

GOALS = {"grpc": 0.8, "h2corn": 0.75}
_SECONDS = 2.0
"""At least: h2load counts from its first connection on."""


def measure(setting: Setting) -> Iterator[Figure]:
    """UpdateStatus and GetMetadata of one small record, over the memory store."""
    fleet = Fleet(0)
    for front in setting.fronts:
        with setting.serving("memory", front) as server:
            source_id = published(server.address, fleet, range(1))
            calls = {
                f"{P2P}UpdateStatus": fleet.update(source_id, 0),
                f"{P2P}GetMetadata": fleet.get(source_id, 0),
            }
            answers = {path: asked(server.address, path, request) for path, request in calls.items()}
            with bare(front, answers) as handler:
                for path, request in calls.items():
                    told: dict[str, list[tuple[float, float]]] = {server.address: [], handler.address: []}
                    for _ in range(setting.rounds):
                        for address, into in told.items():
                            into.append(h2load(address, path, request, max(_SECONDS, setting.seconds)))
                    ours, theirs = ([rate for rate, _ in each] for each in told.values())
                    yield Figure(
                        row="single",
                        case=path.removeprefix(P2P),
                        store="memory",
                        front=front,
                        unit="/s",
                        value=median(ours),
                        bound=median(theirs),
                        bounded_by="bare handler",
                        goal=GOALS[front],
                        rounds=tuple(ours),
                        more={
                            "cores of the load": max(cores for each in told.values() for _, cores in each),
                        },
                    )
