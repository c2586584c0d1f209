"""Tells that what this server knows is as new as the question.

A mark is written, and what this server's own watch had told when it brought the mark back is all that was there before.
So it is also what proves that a quiet watch is alive.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from peerload.clock import Clock
from peerload.errors import PeerloadError, Unavailable
from peerload.kubernetes.trouble import Exists, NotThere
from peerload.store.kubernetes.names import Type, heartbeats_name
from peerload.store.kubernetes.objects import body_of, version_of
from peerload.store.kubernetes.reflector import Reflector
from peerload.store.kubernetes.resources import Resources

__all__ = ["PROVEN_SECONDS", "Fence"]

_QUIET_SECONDS: Final = 4.0
PROVEN_SECONDS: Final = 6.0
"""A watch that was silent for so long proves nothing."""
_RETRY_SECONDS: Final = 0.5


class Fence:
    """One server's marks, one for all who ask at a time. The object that carries them is number 0 of the server's objects
    of shared heartbeats, and holds none."""

    def __init__(self, resources: Resources, reflector: Reflector, clock: Clock, token: str) -> None:
        self._resources = resources
        self._reflector = reflector
        self._clock = clock
        self._name = heartbeats_name(token, 0)
        self._exists = False
        self._waiting: list[asyncio.Future[None]] = []
        self._writer: asyncio.Task[None] | None = None
        self._doubt = asyncio.Event()
        self._prover: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Prove the watch alive whenever it is doubted."""
        self._reflector.on_trouble = self._doubt.set
        self._prover = asyncio.create_task(self._prove(), name="kubernetes fence")

    async def close(self) -> None:
        """End it; whoever waits is told that the store is unavailable."""
        tasks = [task for task in (self._prover, self._writer) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        _settle(self._waiting, Unavailable("the store was closed"))

    async def passed(self) -> None:
        """Return once this server's index holds everything that was written before the call. Raises `Unavailable`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="kubernetes mark")
        await future

    def check(self) -> None:
        """Doubt a watch that has been quiet for long. To be called now and then while somebody relies on it."""
        if self._clock.monotonic() - self._reflector.heard > _QUIET_SECONDS:
            self._doubt.set()

    @property
    def proven(self) -> bool:
        """Whether silence means that there is nothing new."""
        return self._clock.monotonic() - self._reflector.heard <= PROVEN_SECONDS

    async def _write(self) -> None:
        while self._waiting:
            # Whoever comes while this mark is on its way needs a later one.
            waiting, self._waiting = self._waiting, []
            try:
                known = self._reflector.log.end
                version = await self._mark()
                if version <= known:
                    raise self._reflector.went_back()
                await self._reflector.reached(version)
            except PeerloadError as error:
                _settle(waiting, error if isinstance(error, Unavailable) else Unavailable(str(error)))
            except asyncio.CancelledError:
                _settle(waiting, Unavailable("the store was closed"))
                raise
            else:
                _settle(waiting, None)

    async def _mark(self) -> int:
        mark = secrets.token_hex(6)
        if self._exists:
            try:
                return version_of(
                    await self._resources.patch(self._name, [{"op": "add", "path": "/write", "value": mark}])
                )
            except NotThere:
                self._exists = False
        body = body_of(self._resources.instance, self._name, Type.HEARTBEATS, {"beats": "", "write": mark})
        try:
            created = await self._resources.create(body)
        except Exists:  # by an earlier try, whose answer was lost
            self._exists = True
            return await self._mark()
        self._exists = True
        return version_of(created)

    async def _prove(self) -> None:
        while True:
            await self._doubt.wait()
            self._doubt.clear()
            while (
                self._reflector.trouble is not None or self._clock.monotonic() - self._reflector.heard > _QUIET_SECONDS
            ):
                try:
                    await self.passed()
                except Unavailable as error:
                    self._reflector.doubt(error)
                    await asyncio.sleep(_RETRY_SECONDS)


def _settle(waiting: list[asyncio.Future[None]], error: Unavailable | None) -> None:
    for future in waiting:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
            future.exception()  # whoever waited may be gone
