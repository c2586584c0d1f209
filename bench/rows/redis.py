"""The Redis store: memory of a worker, start with many entries, a heartbeat batch, and the feed's delay under load."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from bench.figures import Figure, percentiles
from bench.messages import Fleet
from bench.processes import redis
from bench.setting import Setting
from peerload.clock import SystemClock
from peerload.errors import Unavailable
from peerload.metadata.backend import MetadataBackend
from peerload.metadata.publications.publication import Publication
from peerload.store.base import Beat, Beaten, Touch
from peerload.store.redis.link import connect
from peerload.store.redis.place import Address, Credentials
from peerload.store.redis.store import RedisStore

__all__ = ["measure", "used_memory"]

_WORKERS: Final = {1_500: 1_000, 20_000: 100}
"""By tensors."""
_BATCH: Final = 1_000
_BEATS_A_SECOND: Final = 2_000
_BATCHES_A_SECOND: Final = 20
_WRITERS: Final = {1_500: 16, 20_000: 4}
"""How many at once, by tensors: they parse in this process, which must get to Redis' answers in between."""
_FILLERS: Final = 64
_ATTEMPTS: Final = 20
_PAUSE_SECONDS: Final = 0.1
_START_SECONDS: Final = 20.0
_T = TypeVar("_T")


async def used_memory(port: int) -> int:
    """What Redis holds, in bytes, once what it frees in the background is freed."""
    link = await connect(Address("127.0.0.1", port), Credentials())
    try:
        (info,) = await link.ask(("INFO", "memory"))
    finally:
        link.close()
    fields = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return int(fields["used_memory"])


async def opened(url: str) -> RedisStore:
    """An open store, as soon as Redis is there."""
    store = RedisStore(url, SystemClock())
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            await store.open()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        else:
            return store


async def _patiently(call: Callable[[], Awaitable[_T]]) -> _T:
    """Ask again where a machine that is busy enough lets Redis answer too late; what that takes is part of the figure."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return await call()
        except Unavailable:
            await asyncio.sleep(_PAUSE_SECONDS)
    return await call()


async def _memory(port: int, tensors: int) -> list[Figure]:
    """Redis memory for the publication of a worker, the feed's share included."""
    fleet, workers = Fleet(tensors), _WORKERS[tensors]
    url = f"redis://127.0.0.1:{port}?namespace=memory-{tensors}"
    await (await opened(url)).close()
    before = await used_memory(port)
    async with MetadataBackend(RedisStore(url, SystemClock()), SystemClock()) as backend:
        numbers = iter(range(workers))

        async def publish() -> None:
            for number in numbers:
                made = await asyncio.to_thread(Publication.from_p2p, fleet.request(number))
                await _patiently(partial(backend.publish, made))

        begun = time.monotonic()
        await asyncio.gather(*(publish() for _ in range(_WRITERS[tensors])))
        seconds = time.monotonic() - begun
    after = await used_memory(port)
    return [
        _figure(f"memory of a worker, {tensors:,} tensors", "KB", (after - before) / workers / 1_000),
        _figure(f"publications, {tensors:,} tensors", "/s", workers / seconds, less=False),
    ]


async def _start(port: int, entries: int) -> list[Figure]:
    """How long a list of many entries takes, which is what a server does when it starts."""
    store = await opened(f"redis://127.0.0.1:{port}?namespace=start")
    value = {f"member{n}": "x" * 30 for n in range(12)}
    numbers = iter(range(entries))

    async def fill() -> None:
        for number in numbers:
            await _patiently(partial(store.put, f"source/{number % 97:04}/{number:08}", value, beat=Beat(number)))

    await asyncio.gather(*(fill() for _ in range(_FILLERS)))
    await store.close()
    begun = time.monotonic()
    store = await opened(f"redis://127.0.0.1:{port}?namespace=start")
    listing = await _patiently(store.list)
    seconds = time.monotonic() - begun
    await store.close()
    return [_figure(f"open and list {len(listing.entries):,} entries", "s", seconds)]


async def _beats(port: int, seconds: float) -> list[Figure]:
    """One batch of heartbeats, and how late a second server hears of them."""
    url = f"redis://127.0.0.1:{port}?namespace=beats"
    writer, reader = await opened(url), await opened(url)
    written = [await _patiently(partial(writer.put, f"source/{n:05}", {"n": n})) for n in range(_BATCH)]
    stamp = 0
    took = []
    for _ in range(50):
        stamp += 1
        touches = [Touch(f"source/{n:05}", each.generation, Beat(stamp)) for n, each in enumerate(written)]
        begun = time.perf_counter()
        await _patiently(partial(writer.touch, touches))
        took.append(time.perf_counter() - begun)

    sent: dict[int, float] = {}
    delays: list[float] = []

    async def hear() -> None:
        async with contextlib.aclosing(reader.watch((await reader.list()).position)) as feeds:
            async for feed in feeds:
                now = time.perf_counter()
                heard = {change.beat.stamp for change in feed.changes if isinstance(change, Beaten)}
                delays.extend(now - sent[each] for each in heard if each in sent)

    hearing = asyncio.create_task(hear())
    many = _BEATS_A_SECOND // _BATCHES_A_SECOND
    begun = time.perf_counter()
    for turn in range(round(seconds * _BATCHES_A_SECOND)):
        stamp += 1
        first = turn * many % _BATCH
        sent[stamp] = time.perf_counter()
        touches = [Touch(f"source/{n:05}", written[n].generation, Beat(stamp)) for n in range(first, first + many)]
        await _patiently(partial(writer.touch, touches))
        await asyncio.sleep(max(0.0, begun + (turn + 1) / _BATCHES_A_SECOND - time.perf_counter()))
    await asyncio.sleep(0.5)
    hearing.cancel()
    await asyncio.wait([hearing])
    told = percentiles(delays)
    case = f"delay of the feed at {_BEATS_A_SECOND:,} heartbeats/s, p99"
    await writer.close()
    await reader.close()
    return [
        _figure(f"a batch of {_BATCH:,} heartbeats", "ms", sorted(took)[len(took) // 2] * 1_000),
        replace(_figure(case, "ms", told["99"]), percentiles=told),
    ]


def _figure(case: str, unit: str, value: float, *, less: bool = True) -> Figure:
    return Figure(row="redis", case=case, store="redis", unit=unit, value=value, less=less)


def measure(setting: Setting) -> Iterator[Figure]:
    """Everything, each part on its own namespace."""
    if shutil.which("redis-server") is None:
        raise RuntimeError("there is no redis-server")
    with redis() as url:
        port = int(url.rpartition(":")[2])
        for tensors in _WORKERS:
            yield from asyncio.run(_memory(port, tensors))
        yield from asyncio.run(_start(port, setting.records))
        yield from asyncio.run(_beats(port, setting.seconds * 4))
