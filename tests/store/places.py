"""Places for the conformance suite."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from peerload.store.base import Beat, Store, Touch
from peerload.store.kubernetes.kubetime import KubeTime
from peerload.store.kubernetes.store import KubernetesStore
from peerload.store.memory import MemoryStore
from peerload.store.redis.store import RedisStore
from peerload.store.sqlite import SqliteStore
from peerload.testing import FaultyStore, ManualClock
from peerload.testing.store_suite.place import PATIENCE_SECONDS
from tests.support.redis import RedisProcess

_LOG_LIMIT = 400
"""Changes that the feed of a store in Kubernetes reaches back, in tests."""


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


class NamespacePlace:
    """Every server uses the same namespace. With `sharing` every heartbeat is kept in shared objects, and hardly any is
    written into a record."""

    def __init__(self, clock: ManualClock, url: str, *, sharing: bool = False) -> None:
        self._clock = clock
        self._sharing = sharing
        self.url = url

    def store(self) -> Store:
        sharing: dict[str, Any] = {"shares": lambda key: True, "copies_a_second": 0.0} if self._sharing else {}
        # What takes long here says something about the machine that runs all of Kubernetes besides the tests.
        return HandTimedKubernetesStore(
            self.url, self._clock, log_limit=_LOG_LIMIT, call_seconds=PATIENCE_SECONDS / 2, **sharing
        )

    async def forget_feed(self, store: Store) -> None:
        numbers = range(_LOG_LIMIT + 1)
        for start in numbers[::8]:
            await asyncio.gather(*(store.put(f"forget/{n}", {}) for n in numbers[start : start + 8]))
        # What nobody has is judged when the store has heard of all that was written before.
        await store.touch([Touch("forget/nobody", 1, Beat(1)), Touch("forget/none", 1, Beat(1))])


class _HandTime(KubeTime):
    """Nobody needs to agree with it."""

    @property
    def doubt_ms(self) -> float:
        return 0.0

    async def learn(self, ask: Callable[[], Awaitable[object]]) -> None: ...

    async def keep(self, ask: Callable[[], Awaitable[object]]) -> None:
        await asyncio.Event().wait()


class HandTimedKubernetesStore(KubernetesStore):
    """Its clock is right when it is opened, and from then on it moves with the test's: the API server's does not."""

    def __init__(self, url: str, clock: ManualClock, **settings: Any) -> None:
        super().__init__(url, clock, **settings)
        self._time = _HandTime(clock)

    async def open(self) -> None:
        await super().open()
        assert self._parts is not None
        self._parts.api.on_date = None
