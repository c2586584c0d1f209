"""The store over one SQLite file: hands work to the writer and the readers, and keeps no state of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any as AnyType
from typing import Final, Literal

import structlog

from peerload.clock import Clock
from peerload.errors import Unavailable
from peerload.finding import Finding
from peerload.store.base import (
    ANY,
    KEEP,
    Any,
    Beat,
    Entry,
    Expect,
    Feed,
    Keep,
    Listing,
    Position,
    Store,
    Touch,
    Touched,
    Value,
    Written,
)
from peerload.store.hosttime import HostTime
from peerload.store.sqlite import queries
from peerload.store.sqlite.agreement import Agreement
from peerload.store.sqlite.changes import Change, DeleteChange, PutChange, TouchChange
from peerload.store.sqlite.examination import existing_folder, look
from peerload.store.sqlite.home import Home
from peerload.store.sqlite.layout import prepare
from peerload.store.sqlite.poller import Poller
from peerload.store.sqlite.readers import Readers
from peerload.store.sqlite.writer import Writer
from peerload.store.values import check_beat, check_blob, check_key, check_prefix, encode_value
from peerload.store.wakeups import Wakeups

__all__ = ["FEED_SECONDS", "SqliteStore"]

FEED_SECONDS: Final = 150.0
"""How far back in time the feed reaches, at least."""

_CALL_SECONDS: Final = 5.0
"""After this a small call gives up; large ones get more in proportion to their bytes."""
_BULK_SECONDS: Final = 30.0
_OPEN_SECONDS: Final = 15.0
_STOP_SECONDS: Final = 5.0
_SLOW_DISK_BYTES: Final = 10_000_000
"""Bytes a second that the slowest disk worth waiting for writes."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an open store consists of."""

    writer: Writer
    readers: Readers
    poller: Poller
    wakeups: Wakeups
    agreement: Agreement


