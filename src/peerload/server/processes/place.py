"""A place among the processes: whoever has it is kept alive, and may be exchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import structlog

from peerload.clock import Clock
from peerload.server.processes.child import Child
from peerload.server.processes.restarts import Restarts

__all__ = ["Place", "Starter"]

_log = structlog.get_logger("peerload.server")

Starter: TypeAlias = Callable[[], Awaitable[Child]]
"""Starts a process for the place."""

_START_SECONDS: Final = 120.0
"""A directory of 100,000 records is there in a few seconds; a store may be slow."""
_END_SECONDS: Final = 30.0
"""Beyond its grace, a process has ended by itself in so long, or is killed."""


class Place:
    """The process `number`. `start` it once, then `run` it, `stop` it at the end. Belongs to one event loop."""

    def __init__(
        self, number: int, starter: Starter, clock: Clock, grace: float, *, on_restart: Callable[[], None]
    ) -> None:
        self.number = number
        self._starter = starter
        self._on_restart = on_restart
        self._restarts = Restarts()
        self._clock = clock
        self._grace = grace
        self._exchanging = asyncio.Lock()
        self._child: Child | None = None
        self._leaving: Child | None = None

    @property
    def child(self) -> Child | None:
        """Who has it now; it may have ended."""
        return self._child

    async def start(self) -> None:
        """Put a process there, and wait until it serves. Raises what kept it from that."""
        self._child = child = await self._starter()
        await child.serves(_START_SECONDS)

    async def run(self) -> None:
        """Start another process whenever the present one has ended by itself, until cancelled."""
        while True:
            child = self._child
            assert child is not None
            since = self._clock.monotonic()
            status = await child.ended()
            async with self._exchanging:
                if self._child is not child:
                    continue
                pause = self._restarts.after(self._clock.monotonic() - since)
                _log.error(
                    "a process ended by itself; another is started",
                    number=self.number,
                    pid=child.pid,
                    status=status,
                    pause=pause,
                )
                await self._clock.sleep(pause)
                self._on_restart()
                try:
                    self._child = await self._starter()
                except OSError as error:
                    # For want of memory or descriptors: as if it had ended at once.
                    _log.error("a process cannot be started", number=self.number, reason=str(error))

    async def exchange(self) -> None:
        """Put a new process in the place of the present one: it serves before that one leaves. Raises `PeerloadError`
        where it does not; then the present one stays."""
        async with self._exchanging:
            before = self._child
            after = await self._starter()
            try:
                await after.serves(_START_SECONDS)
            except BaseException:
                after.kill()
                raise
            self._child, self._leaving = after, before
            if before is not None:
                before.leave()
                await self._seen_off(before)
                self._leaving = None
            _log.info("a process was exchanged", number=self.number, pid=after.pid)

    async def stop(self) -> None:
        """Drain the process. Nothing of the above may run any more."""
        here = [child for child in (self._child, self._leaving) if child is not None]
        for child in here:
            child.stop()
        await asyncio.gather(*map(self._seen_off, here))

    async def _seen_off(self, child: Child) -> None:
        try:
            async with asyncio.timeout(self._grace + _END_SECONDS):
                await child.ended()
        except TimeoutError:
            _log.error("a process did not end, and is killed", number=self.number, pid=child.pid)
            child.kill()
            await child.ended()
