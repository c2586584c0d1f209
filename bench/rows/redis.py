"""The Redis store: memory a worker, start with 100,000 entries, a heartbeat batch, and the feed's delay under load.

`python bench/shared_store.py [--entries N] [--seconds S]` starts a redis-server of its own on a loopback port, without
persistence, and prints what it measured. Everything shares the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any, Final

from bench.messages import Fleet
from peerload.clock import SystemClock
from peerload.errors import Unavailable
from peerload.metadata.backend import MetadataBackend
from peerload.metadata.publication import Publication
from peerload.store.base import Beat, Beaten, Touch
from peerload.store.redis.link import connect
from peerload.store.redis.place import Address, Credentials
from peerload.store.redis.store import RedisStore

_WORKERS: Final = 1_000
_BATCH: Final = 1_000
_BEATS_A_SECOND: Final = 2_000
_BATCHES_A_SECOND: Final = 20
_WRITERS: Final = 16
_START_SECONDS: Final = 20.0


@contextlib.contextmanager
def redis() -> Iterator[int]:
    """A running redis-server; its port."""
    with socket.socket() as probe, tempfile.TemporaryDirectory(prefix="peerload-redis-") as folder:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        probe.close()
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield port
        finally:
            process.terminate()
            process.wait(10)


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


async def memory(port: int, tensors: int) -> None:
    """Redis memory for the publication of a worker, the feed's share included."""
    fleet = Fleet(tensors)
    url = f"redis://127.0.0.1:{port}?namespace=memory-{tensors}"
    await (await opened(url)).close()
    before = await used_memory(port)
    async with MetadataBackend(RedisStore(url, SystemClock()), SystemClock()) as backend:
        numbers = iter(range(_WORKERS))

        async def publish() -> None:
            for number in numbers:
                await backend.publish(Publication.from_p2p(fleet.request(number)))

        begun = time.monotonic()
        await asyncio.gather(*(publish() for _ in range(_WRITERS)))
        seconds = time.monotonic() - begun
    after = await used_memory(port)
    say(f"Redis memory a worker, {tensors:,} tensors (KB)", (after - before) / _WORKERS / 1_000)
    say(f"publications a second, {tensors:,} tensors", _WORKERS / seconds)


async def start(port: int, entries: int) -> None:
    """How long a list of many entries takes, which is what a server does when it starts."""
    store = await opened(f"redis://127.0.0.1:{port}?namespace=start")
    value = {f"member{n}": "x" * 30 for n in range(12)}
    numbers = iter(range(entries))

    async def fill() -> None:
        for number in numbers:
            await store.put(f"source/{number % 97:04}/{number:08}", value, beat=Beat(number))

    await asyncio.gather(*(fill() for _ in range(_WRITERS)))
    await store.close()
    begun = time.monotonic()
    store = await opened(f"redis://127.0.0.1:{port}?namespace=start")
    listing = await store.list()
    say(f"open and list {len(listing.entries):,} entries (s)", time.monotonic() - begun)
    await store.close()


async def beats(port: int, seconds: float) -> None:
    """One batch of heartbeats, and how late a second server hears of them."""
    url = f"redis://127.0.0.1:{port}?namespace=beats"
    writer, reader = await opened(url), await opened(url)
    written = [await writer.put(f"source/{n:05}", {"n": n}) for n in range(_BATCH)]
    stamp = 0
    took = []
    for _ in range(50):
        stamp += 1
        touches = [Touch(f"source/{n:05}", each.generation, Beat(stamp)) for n, each in enumerate(written)]
        begun = time.perf_counter()
        await writer.touch(touches)
        took.append(time.perf_counter() - begun)
    say(f"a batch of {_BATCH:,} heartbeats (ms, median)", sorted(took)[len(took) // 2] * 1_000)

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
        await writer.touch(
            [Touch(f"source/{n:05}", written[n].generation, Beat(stamp)) for n in range(first, first + many)]
        )
        await asyncio.sleep(max(0.0, begun + (turn + 1) / _BATCHES_A_SECOND - time.perf_counter()))
    await asyncio.sleep(0.5)
    hearing.cancel()
    await asyncio.wait([hearing])
    delays.sort()
    for name, share in (("median", 0.5), ("p99", 0.99)):
        delay = delays[min(len(delays) - 1, math.ceil(share * len(delays)) - 1)]
        say(f"delay of the feed at {_BEATS_A_SECOND:,} heartbeats a second (ms, {name})", delay * 1_000)
    await writer.close()
    await reader.close()


def say(name: str, value: float) -> None:
    """A line of the answer."""
    print(f"{name:64} {value:>12,.4g}", flush=True)


async def measure(arguments: Any) -> None:
    """Everything, each part on its own namespace."""
    with redis() as port:
        for tensors in (1_500, 20_000):
            await memory(port, tensors)
        await start(port, arguments.entries)
        await beats(port, arguments.seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    if shutil.which("redis-server") is None:
        print("there is no redis-server on the PATH (Debian: apt-get install redis-server)")
        return
    asyncio.run(measure(arguments))


if __name__ == "__main__":
    main()
