"""The one thread that writes. What waits for it goes into one transaction, so that many writers share a disk flush."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from peerload.clock import Clock
from peerload.errors import PeerloadError, Unavailable
from peerload.store.sqlite.changes import Change
from peerload.store.sqlite.home import Home
from peerload.store.sqlite.layout import WRITING_KIB, connect, transaction, translated
from peerload.store.sqlite.queries import last_row, trim_feed

__all__ = ["Writer"]

_MOST_CHANGES: Final = 1_024
_MOST_BYTES: Final = 32 * 1024 * 1024
_SYNC_SECONDS: Final = 0.5
"""Touches reach the disk this often."""
_TRIM_SECONDS: Final = 1.0
_KEPT_CONNECTION: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_LOCKED})

_log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class _Job:
    change: Change
    future: asyncio.Future[Any]
    outcome: Any = None
    error: Exception | None = field(default=None)


class Writer:
    """Takes changes from one event loop and applies them in its thread, in order of arrival.

    `on_commit` is called in the event loop after each transaction, when its callers have their answers.
    """

    def __init__(
        self,
        home: Home,
        clock: Clock,
        now: Callable[[], int],
        keep_ms: int,
        on_commit: Callable[[], None],
    ) -> None:
        self._home = home
        self._clock = clock
        self._now = now
        self._keep_ms = keep_ms
        self._on_commit = on_commit
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stopping = False
        self._connection: sqlite3.Connection | None = None
        self._synced_at = self._trimmed_at = clock.monotonic()
        self._unsynced = False
        self.written = 0
        """The log's last row when this last committed: `on_commit` is called after everything up to there. For any thread."""
        self._thread = threading.Thread(target=self._run, name="sqlite writer", daemon=True)
        self._thread.start()

    def submit(self, change: Change) -> asyncio.Future[Any]:
        """Hand a change over. Cancelling the future keeps the change from being applied, if it has not begun."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put(_Job(change, future))
        return future

    def stop(self, seconds: float) -> bool:
        """Refuse what waits, finish what has begun, flush, and end the thread; False if that takes longer. Not to be
        called in the event loop."""
        self._stopping = True
        self._queue.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            try:
                job = self._queue.get(timeout=_SYNC_SECONDS if self._unsynced else None)
            except queue.Empty:
                self._flush()
                continue
            jobs, ended = self._gather(job)
            if jobs:
                self._serve(jobs)
            if ended:
                break
        self._close()

    def _gather(self, job: _Job | None) -> tuple[list[_Job], bool]:
        jobs: list[_Job] = []
        size = 0
        while job is not None:
            jobs.append(job)
            size += job.change.size
            if len(jobs) >= _MOST_CHANGES or size >= _MOST_BYTES:
                return jobs, False
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return jobs, False
        return jobs, True

    def _serve(self, jobs: list[_Job]) -> None:
        # A caller that has gone does not want its change; one that goes from here on gets all of it or nothing.
        jobs = [job for job in jobs if not job.future.cancelled()]
        if not jobs:
            return
        if self._stopping:
            self._fail(jobs, Unavailable("the store was closed"))
        else:
            self._attempt(jobs)
        try:
            self._loop.call_soon_threadsafe(self._deliver, jobs)
        except RuntimeError:
            pass  # the loop has ended, and every caller with it

    def _attempt(self, jobs: list[_Job]) -> None:
        try:
            self._home.check()
            with translated(self._home.path):
                self._commit(jobs)
        except PeerloadError as error:
            cause = error.__cause__
            if isinstance(cause, sqlite3.Error):
                code = cause.sqlite_errorcode & 0xFF
                if code not in _KEPT_CONNECTION:
                    self._drop()
                if code == sqlite3.SQLITE_FULL and len(jobs) > 1:
                    for job in jobs:  # the large ones do not take the small ones with them
                        self._attempt([job])
                    return
            self._fail(jobs, error)
        except Exception as error:  # not hidden: every caller gets it, and the thread lives on
            _log.exception("a write failed in a way that was not foreseen")
            self._drop()
            self._fail(jobs, error)

    def _commit(self, jobs: list[_Job]) -> None:
        connection = self._connection
        if connection is None:
            connection = self._connection = connect(self._home.path, cache_kib=WRITING_KIB)
        moment = self._clock.monotonic()
        full = moment - self._synced_at >= _SYNC_SECONDS or any(job.change.durable for job in jobs)
        connection.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
        with transaction(connection, "IMMEDIATE"):
            now = self._now()
            for job in jobs:
                job.outcome = job.error = None
                try:
                    job.outcome = job.change.apply(connection, now)
                except PeerloadError as error:
                    job.error = error
            if moment - self._trimmed_at >= _TRIM_SECONDS:
                more = trim_feed(connection, now, self._keep_ms)
                trimmed_at = self._trimmed_at if more else moment
            else:
                trimmed_at = self._trimmed_at
            written = last_row(connection)
        self._trimmed_at, self.written = trimmed_at, written
        if full:
            # A full commit flushes the whole write-ahead log, the touches before it included.
            self._synced_at, self._unsynced = moment, False
        else:
            self._unsynced = True

    def _flush(self) -> None:
        self._unsynced = False
        if self._connection is not None:
            try:
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except sqlite3.Error as error:
                # Every touch was answered already; the next transaction meets the same disk and says so.
                _log.warning("could not flush heartbeats to disk", error=str(error))

    def _close(self) -> None:
        if self._connection is not None:
            try:
                self._connection.execute("PRAGMA busy_timeout=500")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.Error as error:
                # Nothing is lost: whoever opens the file next reads the write-ahead log.
                _log.warning("could not fold the write-ahead log into the file", error=str(error))
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @staticmethod
    def _fail(jobs: list[_Job], error: Exception) -> None:
        for job in jobs:
            job.outcome, job.error = None, error
            if isinstance(error, Unavailable) and len(jobs) > 1:
                job.error = Unavailable(str(error))  # one each: an exception gathers the tracebacks of all who raise it

    def _deliver(self, jobs: list[_Job]) -> None:
        for job in jobs:
            if job.future.done():
                continue
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.outcome)
        self._on_commit()
