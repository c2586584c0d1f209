"""A store that is measured: the one it wraps, and how long its calls take and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, Final, Literal, TypeVar

from peerload import errors, tracing
from peerload.clock import Clock
from peerload.store import base
from peerload.store.paged import pages
from peerload.tally import Histogram

__all__ = ["OPERATIONS", "OUTCOMES", "MeasuredStore", "OperationMeasures"]

_T = TypeVar("_T")

OPERATIONS: Final = ("put", "touch", "get", "blob", "delete", "list", "watch")
OUTCOMES: Final = (
    "ok",
    "unavailable",
    "conflict",
    "not_found",
    "compacted",
    "damaged",
    "invalid",
    "cancelled",
    "failed",
)
"""How a call may end. Conflicts and what is not found are answers; `unavailable` and `damaged` are the store's fault."""
_KINDS: Final = (
    (errors.Unavailable, "unavailable"),
    (errors.Conflict, "conflict"),
    (errors.NotFound, "not_found"),
    (errors.Compacted, "compacted"),
    (errors.Damaged, "damaged"),
    (errors.InvalidArgument, "invalid"),
    (asyncio.CancelledError, "cancelled"),
    (GeneratorExit, "cancelled"),
)


class OperationMeasures:
    """Of one verb."""

    __slots__ = ("outcomes", "seconds")

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.seconds = Histogram()
        """Of every verb but `watch`, which lasts until it is lost."""


class MeasuredStore:
    """A store; its contract is that of the one it wraps. With `traced`, what is asked of it for a call is a span of that call."""

    def __init__(self, store: base.Store, clock: Clock, *, traced: bool = False) -> None:
        self._store = store
        self._traced = traced
        self._now = clock.monotonic
        # Asked with every heartbeat.
        self.now = store.now
        self.operations = {name: OperationMeasures() for name in OPERATIONS}

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def pace(self) -> float:
        return self._store.pace

    @property
    def doubt_ms(self) -> float:
        return self._store.doubt_ms

    async def open(self) -> None:
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()

    async def put(
        self,
        key: str,
        value: base.Value,
        *,
        blob: bytes | base.Keep = base.KEEP,
        expect: base.Expect = base.ANY,
        beat: base.Beat | None = None,
    ) -> base.Written:
        return await self._measured("put", self._store.put(key, value, blob=blob, expect=expect, beat=beat))

    async def touch(self, touches: Sequence[base.Touch]) -> list[base.Touched]:
        return await self._measured("touch", self._store.touch(touches))

    async def get(self, key: str) -> base.Entry | None:
        return await self._measured("get", self._store.get(key))

    async def blob(self, key: str, generation: int) -> bytes:
        return await self._measured("blob", self._store.blob(key, generation))

    async def delete(
        self, key: str, *, expect: int | Literal[base.Any.ANY] = base.ANY, unless_beaten_since: int | None = None
    ) -> int:
        return await self._measured(
            "delete", self._store.delete(key, expect=expect, unless_beaten_since=unless_beaten_since)
        )

    async def list(self, prefix: str = "") -> base.Listing:
        return await self._measured("list", self._store.list(prefix))

    async def pages(self, prefix: str = "") -> AsyncGenerator[base.Listing, None]:
        async with aclosing(pages(self._store, prefix)) as parts:
            while (part := await self._measured("list", _next(parts))) is not None:
                yield part

    async def watch(self, position: base.Position, prefix: str = "") -> AsyncGenerator[base.Feed, None]:
        outcomes = self.operations["watch"].outcomes
        try:
            async with aclosing(self._store.watch(position, prefix)) as feeds:
                async for feed in feeds:
                    yield feed
        except BaseException as error:
            outcomes[_outcome(error)] += 1
            raise
        outcomes["ok"] += 1

    async def _measured(self, operation: str, call: Coroutine[Any, Any, _T]) -> _T:
        if self._traced and tracing.inside():
            with tracing.span(f"store {operation}", {"peerload.store": self.url.partition(":")[0]}, kind="client"):
                return await self._timed(operation, call)
        return await self._timed(operation, call)

    async def _timed(self, operation: str, call: Coroutine[Any, Any, _T]) -> _T:
        measures = self.operations[operation]
        begun = self._now()
        outcome = "ok"
        try:
            return await call
        except BaseException as error:
            outcome = _outcome(error)
            raise
        finally:
            measures.outcomes[outcome] += 1
            measures.seconds.observe(self._now() - begun)


async def _next(parts: AsyncGenerator[base.Listing, None]) -> base.Listing | None:
    return await anext(parts, None)


def _outcome(error: BaseException) -> str:
    return next((outcome for kind, outcome in _KINDS if isinstance(error, kind)), "failed")
