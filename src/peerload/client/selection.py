"""Which source to try first.

What has failed comes last: here, or elsewhere as the server was told. Then nearest first (same host, then the widest shared
path through the topology), then the least loaded, then by chance. Load is compared in steps: it is as old as the last
heartbeat, and a fleet that starts together must not all run to the one source that reported a hundredth less.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from peerload.client.sources import SourceInfo
from peerload.metadata.records import SourceKey

__all__ = ["TOPOLOGY_KEYS", "distance", "order"]

TOPOLOGY_KEYS: Final = ("region", "zone", "datacenter", "block", "rack", "host", "numa")
"""Keys that say where a worker is, broad to narrow."""

_LOAD_STEPS: Final = 4
_UNKNOWN_LOAD: Final = 0.5


def distance(mine: Mapping[str, str], theirs: Mapping[str, str]) -> int:
    """How far apart two workers are: 0 on one host and NUMA node, up to `len(TOPOLOGY_KEYS) + 1` where nothing is known
    to be shared.

    The path is compared from its broad end over the keys that both give, and ends at the first that differs. Hosts are
    told apart by name, so one host is one host whatever else is said or left out.
    """
    same_host = bool(mine.get("host")) and mine.get("host") == theirs.get("host")
    if same_host:
        numa = mine.get("numa"), theirs.get("numa")
        return 0 if numa[0] == numa[1] or None in numa else 1
    shared = -1
    for position, key in enumerate(TOPOLOGY_KEYS):
        here, there = mine.get(key), theirs.get(key)
        if not here or not there:
            continue
        if here != there:
            break
        shared = position
    return len(TOPOLOGY_KEYS) - shared


def order(
    sources: Iterable[SourceInfo],
    *,
    topology: Mapping[str, str],
    rng: random.Random,
    failures: Mapping[SourceKey, int] | None = None,
) -> Sequence[SourceInfo]:
    """The sources, best first. Those with failures (a count by `SourceInfo.key`) come after all that have fewer, and those
    that are suspect after all others with as many."""
    counts = failures or {}

    def rank(source: SourceInfo) -> tuple[int, bool, int, int, float]:
        load = _UNKNOWN_LOAD if source.load is None else min(1.0, max(0.0, source.load))
        return (
            counts.get(source.key, 0),
            source.suspect,
            distance(topology, source.topology),
            min(_LOAD_STEPS - 1, int(load * _LOAD_STEPS)),
            rng.random(),
        )

    return sorted(sources, key=rank)
