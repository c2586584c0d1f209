"""Asking the store whether something is really not there, without letting strangers flood it with questions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from peerload.clock import Clock
from peerload.errors import Unavailable
from peerload.metadata.records import SourceKey
from peerload.store.base import Entry, Store

__all__ = ["Confirm", "Overloaded"]

_AT_ONCE: Final = 16
_PER_SECOND: Final = 2_000
_BURST: Final = 500
_SOURCES_PER_SECOND: Final = 200
_QUEUE_SECONDS: Final = 10
"""Who would have to wait longer for a turn is told to come again: most callers give up after half a minute."""

_T = TypeVar("_T")


class Overloaded(Unavailable):
    """More is asked than can be answered soon; asking again at once would only make it worse."""


class Confirm:
    """Reads from the store, coalesced by what is asked, bounded in rate and in number: both raise `Overloaded`."""

    def __init__(self, store: Store, clock: Clock) -> None:
        entries = _Pace(clock, _PER_SECOND, _BURST)
        sources = _Pace(clock, _SOURCES_PER_SECOND, _SOURCES_PER_SECOND)

        async def list_source(source_id: str) -> tuple[Entry, ...]:
            return (await store.list(SourceKey.prefix_of(source_id))).entries

        self._entries: _Coalesced[Entry | None] = _Coalesced(store.get, entries)
        self._sources: _Coalesced[tuple[Entry, ...]] = _Coalesced(list_source, sources)

    async def entry(self, key: str) -> Entry | None:
        """The entry as the store held it at a moment after this call began."""
        return await self._entries.read(key)

    async def source(self, source_id: str) -> tuple[Entry, ...]:
        """All entries of one source, likewise."""
        return await self._sources.read(source_id)

    async def close(self) -> None:
        """End the reads in flight."""
        await self._entries.close()
        await self._sources.close()


class _Pace:
    """So many a second, with a burst to begin with."""

    def __init__(self, clock: Clock, per_second: int, burst: int) -> None:
        self.most = per_second * _QUEUE_SECONDS
        self._clock = clock
        self._per_second = per_second
        self._burst = burst
        self._left = float(burst)
        self._at = clock.monotonic()
        self.slots = asyncio.Semaphore(_AT_ONCE)

    async def turn(self) -> None:
        now = self._clock.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        self._left -= 1
        if self._left < 0:
            try:
                await self._clock.sleep(-self._left / self._per_second)
            except asyncio.CancelledError:
                self._left += 1  # what was not asked leaves its turn to others
                raise


class _Question(Generic[_T]):
    """One read that was asked for: its task, and how many wait for the answer."""

    def __init__(self, task: asyncio.Task[_T]) -> None:
        self.task = task
        self.users = 0


class _Coalesced(Generic[_T]):
    """One read for all who ask the same before it begins: a read in flight may have looked too early for a newcomer."""

    def __init__(self, read: Callable[[str], Awaitable[_T]], pace: _Pace) -> None:
        self._read = read
        self._pace = pace
        self._waiting: dict[str, _Question[_T]] = {}
        self._reading: dict[str, asyncio.Task[_T]] = {}
        self._running: set[asyncio.Task[_T]] = set()

    async def read(self, what: str) -> _T:
        question = self._waiting.get(what)
        if question is None:
            if len(self._waiting) >= self._pace.most:
                raise Overloaded("more is asked of the store than it can answer soon; try again")
            task = asyncio.ensure_future(self._turn(what))
            question = self._waiting[what] = _Question(task)
            self._running.add(task)
            task.add_done_callback(self._done)
        question.users += 1
        try:
            return await asyncio.shield(question.task)
        finally:
            question.users -= 1
            # Callers who give up must not leave their questions behind in the queue.
            if not question.users and self._waiting.get(what) is question:
                del self._waiting[what]
                question.task.cancel()

    async def _turn(self, what: str) -> _T:
        task = asyncio.current_task()
        assert task is not None
        try:
            # One at a time of the same thing: however many ask, the store is asked no faster than it answers.
            if what in self._reading:
                await asyncio.wait((self._reading[what],))
            async with self._pace.slots:
                await self._pace.turn()
                del self._waiting[what]
                self._reading[what] = task
                return await self._read(what)
        finally:
            if self._reading.get(what) is task:
                del self._reading[what]

    def _done(self, task: asyncio.Task[_T]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()

    async def close(self) -> None:
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
