"""Asking the store on behalf of a caller: again after a short fault, and never for longer than the caller waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeVar

from peerload.clock import Clock
from peerload.errors import Unavailable
from peerload.metadata.coalesced import Overloaded
from peerload.metadata.settings import MetadataSettings

__all__ = ["ANSWER_SECONDS", "Patience"]

ANSWER_SECONDS: Final = 0.1
"""How long before the caller's deadline a call is answered, so that the answer still arrives."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5

_T = TypeVar("_T")


class _Hanging(Unavailable):
    """The caller's time ran out before the store answered."""


class Patience:
    """How long calls wait for the store. `hopeful` tells whether a fault may be a short one."""

    def __init__(self, clock: Clock, settings: MetadataSettings, hopeful: Callable[[], bool]) -> None:
        self._clock = clock
        self._settings = settings
        self._hopeful = hopeful

    async def ask(self, ask: Callable[[], Coroutine[Any, Any, _T]], deadline: float | None) -> _T:
        """What `ask()` returns, which must be safe to repeat.

        While it raises `Unavailable` it is asked again, for `MetadataSettings.ride_out` and only for a caller who has
        said how long it waits. What hangs is cancelled before the deadline, or after `MetadataSettings.answer_within`,
        and raises `Unavailable`; what was asked again, when the time to ride out is over.
        """
        return await self._ask(ask, deadline, self._settings.ride_out)

    async def write(self, write: Callable[[], Coroutine[Any, Any, _T]], deadline: float | None) -> _T:
        """The same for a write, which is ridden out for `MetadataSettings.ride_out_writes` only: a writer comes again by
        itself, while a reader that is refused loads from disk."""
        return await self._ask(write, deadline, self._settings.ride_out_writes)

    async def _ask(self, ask: Callable[[], Coroutine[Any, Any, _T]], deadline: float | None, ride_out: float) -> _T:
        start = self._clock.monotonic()
        end = start + self._settings.answer_within
        again = start
        if deadline is not None:
            end = min(end, deadline - min(ANSWER_SECONDS, (deadline - start) / 2))
            again = min(end, start + ride_out)
        pause = _FIRST_PAUSE
        reason: Unavailable | None = None
        while True:
            try:
                return await self._until(end, ask())
            except Overloaded:
                raise
            except _Hanging as error:
                # What the store said before it was asked a last time tells more.
                raise reason or error from None
            except Unavailable as error:
                reason = error
                if self._clock.monotonic() + pause > again or not self._hopeful():
                    raise
            await self._clock.sleep(pause)
            # The first try may take long where there is much to do; after a fault there is no reason to think so.
            end = again
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _until(self, end: float, asking: Coroutine[Any, Any, _T]) -> _T:
        left = end - self._clock.monotonic()
        if left <= 0:
            asking.close()
            raise _hanging()
        now = asyncio.get_running_loop().time()
        try:
            # No task of its own, which would be much of what a call costs. Whoever comes next finds locks released and
            # nothing on its way: what is cancelled here has ended when this goes on.
            async with asyncio.timeout(None) as limit:
                timer = self._clock.call_later(left, partial(limit.reschedule, now))
                try:
                    return await asking
                finally:
                    timer.cancel()
        except TimeoutError:
            if not limit.expired():
                raise
        raise _hanging()


def _hanging() -> _Hanging:
    return _Hanging("the store did not answer in time")