class SqliteStore:
    """A `Store` in one SQLite file on this machine's own disk.

    Any number of stores, in one process or several, may have the same file open. Nothing needs repair after a process
    was killed. Opening a store that is open does nothing; a closed one may be opened again.
    """

    def __init__(self, path: str | os.PathLike[str], clock: Clock, *, feed_seconds: float = FEED_SECONDS) -> None:
        self._home = Home(path)
        self._clock = clock
        self._time = HostTime(clock)
        self._keep_ms = round(feed_seconds * 1_000)
        self._parts: _Parts | None = None
        self._waiting_bytes = 0
        self._opening = asyncio.Lock()

    @property
    def url(self) -> str:
        return f"sqlite:{self._home.path}"

    @property
    def pace(self) -> float:
        return 0.0

    async def open(self) -> None:
        async with self._opening:
            if self._parts is not None:
                return
            home = Home(self._home.path)  # a fresh look at which file it is
            wall_ms = self._clock.wall_ms()
            ahead_ms = HostTime(self._clock).ahead_ms
            try:
                async with asyncio.timeout(_OPEN_SECONDS):
                    agreement = await asyncio.to_thread(_prepare, home, wall_ms, ahead_ms)
            except TimeoutError as error:
                raise Unavailable(f"{home.path} could not be opened within {_OPEN_SECONDS:g} s") from error
            self._home = home
            self._time = HostTime(self._clock, agreement.ahead_ms)
            wakeups = Wakeups(self._clock, self._time.check)
            writer = Writer(home, self._clock, self.now, self._keep_ms, wakeups.ring)
            poller = Poller(home, lambda: wakeups.wanted, lambda: writer.written, wakeups.ring)
            self._parts = _Parts(writer, Readers(home), poller, wakeups, agreement)

    async def close(self) -> None:
        parts, self._parts = self._parts, None
        if parts is None:
            return
        parts.readers.refuse()
        await parts.wakeups.stop()
        await asyncio.to_thread(_stop, parts)

    def now(self) -> int:
        return self._time.now()

    @property
    def doubt_ms(self) -> float:
        return 0.0

    async def put(
        self,
        key: str,
        value: Value,
        *,
        blob: bytes | Keep = KEEP,
        expect: Expect = ANY,
        beat: Beat | None = None,
    ) -> Written:
        check_key(key)
        check_blob(blob)
        check_beat(beat)
        written: Written = await self._write(PutChange(key, encode_value(value), blob, expect, beat))
        return written

    async def touch(self, touches: Sequence[Touch]) -> list[Touched]:
        answers: list[Touched] = await self._write(TouchChange(tuple(touches)))
        return answers

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        return await self._open_parts().readers.run(functools.partial(queries.find_entry, key=key), _CALL_SECONDS)

    async def blob(self, key: str, generation: int) -> bytes:
        check_key(key)
        query = functools.partial(queries.find_blob, key=key, generation=generation)
        return await self._open_parts().readers.run(query, _BULK_SECONDS)

    async def delete(
        self, key: str, *, expect: int | Literal[Any.ANY] = ANY, unless_beaten_since: int | None = None
    ) -> int:
        check_key(key)
        revision: int = await self._write(DeleteChange(key, expect, unless_beaten_since))
        return revision

    async def list(self, prefix: str = "") -> Listing:
        query = functools.partial(queries.list_entries, prefix=check_prefix(prefix))
        return await self._open_parts().readers.run(query, _BULK_SECONDS)

    async def pages(self, prefix: str = "") -> AsyncGenerator[Listing, None]:
        start: str | None = check_prefix(prefix)
        position: Position | None = None
        while start is not None:
            query = functools.partial(queries.list_page, prefix=prefix, start=start, rows=queries.PAGE_ROWS)
            page = await self._open_parts().readers.run(query, _CALL_SECONDS)
            position, start = position or page.listing.position, page.more
            yield Listing(page.listing.entries, position)

    async def watch(self, position: Position, prefix: str = "") -> AsyncGenerator[Feed, None]:
        check_prefix(prefix)
        parts = self._open_parts()
        with parts.wakeups.listen() as listener:
            while True:
                # The reader decides when the next batch is read, so a slow one holds one batch at most.
                query = functools.partial(queries.read_feed, position=position, prefix=prefix)
                batch = await parts.readers.run(query, _CALL_SECONDS)
                position = batch.position
                if batch.changes or listener.due:
                    listener.due = False
                    yield Feed(batch.changes, position)
                if not batch.more:
                    await listener.wait()

    async def examine(self) -> AsyncGenerator[Finding, None]:
        for finding in await asyncio.to_thread(lambda: [*look(self._home, self._clock.wall_ms())]):
            yield finding

    @contextlib.asynccontextmanager
    async def rehearsal(self) -> AsyncIterator[Store]:
        # In a folder of its own beside the file: a file made here and now might belong to another user than the
        # server's, and could not be taken back once a server has found it.
        try:
            beside = existing_folder(self._home.path)
            folder = tempfile.TemporaryDirectory(prefix=".peerload-doctor-", dir=beside)
        except OSError as error:
            raise Unavailable(f"cannot make a folder beside {self._home.path}: {error.strerror}") from error
        with folder as name:
            store = SqliteStore(os.path.join(name, self._home.path.name), self._clock)  # noqa: PTH118
            try:
                await store.open()
                yield store
            finally:
                await store.close()

    def _open_parts(self) -> _Parts:
        if self._parts is None:
            raise Unavailable("the store is not open")
        return self._parts

    async def _write(self, change: Change) -> AnyType:
        writer = self._open_parts().writer
        self._waiting_bytes += change.size
        seconds = _CALL_SECONDS + self._waiting_bytes / _SLOW_DISK_BYTES
        answer = writer.submit(change)
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError as error:
            if answer.done() and not answer.cancelled():
                # It was written in time, and this event loop too busy to hear of it.
                return answer.result()
            raise Unavailable(f"the disk of {self._home.path} did not take a write within {seconds:.0f} s") from error
        finally:
            self._waiting_bytes -= change.size


def _prepare(home: Home, wall_ms: int, ahead_ms: float) -> Agreement:
    home.prepare()
    prepare(home.path, wall_ms)
    home.settle()
    return Agreement(home.path, ahead_ms)


def _stop(parts: _Parts) -> None:
    deadline = time.monotonic() + _STOP_SECONDS
    parts.poller.stop(1.0)
    parts.readers.stop(2.0)
    # Last, because it folds the write-ahead log into the file, which only succeeds when nobody reads.
    if not parts.writer.stop(max(1.0, deadline - time.monotonic())):
        _log.warning("a write did not end; its thread is left behind")
    parts.agreement.close()
