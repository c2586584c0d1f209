"""Blocking work on threads, for coroutines that may be cancelled meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

__all__ = ["Stopped", "in_thread", "relay"]

T = TypeVar("T")


async def in_thread(executor: Executor, work: Callable[[threading.Event], T]) -> T:
    """What `work` returns, from a thread of `executor`.

    A coroutine that is cancelled here sets the event that `work` was given, and ends only after `work` has: whoever cancels
    is about to close what the thread is working on. So `work` looks at the event often.
    """
    stop = threading.Event()
    future = asyncio.get_running_loop().run_in_executor(executor, work, stop)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop.set()
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue  # a second cancellation must not leave the thread behind either
        if not future.cancelled():
            future.exception()  # seen; what it was does not matter any more
        raise


class Stopped(Exception):
    """Ends blocking work whose caller was cancelled; nobody sees it."""


def relay(progress: Callable[[int, int], None] | None) -> Callable[[threading.Event, int, int], None]:
    """`progress`, to be called from a thread with the event that the thread was given: it is told on this event loop, and
    the thread's work ends there once the event is set."""
    loop = asyncio.get_running_loop()

    def tell(stop: threading.Event, done: int, total: int) -> None:
        if stop.is_set():
            raise Stopped
        if progress is not None:
            loop.call_soon_threadsafe(progress, done, total)

    return tell
