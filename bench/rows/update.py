"""UpdateStatus, the refresh of workers that are all different."""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures import Figure
from bench.generator import Load
from bench.messages import P2P, Fleet
from bench.rows.single import GOALS
from bench.setting import Setting, published

__all__ = ["measure"]


def measure(setting: Setting) -> Iterator[Figure]:
    """Of 2,000 workers without tensors over each store; of 200 with 1,500 over the first."""
    shapes = [(store, front, 0, 2_000) for store, front in setting.pairs()]
    shapes += [(setting.stores[0], front, 1_500, 200) for front in setting.fronts]
    for store, front, tensors, workers in shapes:
        fleet = Fleet(tensors)
        with setting.serving(store, front) as server:
            source_id = published(server.address, fleet, range(workers))
            calls = [(f"{P2P}UpdateStatus", fleet.update(source_id, number)) for number in range(workers)]
            yield setting.beside_bare(
                server,
                front,
                [Load(calls, processes=setting.generators)],
                row="update",
                case=f"{workers:,} workers, {tensors:,} tensors",
                store=store,
                goal=GOALS[front],
            )
