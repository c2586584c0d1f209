"""The connections of one store, each lent to one call at a time, and the deadline of every call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

from peerload.errors import Unavailable
from peerload.store.redis.link import Link, Replies, ReplyError
from peerload.store.redis.route import Route
from peerload.store.redis.trouble import Broken, Passing, refusal

__all__ = ["CALL_SECONDS", "Pool", "checked"]

CALL_SECONDS: Final = 1.5
"""After this a small call gives up; large ones get more in proportion to their bytes."""

_MOST_LINKS: Final = 16
_RIDE_SECONDS: Final = 0.3
"""How long a fault is ridden out: for a connection that was lost or a primary that has moved. Who can wait for longer,
asks again."""
_PAUSE_SECONDS: Final = 0.05
_LATE_SECONDS: Final = 0.5

_T = TypeVar("_T")


class Pool:
    """Runs calls on connections to the primary.

    A call that Redis certainly has not begun (no connection, still loading, a replica, another's slot) is tried again
    for a moment, so that a short fault is ridden out; of those that may have been done, only harmless ones are.
    """

    def __init__(self, route: Route) -> None:
        self._route = route
        self._idle: list[Link] = []
        self._room = asyncio.Semaphore(_MOST_LINKS)
        self._deadlines: set[asyncio.Timeout] = set()
        self._generation = 0
        self._closed = False

    async def run(
        self, work: Callable[[Link], Awaitable[_T]], seconds: float = CALL_SECONDS, *, harmless: bool = True
    ) -> _T:
        """What `work` makes of a connection. Raises `Unavailable` after `seconds`, with the reason.

        `harmless` is work that may be done twice: that is tried again even where it may have been done.
        """
        while True:
            try:
                return await self._attempt(work, seconds, harmless=harmless)
            except _Late:
                continue

    async def _attempt(self, work: Callable[[Link], Awaitable[_T]], seconds: float, *, harmless: bool) -> _T:
        reason: Unavailable | None = None
        loop = asyncio.get_running_loop()
        if self._closed:
            raise Unavailable("the store is not open")
        try:
            async with asyncio.timeout(seconds) as deadline:
                self._deadlines.add(deadline)
                begun = loop.time()
                try:
                    while True:
                        try:
                            async with self._lent() as link:
                                return await work(link)
                        except Broken as error:
                            if not harmless:
                                raise
                            reason = error
                        except Passing as error:
                            reason = error
                        self.reset()
                        if loop.time() - begun > _RIDE_SECONDS:
                            raise reason
                        await asyncio.sleep(_PAUSE_SECONDS)
                finally:
                    self._deadlines.discard(deadline)
        except TimeoutError:
            if self._closed:
                raise Unavailable("the store was closed") from None
            late = loop.time() - (deadline.when() or 0.0)
            if harmless and late > _LATE_SECONDS:
                raise _Late from None
            if reason is not None:
                raise Unavailable(str(reason)) from None
            silent = self._route.asked
            self.reset()  # the other connections lead to the same silence
            raise Unavailable(f"Redis at {silent} did not answer in time") from None

    def reset(self) -> None:
        """Use no connection again that was made until now, and ask anew where the primary is."""
        self._generation += 1
        self._route.forget()
        idle, self._idle = self._idle, []
        for link in idle:
            link.close()

    def close(self) -> None:
        """End every call with `Unavailable`, and every connection."""
        self._closed = True
        loop = asyncio.get_running_loop()
        for deadline in list(self._deadlines):
            deadline.reschedule(loop.time())
        self.reset()

    @contextlib.asynccontextmanager
    async def _lent(self) -> AsyncIterator[Link]:
        async with self._room:
            generation = self._generation
            link = self._take() or await self._connect()
            try:
                yield link
            except Broken:
                self.reset()
                raise
            finally:
                # One whose call was interrupted still owes a reply, and is of no more use.
                if link.idle and generation == self._generation:
                    self._idle.append(link)
                else:
                    link.close()

    def _take(self) -> Link | None:
        while self._idle:
            link = self._idle.pop()
            if link.idle and not link.stirs():
                return link
            link.close()
        return None

    async def _connect(self) -> Link:
        try:
            return await self._route.connect()
        except Broken as error:  # of `work`, nothing was sent
            raise Passing(str(error)) from error


class _Late(Exception):
    """The deadline was noticed long after it: this process did not run, and that says nothing about Redis."""


def checked(link: Link, replies: Replies) -> Replies:
    """The replies, none of which is an error. Raises what the first error means."""
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise refusal(link.address, str(reply))
    return replies
