"""GetMetadata: from the cache, and for the first time."""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures import Figure
from bench.generator import Load
from bench.messages import P2P, Fleet
from bench.setting import Setting, published

__all__ = ["measure"]

_HOT, _COLD = 0.8, 0.5
_CONNECTIONS = 4
_WORKERS = {0: 1_000, 1_500: 400, 20_000: 40}
"""How many are read for the first time in a round, by tensors."""
_HOT_WORKERS = 8


def measure(setting: Setting) -> Iterator[Figure]:
    """Of records without tensors, with 1,500 and with 20,000."""
    path = f"{P2P}GetMetadata"
    for store, front in setting.pairs():
        for tensors, workers in _WORKERS.items():
            fleet = Fleet(tensors)
            with setting.serving(store, front) as server:
                source_id = published(server.address, fleet, range(_HOT_WORKERS + workers * setting.rounds))
                # Who has not been read since it was published is in no cache.
                cold = [
                    Load(
                        [
                            (path, fleet.get(source_id, _HOT_WORKERS + workers * turn + number))
                            for number in range(workers)
                        ],
                        connections=_CONNECTIONS,
                        each=workers // _CONNECTIONS,
                    )
                    for turn in range(setting.rounds)
                ]
                hot = Load(
                    [(path, fleet.get(source_id, number)) for number in range(_HOT_WORKERS)],
                    connections=_CONNECTIONS,
                    streams=4,
                )
                for loads, words, goal in ((cold, "for the first time", _COLD), ([hot], "again", _HOT)):
                    yield setting.beside_bare(
                        server,
                        front,
                        loads,
                        row="manifest",
                        case=f"{tensors:,} tensors, {words}",
                        store=store,
                        goal=goal,
                    )
