"""A clock that moves only when a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import Final

__all__ = ["ManualClock"]

_SETTLE_ROUNDS: Final = 20
"""Turns of the event loop that woken tasks get before time moves on: enough for a chain of plain awaits."""


class ManualClock:
    """A `peerload.clock.Clock` driven by hand.

    `monotonic` starts at `monotonic` seconds, the wall clock at `wall_ms`; both stand still between calls of
    `advance`. Reading it from other threads is fine; sleeping and advancing belong to one event loop.
    """

    def __init__(self, *, monotonic: float = 1_000.0, wall_ms: int = 1_750_000_000_000) -> None:
        self._monotonic = monotonic
        self._wall_offset_ms = wall_ms - monotonic * 1_000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    @property
    def sleepers(self) -> int:
        """How many tasks are asleep."""
        return sum(not future.done() for _, _, future in self._sleepers)

    def monotonic(self) -> float:
        """Seconds; grows by what `advance` and `jump` were told, and by nothing else."""
        return self._monotonic

    def wall_ms(self) -> int:
        """Milliseconds since 1970; moves with `advance` and jumps with `set_wall_ms`."""
        return round(self._wall_offset_ms + self._monotonic * 1_000.0)

    def set_wall_ms(self, wall_ms: int) -> None:
        """Step the wall clock, either way; monotonic time does not notice."""
        self._wall_offset_ms = wall_ms - self._monotonic * 1_000.0

    async def sleep(self, seconds: float) -> None:
        """Return once `advance` has moved time by `seconds`; at once, after yielding, for zero or less."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Move time forward, waking every sleeper at its own moment, in order.

        A woken task runs until it waits for something else before the next one is woken, so a loop that sleeps a
        second runs ten times in `advance(10)`. What such a task hands to a thread is not waited for.
        """
        if seconds < 0:
            raise ValueError("monotonic time does not go back")
        target = self._monotonic + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            moment, _, future = heapq.heappop(self._sleepers)
            if future.done():  # its task was cancelled
                continue
            self._monotonic = max(self._monotonic, moment)
            future.set_result(None)
            await self.settle()
        self._monotonic = target
        await self.settle()

    def jump(self, seconds: float) -> None:
        """Move time forward at once, as for a process that was stopped: nobody wakes before the next `advance`."""
        if seconds < 0:
            raise ValueError("monotonic time does not go back")
        self._monotonic += seconds

    async def settle(self) -> None:
        """Let every task that can run do so for a while, without moving time."""
        for _ in range(_SETTLE_ROUNDS):
            await asyncio.sleep(0)
