"""What one browser is sent while it looks on: server-sent events.

Nothing queues up for a browser. It is told what has changed since it was last told, and only once it has taken that; the
directory's watch keeps what happens meanwhile for all alike, and tells everything anew to whom it has left behind.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from peerload.clock import Clock
from peerload.errors import PeerloadError, Unavailable
from peerload.metadata.backend import MetadataBackend
from peerload.metadata.principals import Principal
from peerload.metadata.query import Query
from peerload.metadata.watch_event import WatchEvent
from peerload.server.page.condition import Condition
from peerload.server.page.fleet import Fleet
from peerload.server.page.movement import Movement
from peerload.server.rpc import Code, RpcError
from peerload.server.traffic import Traffic

__all__ = ["ABORT", "EventStream", "Looker", "encoded"]

ABORT: Final = "abort"
"""Where the port keeps what breaks a connection, in the state of its requests."""
_TICK_SECONDS: Final = 1.0
_LEAST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 10.0
_SHARE: Final = 0.2
"""Of the event loop's time, for all browsers together."""
_HEALTH_SECONDS: Final = 2.0


class Looker:
    """One browser: `events` is what it is sent, until it leaves or the server stops. `admit` says again who it is, after
    everything that may have changed that; `fixed` is told it first."""

    def __init__(
        self,
        backend: MetadataBackend,
        traffic: Traffic,
        condition: Condition,
        clock: Clock,
        *,
        admit: Callable[[], Awaitable[Principal]],
        fixed: Callable[[Principal], dict[str, Any]],
    ) -> None:
        self._backend = backend
        self._traffic = traffic
        self._condition = condition
        self._clock = clock
        self._admit = admit
        self._fixed = fixed
        self._spent = 0.0
        """Seconds that its last messages took to make."""

    async def events(self, principal: Principal) -> AsyncGenerator[bytes, None]:
        """Encoded events. Whoever may no longer look is told so, and that is the end."""
        self._traffic.watched += 1
        try:
            while True:
                yield encoded("hello", self._fixed(principal))
                async with aclosing(self._watched(principal)) as events:
                    async for event in events:
                        yield event
                await self._clock.sleep(_TICK_SECONDS)
                try:
                    principal = await self._admit()
                except RpcError as refusal:
                    if refusal.code is not Code.UNAVAILABLE:
                        yield encoded("refused", {"reason": refusal.message})
                        return
        finally:
            self._traffic.watched -= 1

    async def _watched(self, principal: Principal) -> AsyncGenerator[bytes, None]:
        """The events of one watch, until that ends; the last one tells why."""
        backend = self._backend
        fleet = Fleet(backend.directory)
        movement = Movement(self._traffic, backend.directory, self._clock, principal)
        health_at = -math.inf
        async with aclosing(backend.watch(backend.scoped(Query(), principal))) as watch:
            waiting = asyncio.ensure_future(_next(watch))
            try:
                await asyncio.wait((waiting,), timeout=_LEAST_PAUSE)
                while True:
                    self._spent = 0.0
                    if waiting.done():
                        messages = fleet.changes(waiting.result())
                        waiting = asyncio.ensure_future(_next(watch))
                        # In parts: between them others have their turn.
                        while (some := self._made("fleet", partial(next, messages, None))) is not None:
                            yield some
                            await asyncio.sleep(0)
                    if (some := self._made("beats", fleet.beats)) is not None:
                        yield some
                    if (some := self._made("traffic", movement.changes)) is not None:
                        yield some
                    if self._clock.monotonic() >= health_at:
                        health_at = self._clock.monotonic() + _HEALTH_SECONDS
                        yield encoded("health", self._condition.now(principal))
                    await self._pause(waiting)
            except PeerloadError as error:
                yield encoded("outage", {"reason": str(error)})
                yield encoded("health", self._condition.now(principal))
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)

    def _made(self, name: str, make: Callable[[], Any]) -> bytes | None:
        """An event, if there is anything to tell in it; and the time that it took."""
        start = self._clock.monotonic()
        message = make()
        data = None if message is None or not any(message.values()) else encoded(name, message)
        self._spent += self._clock.monotonic() - start
        return data

    async def _pause(self, waiting: asyncio.Future[WatchEvent]) -> None:
        """Until there is something new, or a second has passed; and so long that all browsers together take their share of
        the time at most."""
        share = self._spent * self._traffic.watched / _SHARE
        await self._clock.sleep(min(max(_LEAST_PAUSE, share), _LONGEST_PAUSE))
        tick: asyncio.Future[None] = asyncio.ensure_future(self._clock.sleep(_TICK_SECONDS - _LEAST_PAUSE))
        await asyncio.wait((waiting, tick), return_when=asyncio.FIRST_COMPLETED)
        tick.cancel()


class EventStream(Response):
    """Sends events until they end, the server does (`ending`), the browser leaves, or it has taken none for `stall` seconds:
    then its connection is broken. It comes back by itself, and is told everything anew."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], *, stall: float, ending: asyncio.Event) -> None:
        super().__init__(headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._events = events
        self._stall = stall
        self._ending = ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        left = asyncio.ensure_future(_leaves(receive))
        sending = asyncio.ensure_future(self._send(send))
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait((left, sending, ending), return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                sending.cancel()
            try:
                await sending
            except (TimeoutError, asyncio.CancelledError):
                scope["state"][ABORT]()
                await left
        finally:
            for task in (left, sending, ending):
                task.cancel()
            await asyncio.gather(left, sending, ending, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            async for event in events:
                async with asyncio.timeout(self._stall):
                    await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body"})


def encoded(name: str, message: dict[str, Any]) -> bytes:
    """One event. What is JSON in ASCII has no line breaks."""
    return f"event: {name}\ndata: {json.dumps(message, separators=(',', ':'))}\n\n".encode("ascii")


async def _next(watch: AsyncGenerator[WatchEvent, None]) -> WatchEvent:
    try:
        return await anext(watch)
    except StopAsyncIteration:
        raise Unavailable("the watch ended") from None


async def _leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
