"""A clock that moves only when a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from functools import partial
from typing import Final

from peerload.clock import Timer

__all__ = ["ManualClock"]

_SETTLE_ROUNDS: Final = 20
"""Turns of the event loop that woken tasks get before time moves on: enough for a chain of plain awaits."""


class ManualClock:
    """A `peerload.clock.Clock` driven by hand.

    `monotonic` starts at `monotonic` seconds, the wall clock at `wall_ms`; both stand still between calls of
    `advance`. Reading it from other threads is fine; sleeping, timers and advancing belong to one event loop.
    """

    def __init__(self, *, monotonic: float = 1_000.0, wall_ms: int = 1_750_000_000_000) -> None:
        self._monotonic = monotonic
        self._wall_offset_ms = wall_ms - monotonic * 1_000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    @property
    def sleepers(self) -> int:
        """How many tasks are asleep, and timers set."""
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

    def call_later(self, seconds: float, act: Callable[[], None]) -> Timer:
        """Have `act` called once `advance` has moved time by `seconds`; soon, for zero or less."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        made = _Timer(future)
        future.add_done_callback(partial(made.ring, act))
        if seconds <= 0:
            future.set_result(None)
        else:
            heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), future))
        return made

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


class _Timer:
    def __init__(self, future: asyncio.Future[None]) -> None:
        self._future = future
        self._cancelled = False

    def cancel(self) -> None:
        # What has run out, and has not been told yet, is not told any more.
        self._cancelled = True
        self._future.cancel()

    def ring(self, act: Callable[[], None], _: asyncio.Future[None]) -> None:
        if not self._cancelled:
            act()
