"""Waiting for one of several things, by a clock that is passed in."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Any, Final

from peerload.clock import Clock

__all__ = ["Crowd", "Pulse", "settle", "settled_within"]

_FEW: Final = 16


def settle(future: asyncio.Future[None]) -> None:
    """Let those who wait for it go on, if they do not already."""
    if not future.done():
        future.set_result(None)


async def settled_within(clock: Clock, seconds: float, future: asyncio.Future[Any]) -> bool:
    """Whether the future is done before `seconds` have passed. The future is neither cancelled nor read."""
    if future.done():
        return True
    if seconds <= 0:
        return False
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(_: object) -> None:
        settle(woken)

    timer = clock.call_later(seconds, partial(settle, woken))
    future.add_done_callback(wake)
    try:
        await woken
    finally:
        timer.cancel()
        future.remove_done_callback(wake)
    return future.done()


class Pulse:
    """Wakes everybody who waits at this moment, and nobody who comes later."""

    def __init__(self) -> None:
        self._next: asyncio.Future[None] | None = None

    def beat(self) -> None:
        """Wake all who wait."""
        waiting, self._next = self._next, None
        if waiting is not None:
            settle(waiting)

    async def wait(self) -> None:
        """Return at the next beat."""
        # Not awaited itself: cancelling one who waits must not cancel the future that all share.
        await asyncio.wait((self.next(),))

    def next(self) -> asyncio.Future[None]:
        """Done at the next beat. Shared: hand it to `asyncio.wait` or `settled_within`, do not await it itself."""
        if self._next is None or self._next.done():
            self._next = asyncio.get_running_loop().create_future()
        return self._next


class Crowd:
    """Wakes everybody who waits at this moment, and nobody who comes later: a few in each pass of the event loop, so that
    thousands of them do not hold up whatever else is to be done."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], None] = {}

    def wake(self) -> None:
        """Wake all who wait, the first of them at once."""
        woken, self._waiting = self._waiting, {}
        if woken:
            self._go_on(deque(woken))

    async def wait(self) -> None:
        """Return after the next call of `wake`."""
        waiting = self._waiting
        turn = asyncio.get_running_loop().create_future()
        waiting[turn] = None
        try:
            await turn
        finally:
            waiting.pop(turn, None)

    def _go_on(self, woken: deque[asyncio.Future[None]]) -> None:
        for _ in range(min(_FEW, len(woken))):
            turn = woken.popleft()
            if not turn.done():
                turn.set_result(None)
        if woken:
            asyncio.get_running_loop().call_soon(self._go_on, woken)
