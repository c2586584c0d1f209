"""Taking large messages apart without holding up everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

__all__ = ["Parser"]

_T = TypeVar("_T")

_LARGE_BYTES: Final = 64 * 1024
"""About a thousand tensors, a millisecond's work."""
_AT_ONCE: Final = 2
"""A hundred MiB of message is several times that once parsed, so only a few are at any moment."""


class Parser:
    """Runs parsers: small messages at once, large ones on threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="peerload-parse")

    async def parse(self, parse: Callable[[bytes], _T], message: bytes) -> _T:
        """What `parse(message)` returns or raises."""
        if len(message) < _LARGE_BYTES:
            return parse(message)
        return await asyncio.get_running_loop().run_in_executor(self._threads, parse, message)

    def close(self) -> None:
        """Let go of the threads, once what they are at is done."""
        self._threads.shutdown(wait=False, cancel_futures=True)
