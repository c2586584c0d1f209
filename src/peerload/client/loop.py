"""An event loop on a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, Final, Generic, TypeVar

__all__ = ["LoopThread"]

T = TypeVar("T")

_LOOK_S: Final = 0.2
"""How long Ctrl-C may go unnoticed."""
_INTERRUPT_S: Final = 10.0
"""How long an interrupted caller waits for what it interrupted to clean up."""


class LoopThread:
    """Runs coroutines for any number of threads, until closed."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._serve, name="peerload-loop", daemon=True)
        self._thread.start()
        _loops.add(self)

    @property
    def closed(self) -> bool:
        """Whether `close` was called; and in a forked child, which has no such thread."""
        return self._closed or os.getpid() != self._pid

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns or raises. A caller that is interrupted (Ctrl-C) cancels it, and waits a while for its
        end. Raises RuntimeError where waiting would never end: on the loop's own thread, after `close`, and in a forked child."""
        if os.getpid() != self._pid:
            # Before the lock, which another thread may have held when this process was forked.
            work.close()
            raise RuntimeError(
                "this client is that of the process that this one was forked from; start processes by spawn"
            )
        call = _Call(work)
        with self._lock:
            if self._closed or threading.current_thread() is self._thread:
                work.close()
                raise RuntimeError(
                    "this client is closed" if self._closed else "a callback may not call the client that called it"
                )
            self._loop.call_soon_threadsafe(call.start)
        try:
            # Not in one piece: a signal that comes between the interpreter's last look and the wait does not end it.
            while not call.ended_within(_LOOK_S):
                pass
        except BaseException:
            self._loop.call_soon_threadsafe(call.cancel)
            call.ended_within(_INTERRUPT_S)
            raise
        return call.result()

    def close(self) -> None:
        """Cancel what still runs, and end the loop and its thread. Closing twice is allowed; a forked child ends nothing."""
        if self.closed:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(_cancel_all())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()


class _Call(Generic[T]):
    """One coroutine, between the thread that waits and the loop that runs it."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._ended = False
        # Let go of at the end. No Event: one whose wait is interrupted in the wrong moment keeps its own lock for ever.
        self._running = threading.Lock()
        self._running.acquire()

    def start(self) -> None:
        """On the loop."""
        self._task = asyncio.get_running_loop().create_task(self._work)
        self._task.add_done_callback(self._end)

    def ended_within(self, seconds: float) -> bool:
        """Whether it has ended; waits so long for that. For one thread."""
        return self._ended or self._running.acquire(timeout=seconds)

    def cancel(self) -> None:
        """On the loop; `start` came before."""
        if self._task is not None:
            self._task.cancel()

    def result(self) -> T:
        """Once it has ended."""
        assert self._task is not None
        return self._task.result()

    def _end(self, task: asyncio.Task[T]) -> None:
        self._ended = True
        self._running.release()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


_loops: weakref.WeakSet[LoopThread] = weakref.WeakSet()


@atexit.register
def _close_loops() -> None:
    # A daemon thread that still runs Python while the interpreter goes away may crash it.
    for loop in list(_loops):
        loop.close()
