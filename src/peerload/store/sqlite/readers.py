"""The threads that read, each with a connection of its own: readers wait neither for the writer nor for each other."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from peerload.errors import Unavailable
from peerload.store.sqlite.home import Home
from peerload.store.sqlite.layout import connect, translated

__all__ = ["Readers"]

_THREADS: Final = 4

_T = TypeVar("_T")


class _Job(NamedTuple):
    query: Callable[[sqlite3.Connection], Any]
    answer: asyncio.Future[Any]


class Readers:
    """Runs queries for one event loop."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._loop = asyncio.get_running_loop()
        # Not an executor: small reads are quick, and its futures, and a wake-up of the loop for each, cost more than they do.
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._answered: deque[tuple[asyncio.Future[Any], Any, Exception | None]] = deque()
        self._told = False
        """Whether the loop is about to look at what is answered."""
        self._idle: list[sqlite3.Connection] = []
        self._busy: set[sqlite3.Connection] = set()
        self._state = threading.Condition()
        self._closed = False
        for number in range(_THREADS):
            threading.Thread(target=self._run, name=f"sqlite reader {number}", daemon=True).start()

    async def run(self, query: Callable[[sqlite3.Connection], _T], seconds: float) -> _T:
        """The query's answer. Raises what it raises, and `Unavailable` if the file does not answer in time."""
        if self._closed:
            raise Unavailable("the store was closed")
        answer: asyncio.Future[_T] = self._loop.create_future()
        self._queue.put(_Job(query, answer))
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError as error:
            if answer.done() and not answer.cancelled():
                # It was there in time, and this event loop too busy to hear of it.
                return answer.result()
            raise Unavailable(f"the store in {self._home.path} did not answer within {seconds:g} s") from error

    def refuse(self) -> None:
        """Let everything from now on, and what waits, raise `Unavailable`. Called in the event loop before `stop`."""
        with self._state:
            self._closed = True

    def stop(self, seconds: float) -> None:
        """Interrupt what runs and close the connections. Not to be called in the event loop."""
        self.refuse()
        for _ in range(_THREADS):
            self._queue.put(None)
        with self._state:
            for connection in self._busy:
                connection.interrupt()
            for connection in self._idle:
                connection.close()
            self._idle.clear()
            self._state.wait_for(lambda: not self._busy, seconds)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            self._serve(job)
            del job  # a listing may be large, and the next question far away

    def _serve(self, job: _Job) -> None:
        if job.answer.cancelled():
            return  # nobody wants to know any more
        try:
            self._answered.append((job.answer, self._query(job.query), None))
        except Exception as error:  # not hidden: the caller gets it, and the thread lives on
            self._answered.append((job.answer, None, error))
        # The loop takes it back before it looks: what is too late for that look tells again.
        if not self._told:
            self._told = True
            with contextlib.suppress(RuntimeError):  # the loop has ended, and every caller with it
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._told = False
        while self._answered:
            answer, result, error = self._answered.popleft()
            if answer.done():
                continue
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

    def _query(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        self._home.check()
        connection = self._take()
        healthy = True
        try:
            with translated(self._home.path):
                try:
                    return query(connection)
                except sqlite3.Error:
                    healthy = False
                    raise
        finally:
            self._give(connection, healthy)

    def _take(self) -> sqlite3.Connection:
        with self._state:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = connect(self._home.path)
        with self._state:
            if not self._closed:
                self._busy.add(connection)
                return connection
        connection.close()
        raise Unavailable("the store was closed")

    def _give(self, connection: sqlite3.Connection, healthy: bool) -> None:
        with self._state:
            # Off the list before it is closed: `stop` interrupts only what is on it.
            self._busy.discard(connection)
            if healthy and not self._closed:
                self._idle.append(connection)
            else:
                connection.close()
            self._state.notify_all()
