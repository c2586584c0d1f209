"""Waiting for one of several things, by a clock that is passed in."""

from __future__ import annotations

import asyncio
from typing import Any

from peerload.clock import Clock

__all__ = ["Pulse", "settled_within"]


async def settled_within(clock: Clock, seconds: float, future: asyncio.Future[Any]) -> bool:
    """Whether the future is done before `seconds` have passed. The future is neither cancelled nor read."""
    if future.done():
        return True
    if seconds <= 0:
        return False
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait((timer, future), return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
    return future.done()


class Pulse:
    """Wakes everybody who waits at this moment, and nobody who comes later."""

    def __init__(self) -> None:
        self._next: asyncio.Future[None] | None = None

    def beat(self) -> None:
        """Wake all who wait."""
        waiting, self._next = self._next, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def wait(self) -> None:
        """Return at the next beat."""
        # Not awaited itself: cancelling one who waits must not cancel the future that all share.
        await asyncio.wait((self.next(),))

    def next(self) -> asyncio.Future[None]:
        """Done at the next beat. Shared: hand it to `asyncio.wait` or `settled_within`, do not await it itself."""
        if self._next is None or self._next.done():
            self._next = asyncio.get_running_loop().create_future()
        return self._next
