"""ListSources READY of one identity in a large directory."""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures import Figure, median
from bench.generator import Load, generate
from bench.messages import P2P, Fleet, list_request
from bench.processes import served
from bench.seeding import fleets
from bench.setting import Setting
from peerload.wire.identity import source_id

__all__ = ["measure"]

_GOAL = 0.7
_BEATS = 2_000
_SMALL = 3_000
"""Records in the directory beside which the large one is held."""


def _load(request: bytes) -> Load:
    return Load([(f"{P2P}ListSources", request)], connections=4, streams=2)


def measure(setting: Setting) -> Iterator[Figure]:
    """Of 64, 1,024 and 10,000 workers, alone and while heartbeats come in; with a limit, and of one rank."""
    large = {len(workers): fleet for fleet, workers in fleets(setting.records) if len(workers) in (64, 1_024, 10_000)}
    most = max(large)
    questions = {f"{size:,}": list_request(fleet.identity) for size, fleet in large.items()}
    questions[f"8 of {most:,} by limit"] = list_request(large[most].identity, limit=8)
    questions[f"one rank of {most:,}"] = list_request(large[most].identity, rank=3)
    beating = [
        (f"{P2P}UpdateStatus", large[most].update(source_id(large[most].identity), number)) for number in range(most)
    ]
    beats = Load(beating, connections=4, rate=_BEATS)
    for front in setting.fronts:
        with setting.filled(setting.records) as url, served(url, front) as server:
            for case, request in questions.items():
                size = next((float(size) for size in large if f"{size:,}" == case), None)
                # Filters are asked for alone: what heartbeats take away from a list they take from these.
                for beside, words in ((None, ""), (beats, f", {_BEATS:,} heartbeats/s"))[: 2 if size else 1]:
                    yield setting.beside_bare(
                        server,
                        front,
                        [_load(request)],
                        row="list",
                        case=f"{case} in {setting.records:,}{words}",
                        store="sqlite",
                        goal=_GOAL,
                        beside=beside,
                        curve="size of the answer" if size else "",
                        at=size,
                        along="workers listed",
                        line=f"lists{words}",
                    )
            yield _depends(setting, server.address, front, large[64])


def _depends(setting: Setting, address: str, front: str, fleet: Fleet) -> Figure:
    """Whether a list takes longer for what else there is."""
    load = _load(list_request(fleet.identity))
    large, small = [], []
    with setting.filled(_SMALL) as url, served(url, front) as other:
        for _ in range(setting.rounds):
            large.append(generate(address, setting.seconds, load)[0].rate)
            small.append(generate(other.address, setting.seconds, load)[0].rate)
    return Figure(
        row="list",
        case=f"64 in {setting.records:,}, against the same in {_SMALL:,}",
        store="sqlite",
        front=front,
        unit="/s",
        value=median(large),
        bound=median(small),
        bounded_by="small directory",
        goal=0.9,
        rounds=tuple(large),
    )
