"""Asking something slow on behalf of many: once for all who ask the same, and no faster and no more than it can bear."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from peerload.clock import Clock
from peerload.errors import Unavailable

__all__ = ["Coalesced", "Overloaded", "Pace"]

_QUEUE_SECONDS: Final = 10
"""Who would have to wait longer for a turn is told to come again: most callers give up after half a minute."""

_T = TypeVar("_T")


class Overloaded(Unavailable):
    """More is asked than can be answered soon; asking again at once would only make it worse."""


class Pace:
    """So many a second, with a burst to begin with, and `at_once` in flight."""

    def __init__(self, clock: Clock, per_second: int, burst: int, *, at_once: int = 16) -> None:
        self.most = per_second * _QUEUE_SECONDS
        """How many questions may wait."""
        self._clock = clock
        self._per_second = per_second
        self._burst = burst
        self._left = float(burst)
        self._at = clock.monotonic()
        self.slots = asyncio.Semaphore(at_once)

    async def turn(self) -> None:
        """Wait for one's turn."""
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


class Coalesced(Generic[_T]):
    """One read for all who ask the same before it begins: a read in flight may have looked too early for a newcomer. `crowded`
    is said to those for whom there is no room."""

    def __init__(self, read: Callable[[str], Awaitable[_T]], pace: Pace, *, crowded: str) -> None:
        self._read = read
        self._pace = pace
        self._crowded = crowded
        self._waiting: dict[str, _Question[_T]] = {}
        self._reading: dict[str, asyncio.Task[_T]] = {}
        self._running: set[asyncio.Task[_T]] = set()

    async def read(self, what: str) -> _T:
        """What the read of it brings. Raises `Overloaded`, and what the read raises."""
        question = self._waiting.get(what)
        if question is None:
            if len(self._waiting) >= self._pace.most:
                raise Overloaded(self._crowded)
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
        """End the reads in flight."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
