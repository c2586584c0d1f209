"""Places for the conformance suite."""

from __future__ import annotations

from pathlib import Path

from peerload.store.base import Store
from peerload.store.memory import MemoryStore
from peerload.store.redis.store import RedisStore
from peerload.store.sqlite import SqliteStore
from peerload.testing import FaultyStore, ManualClock
from tests.support.redis import RedisProcess


class MemoryPlace:
    """Servers in one process share one instance."""

    def __init__(self, clock: ManualClock, *, feed_limit: int = 30_000) -> None:
        self._feed_limit = feed_limit
        self.memory = MemoryStore(clock, feed_limit=feed_limit)

    def store(self) -> Store:
        return self.memory

    async def forget_feed(self, store: Store) -> None:
        for n in range(self._feed_limit + 1):
            await store.put("forget/1", {"n": n})


class FaultyPlace(MemoryPlace):
    """Every server has a wrapper of its own around the one store."""

    def __init__(self, clock: ManualClock, *, repeats: bool) -> None:
        super().__init__(clock, feed_limit=5_000)
        self._repeats = repeats

    def store(self) -> Store:
        return FaultyStore(self.memory, repeats=self._repeats)


class SqlitePlace:
    """Every server opens the same file."""

    def __init__(self, clock: ManualClock, folder: Path) -> None:
        self._clock = clock
        self.path = folder / "store" / "peerload.sqlite"

    def store(self) -> Store:
        return SqliteStore(self.path, self._clock)

    async def forget_feed(self, store: Store) -> None:
        await store.put("forget/1", {})
        await self._clock.advance(200)
        for n in range(3):
            await store.put("forget/1", {"n": n})
            await self._clock.advance(2)


class RedisPlace:
    """Every server connects to the same namespace."""

    def __init__(self, clock: ManualClock, process: RedisProcess, url: str) -> None:
        self._clock = clock
        self._process = process
        self.url = url

    def store(self) -> Store:
        return RedisStore(self.url, self._clock)

    async def forget_feed(self, store: Store) -> None:
        for n in range(3):
            await store.put("forget/1", {"n": n})
        namespace = self.url.partition("namespace=")[2]
        self._process.ask("XTRIM", f"{{{namespace}}}:feed", "MAXLEN", "1")
