"""Taking large messages apart without holding up everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from peerload.errors import Unavailable

__all__ = ["Parser"]

_T = TypeVar("_T")

_LARGE_BYTES: Final = 64 * 1024
"""About a thousand tensors, a millisecond's work."""
_AT_ONCE: Final = 1
"""Threads. Two would parse no more, since they share the interpreter, and leave the event loop a fifth of it: heartbeats
waited four times as long. A hundred MiB of message is several times that once parsed, too."""
_MAX_WAITING_BYTES: Final = 512 * 1024 * 1024
"""Beyond this much, callers are told to come again: a flood of large messages must not fill the memory."""


class Parser:
    """Runs parsers: small messages at once, large ones one after the other on a thread of its own."""

    def __init__(self) -> None:
        self._waiting_bytes = 0
        self._thread = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="peerload-parse")

    async def parse(self, parse: Callable[[bytes], _T], message: bytes) -> _T:
        """What `parse(message)` returns or raises. Raises `Unavailable` where too much is waiting already."""
        size = len(message)
        if size < _LARGE_BYTES:
            return parse(message)
        if self._waiting_bytes + size > _MAX_WAITING_BYTES:
            raise Unavailable(f"{self._waiting_bytes} bytes of large messages are waiting to be read; try again")
        self._waiting_bytes += size
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, parse, message)
        finally:
            self._waiting_bytes -= size

    def close(self) -> None:
        """Let go of the thread, once what it is at is done."""
        self._thread.shutdown(wait=False, cancel_futures=True)
