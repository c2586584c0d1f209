"""Reading publications without holding up everybody else."""

from __future__ import annotations

import asyncio
from collections import deque
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


class _Question(NamedTuple):
    request: bytes
    reading: Reading
    answer: asyncio.Future[Packed]


class Parser:
    """Reads publications for one event loop: small ones at once, large ones one after the other in a child process, which is
    started for the first of them. A thread would hold the interpreter while it looks at tens of thousands of names."""

    def __init__(self) -> None:
        self._waiting_bytes = 0
        self._waiting: deque[_Question] = deque()
        self._task: asyncio.Task[None] | None = None
        self._child: ReaderChild | None = None
        self._alone = False
        """Whether this process cannot have a child."""

    async def read(self, request: bytes, reading: Reading) -> Packed:
        """What `reading.of(request)` returns or raises. Raises `Unavailable` where too much is waiting already, and if the child
        has died of it, perhaps."""
        size = len(request)
        if size < _LARGE_BYTES:
            return reading.of(request)
        if self._waiting_bytes + size > _MAX_WAITING_BYTES:
            raise Unavailable(f"{self._waiting_bytes} bytes of large messages are waiting to be read; try again")
        self._waiting_bytes += size
        try:
            question = _Question(request, reading, asyncio.get_running_loop().create_future())
            self._waiting.append(question)
            if self._task is None:
                self._task = asyncio.create_task(self._run(), name="peerload-parse")
            return await question.answer
        finally:
            self._waiting_bytes -= size

    def close(self) -> None:
        """End the child, and whoever still waits for it."""
        if self._task is not None:
            self._task.cancel()
        for question in self._waiting:
            question.answer.cancel()
        if self._child is not None:
            self._child.end()
            self._child = None

    async def _run(self) -> None:
        """Answer as long as somebody waits. Who gives up does not disturb the child at its work."""
        try:
            while self._waiting:
                question = self._waiting.popleft()
                if question.answer.done():
                    continue
                try:
                    packed = await self._read(question)
                except asyncio.CancelledError:
                    question.answer.cancel()
                    raise
                except Exception as error:  # not hidden: the caller gets it, and the others are answered
                    if not question.answer.done():
                        question.answer.set_exception(error)
                else:
                    if not question.answer.done():
                        question.answer.set_result(packed)
        finally:
            self._task = None

    async def _read(self, question: _Question) -> Packed:
        if self._child is None and not self._alone:
            try:
                self._child = await ReaderChild.start()
            except OSError as error:
                self._alone = True
                _log.warning("large publications are read in the server's own process", reason=str(error))
        if self._child is None:
            return await asyncio.to_thread(question.reading.of, question.request)
        try:
            return await self._child.read(question.request, question.reading)
        except ReaderDied as error:
            self._child.end()
            self._child = None
            _log.error("the process that reads large publications is started anew", reason=str(error))
            # Not read here instead: what has killed one process may kill another.
            raise Unavailable(f"{error}; try again") from error
