"""The threads that read, each with a connection of its own: readers wait neither for the writer nor for each other."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from peerload.errors import Unavailable
from peerload.store.sqlite.home import Home
from peerload.store.sqlite.layout import connect, translated

__all__ = ["Readers"]

_THREADS: Final = 4

_T = TypeVar("_T")


class Readers:
    """Runs queries for one event loop."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="sqlite reader")
        self._idle: list[sqlite3.Connection] = []
        self._busy: set[sqlite3.Connection] = set()
        self._state = threading.Condition()
        self._closed = False

    async def run(self, query: Callable[[sqlite3.Connection], _T], seconds: float) -> _T:
        """The query's answer. Raises what it raises, and `Unavailable` if the file does not answer in time."""
        if self._closed:
            raise Unavailable("the store was closed")
        answer = asyncio.get_running_loop().run_in_executor(self._pool, self._query, query)
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
        self._pool.shutdown(wait=False)
        with self._state:
            for connection in self._busy:
                connection.interrupt()
            for connection in self._idle:
                connection.close()
            self._idle.clear()
            self._state.wait_for(lambda: not self._busy, seconds)

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
