"""Stores that hold many records already, written without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from bench.messages import P2P, Fleet
from peerload.clock import SystemClock
from peerload.metadata.publications.blobs import pack
from peerload.metadata.publications.publication import Publication
from peerload.plugins import open_store
from peerload.store.base import Beat
from peerload.wire.identity import source_id

__all__ = ["fleets", "heartbeats", "seed"]

_WRITERS = 256
_MODEL = 100
"""Workers of each model that nobody asks for."""


def fleets(records: int) -> Iterator[tuple[Fleet, range]]:
    """Which fleets a store of so many records holds, and which workers of each: fleets of 64, 1,024 and 10,000 as far as there is
    room for them, then as many as it takes of a hundred."""
    left = records
    for size in (64, 1_024, 10_000):
        if size <= left // 2 or size == 64:
            yield Fleet(0, model=f"fleet/{size}"), range(min(size, left))
            left -= min(size, left)
    number = 0
    while left > 0:
        yield Fleet(0, model=f"other/{number}"), range(min(_MODEL, left))
        left -= _MODEL
        number += 1


def heartbeats(records: int) -> list[tuple[str, bytes]]:
    """One of each worker of a store of so many records, as calls."""
    return [
        (f"{P2P}UpdateStatus", fleet.update(source, number))
        for fleet, workers in fleets(records)
        for source in (source_id(fleet.identity),)
        for number in workers
    ]


def seed(url: str, records: int) -> None:
    """Write them."""
    asyncio.run(_seed(url, records))


async def _seed(url: str, records: int) -> None:
    store = open_store(url, SystemClock())
    await store.open()
    publications = (
        Publication.from_p2p(fleet.request(number)) for fleet, workers in fleets(records) for number in workers
    )

    async def write() -> None:
        for publication in publications:
            now = store.now()
            value = publication.record._replace(published_at=now).to_value()
            await store.put(publication.key.encode(), value, blob=pack(publication), beat=Beat(now))

    try:
        await asyncio.gather(*(write() for _ in range(_WRITERS)))
    finally:
        await store.close()
