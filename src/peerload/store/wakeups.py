"""How the watches of one store in one process learn that there may be something to read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from peerload.clock import Clock

__all__ = ["TICK_SECONDS", "Listener", "Wakeups"]

TICK_SECONDS: Final = 0.8
"""A watch yields at least once a second; the rest is for reading the store."""


class Listener:
    """One watch's ear. `due` is set when a second is nearly over and the watch must yield even without changes."""

    def __init__(self) -> None:
        self.due = True  # the first yield comes at once
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Let `wait` return."""
        self._event.set()

    async def wait(self) -> None:
        """Return once woken since the last `wait`; at once if that was in between."""
        await self._event.wait()
        self._event.clear()


class Wakeups:
    """Wakes every listener at a change and at every tick of the clock. Belongs to one event loop."""

    def __init__(self, clock: Clock, on_tick: Callable[[], None]) -> None:
        self._clock = clock
        self._on_tick = on_tick
        self._listeners: set[Listener] = set()
        self._ticker = asyncio.create_task(self._tick(), name="store ticks")

    @property
    def wanted(self) -> bool:
        """Whether anybody listens. May be asked from any thread."""
        return bool(self._listeners)

    def ring(self) -> None:
        """Wake every listener."""
        for listener in self._listeners:
            listener.wake()

    @contextlib.contextmanager
    def listen(self) -> Iterator[Listener]:
        """A listener for as long as the block runs."""
        listener = Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    async def stop(self) -> None:
        """End the ticks and wake everybody a last time."""
        self._ticker.cancel()
        await asyncio.wait([self._ticker])
        self.ring()

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(TICK_SECONDS)
            self._on_tick()
            for listener in self._listeners:
                listener.due = True
            self.ring()
