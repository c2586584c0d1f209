"""PublishMetadata, durable before the answer; and what becomes of heartbeats meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from functools import partial

from bench.figures import Figure, median, percentiles
from bench.generator import Load, generate
from bench.messages import P2P, Fleet
from bench.processes import bare
from bench.setting import Setting, asked, published, timed
from peerload.clock import SystemClock
from peerload.metadata.publications.manifests import pack
from peerload.metadata.publications.publication import Publication
from peerload.plugins import open_store
from peerload.store.base import Beat
from peerload.wire import p2p_pb2

__all__ = ["measure", "measure_heartbeats"]

_GOAL = 0.6
_WORKERS = {0: 2_000, 1_500: 64, 20_000: 16}
_IN_FLIGHT = 8
_PATH = f"{P2P}PublishMetadata"
_REPEATS = 20
_HEARTBEATS = 500
_MOST_MS = 50.0


def measure(setting: Setting) -> Iterator[Figure]:
    """Beside the sum of what it cannot do without: a bare handler of the same requests, one parse, one compression, and the
    store's bare write."""
    for store, front in setting.pairs():
        for tensors, workers in _WORKERS.items():
            fleet = Fleet(tensors)
            requests = [fleet.request(number) for number in range(workers)]
            load = Load([(_PATH, request) for request in requests], connections=4, streams=_IN_FLIGHT // 4)
            made = Publication.from_p2p(requests[0])
            parse = timed(partial(p2p_pb2.PublishMetadataRequest.FromString, requests[0]), _REPEATS, time.perf_counter)
            press = timed(partial(pack, made), _REPEATS, time.perf_counter)
            with setting.store(store) as url, setting.serving(store, front) as server:
                answer = asked(server.address, _PATH, requests[0])
                rates: list[float] = []
                bares: list[float] = []
                writes: list[float] = []
                times: list[float] = []
                cores = 0.0
                with bare(front, {_PATH: answer}) as handler:
                    for _ in range(setting.rounds):
                        for address, into in ((server.address, rates), (handler.address, bares)):
                            (told,) = generate(address, setting.seconds, load)
                            if told.failed or not told.rate:
                                raise RuntimeError(
                                    f"{told.failed} publications failed, {told.rate:.0f}/s were answered"
                                )
                            into.append(told.rate)
                            cores = max(cores, told.cores)
                            if into is rates:
                                times += told.all_times
                        writes.append(asyncio.run(_writes(url, requests[:64], setting.seconds)))
            bound = 1 / (1 / median(bares) + parse + press + 1 / median(writes))
            yield Figure(
                row="publish",
                case=f"{tensors:,} tensors",
                store=store,
                front=front,
                unit="/s",
                value=median(rates),
                bound=bound,
                bounded_by="bare + parse + compress + write",
                goal=_GOAL,
                rounds=tuple(rates),
                percentiles=percentiles(times),
                more={
                    "bare/s": median(bares),
                    "parse ms": parse * 1e3,
                    "compress ms": press * 1e3,
                    "writes/s": median(writes),
                    "cores of the load": cores,
                },
            )


async def _writes(url: str, requests: list[bytes], seconds: float) -> float:
    """Bare writes a second of the same values and blobs, as many at once."""
    store = open_store(url, SystemClock())
    await store.open()
    entries = itertools.cycle(
        [(made.key.encode(), made.record.to_value(), pack(made)) for made in map(Publication.from_p2p, requests)]
    )
    end, done = time.perf_counter() + seconds, 0

    async def write() -> None:
        nonlocal done
        while time.perf_counter() < end:
            key, value, blob = next(entries)
            await store.put(key, value, blob=blob, beat=Beat(store.now()))
            done += 1

    try:
        await asyncio.gather(*(write() for _ in range(_IN_FLIGHT)))
    finally:
        await store.close()
    return max(done, 1) / seconds


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
