"""PublishMetadata, durable before the answer; and what becomes of heartbeats meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures import Figure, median, percentiles
from bench.generator import Load, generate
from bench.messages import P2P, Fleet
from bench.setting import Setting, published

__all__ = ["measure", "measure_heartbeats"]

_GOAL = 0.6
_WORKERS = {0: 2_000, 1_500: 64, 20_000: 16}
_IN_FLIGHT = 8
_PATH = f"{P2P}PublishMetadata"
_HEARTBEATS = 500
_MOST_MS = 50.0


def measure(setting: Setting) -> Iterator[Figure]:
    """Beside a bare handler that does what it cannot do without: one parse, one compression, one write."""
    for store, front in setting.pairs():
        for tensors, workers in _WORKERS.items():
            fleet = Fleet(tensors)
            requests = [fleet.request(number) for number in range(workers)]
            load = Load([(_PATH, request) for request in requests], connections=4, streams=_IN_FLIGHT // 4)
            with setting.serving(store, front) as server, setting.store(store) as url:
                yield setting.beside_bare(
                    server,
                    front,
                    [load],
                    row="publish",
                    case=f"{tensors:,} tensors",
                    store=store,
                    goal=_GOAL,
                    keeping=url,
                )


def measure_heartbeats(setting: Setting) -> Iterator[Figure]:
    """How long a refresh takes while large publications come in as fast as they are taken."""
    small, large = Fleet(0, model="org/small"), Fleet(20_000)
    storm = Load([(_PATH, large.request(number)) for number in range(16)], connections=4, streams=1)
    for store, front in setting.pairs():
        with setting.serving(store, front) as server:
            source_id = published(server.address, small, range(_HEARTBEATS))
            calls = [(f"{P2P}UpdateStatus", small.update(source_id, number)) for number in range(_HEARTBEATS)]
            beats = Load(calls, connections=8, rate=_HEARTBEATS)
            worst: list[float] = []
            times: list[float] = []
            for _ in range(setting.rounds):
                told, publishing = generate(server.address, setting.seconds * 2, beats, storm)
                if told.failed or publishing.failed:
                    raise RuntimeError(f"{told.failed} heartbeats, {publishing.failed} publications failed")
                worst.append(percentiles(told.all_times)["99"])
                times += told.all_times
            yield Figure(
                row="storm",
                case=f"p99 of UpdateStatus, {_HEARTBEATS}/s, while 20,000 tensors are published",
                store=store,
                front=front,
                unit="ms",
                less=True,
                value=median(worst),
                goal=_MOST_MS,
                rounds=tuple(worst),
                percentiles=percentiles(times),
                more={"publications/s": publishing.rate},
            )
