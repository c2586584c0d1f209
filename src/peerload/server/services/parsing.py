"""Reading publications without holding up everybody else."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final, NamedTuple

import structlog

from peerload.errors import Unavailable
from peerload.metadata.publications.packed import Packed, Reading
from peerload.server.services.reader import ReaderChild, ReaderDied

__all__ = ["Parser"]

_log = structlog.get_logger("peerload.server")

_LARGE_BYTES: Final = 128 * 1024
"""Some two thousand tensors, a millisecond's work or two. To have less done elsewhere costs more than it spares."""
_MAX_WAITING_BYTES: Final = 512 * 1024 * 1024
"""Beyond this much, callers are told to come again: a flood of large messages must not fill the memory."""
_ALONE_SECONDS: Final = 300.0
"""How long this process does without a child where it could not have one, before it tries again."""


class _Question(NamedTuple):
    request: bytes
    reading: Reading


class Parser:
    """Reads publications for one event loop: small ones at once, large ones one after the other in a child process, which is
    started for the first of them. A thread would hold the interpreter while it looks at tens of thousands of names."""

    def __init__(self) -> None:
        self._waiting_bytes = 0
        # In the order of arrival; whoever gives up takes the request along from the middle.
        self._waiting: OrderedDict[asyncio.Future[Packed], _Question] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self._child: ReaderChild | None = None
        self._alone_until = 0.0
        """The moment, on the event loop's clock, before which this process is not to try for a child."""

    async def read(self, request: bytes, reading: Reading) -> Packed:
        """What `reading.of(request)` returns or raises. Raises `Unavailable` where too much is waiting already, and if the child
        has died of it, perhaps."""
        size = len(request)
        if size < _LARGE_BYTES:
            return reading.of(request)
        if self._waiting_bytes + size > _MAX_WAITING_BYTES:
            raise Unavailable(f"{self._waiting_bytes} bytes of large messages are waiting to be read; try again")
        answer: asyncio.Future[Packed] = asyncio.get_running_loop().create_future()
        self._waiting_bytes += size
        self._waiting[answer] = _Question(request, reading)
        try:
            if self._task is None:
                self._task = asyncio.create_task(self._run(), name="peerload-parse")
            return await answer
        finally:
            self._waiting_bytes -= size
            self._waiting.pop(answer, None)
            # An error knows the frames that it went through. One that knows itself by them would keep its request until the
            # garbage collector comes, and a few of the largest fill the memory.
            del answer

    def close(self) -> None:
        """End the child, and whoever still waits for it."""
        if self._task is not None:
            self._task.cancel()
        for answer in self._waiting:
            answer.cancel()
        if self._child is not None:
            self._child.end()
            self._child = None

    async def _run(self) -> None:
        """Answer as long as somebody waits. Who gives up does not disturb the child at its work."""
        try:
            while self._waiting:
                answer, question = self._waiting.popitem(last=False)
                if answer.done():
                    continue
                try:
                    packed = await self._read(question)
                except asyncio.CancelledError:
                    answer.cancel()
                    raise
                except Exception as error:  # not hidden: the caller gets it, and the others are answered
                    if not answer.done():
                        answer.set_exception(error)
                else:
                    if not answer.done():
                        answer.set_result(packed)
                finally:
                    del answer, question  # see `read`
        finally:
            self._task = None

    async def _read(self, question: _Question) -> Packed:
        child = await self._had()
        if child is None:
            try:
                reading = asyncio.get_running_loop().run_in_executor(None, question.reading.of, question.request)
            except RuntimeError as error:
                raise Unavailable(f"large messages cannot be read at the moment ({error}); try again") from error
            return await reading
        try:
            return await child.read(question.request, question.reading)
        except ReaderDied as error:
            self._end_child(str(error))
            # Not read here instead: what has killed one process may kill another.
            raise Unavailable(f"{error}; try again") from error

    async def _had(self) -> ReaderChild | None:
        """The child; None where there can be none at the moment."""
        if self._child is not None and self._child.gone:
            self._end_child("it had ended before it was asked")
        loop = asyncio.get_running_loop()
        if self._child is None and loop.time() >= self._alone_until:
            try:
                self._child = await ReaderChild.start()
            except OSError as error:
                # Descriptors, processes or memory may be short for a while.
                self._alone_until = loop.time() + _ALONE_SECONDS
                _log.warning("large publications are read in the server's own process for now", reason=str(error))
        return self._child

    def _end_child(self, reason: str) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None
            _log.error("the process that reads large publications is started anew", reason=reason)
