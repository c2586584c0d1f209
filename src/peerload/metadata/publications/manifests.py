"""What was published, in the store's blobs and in a bounded cache."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from peerload.metadata.publications.blobs import Parts, pack, unpack
from peerload.metadata.publications.publication import Publication
from peerload.store.base import Store

__all__ = ["Manifests"]

_IN_THREAD_BYTES: Final = 256 * 1024
"""Packing or unpacking more than this would hold up the event loop for over half a millisecond."""


class Manifests:
    """Publications by key and generation: from the cache, or read from the store once for all who ask at a time."""

    def __init__(self, store: Store, cache_bytes: int) -> None:
        self._store = store
        self._limit = cache_bytes
        self._cached: OrderedDict[tuple[str, int], Parts] = OrderedDict()
        self._bytes = 0
        self.hits = 0
        self.misses = 0
        """Questions that the cache answered, and that had to wait for the store."""
        self._reading: dict[tuple[str, int], asyncio.Task[Parts]] = {}

    def cached(self, key: str, generation: int) -> Parts | None:
        """From the cache, or None."""
        place = (key, generation)
        parts = self._cached.get(place)
        if parts is not None:
            self.hits += 1
            self._cached.move_to_end(place)
        return parts

    async def read(self, key: str, generation: int) -> Parts:
        """Raises `NotFound` where the store has no such generation any more, `Damaged` and `Unavailable`."""
        self.misses += 1
        place = (key, generation)
        if (parts := self._cached.get(place)) is not None:
            return parts  # somebody else's question has brought it meanwhile
        task = self._reading.get(place)
        if task is None:
            task = self._reading[place] = asyncio.ensure_future(self._load(place))
            task.add_done_callback(lambda task: self._loaded(place, task))
        # One caller's cancellation must not take the answer from the others.
        return await asyncio.shield(task)

    async def pack(self, publication: Publication) -> bytes:
        """`pack`, a large one in a thread."""
        if len(publication.worker) + len(publication.manifest or b"") > _IN_THREAD_BYTES:
            return await asyncio.to_thread(pack, publication)
        return pack(publication)

    async def close(self) -> None:
        """End the reads in flight."""
        tasks = list(self._reading.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _load(self, place: tuple[str, int]) -> Parts:
        blob = await self._store.blob(*place)
        return await asyncio.to_thread(unpack, blob) if len(blob) > _IN_THREAD_BYTES // 8 else unpack(blob)

    def _loaded(self, place: tuple[str, int], task: asyncio.Task[Parts]) -> None:
        del self._reading[place]
        # Asking for the exception marks it as read, should everybody who wanted to know be gone.
        if task.cancelled() or task.exception() is not None:
            return
        parts = task.result()
        if parts.size > self._limit // 4:
            return
        self._cached[place] = parts
        self._bytes += parts.size
        while self._bytes > self._limit:
            _, dropped = self._cached.popitem(last=False)
            self._bytes -= dropped.size
