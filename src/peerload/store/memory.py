"""The reference store: everything in this process, gone with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Final, Literal

from peerload.clock import Clock
from peerload.errors import Compacted, Conflict, NotFound, Unavailable
from peerload.finding import Finding, Level
from peerload.store.base import (
    ABSENT,
    ANY,
    KEEP,
    Any,
    Beat,
    Beaten,
    Change,
    Deleted,
    Entry,
    Expect,
    Feed,
    Keep,
    Listing,
    Position,
    Put,
    Store,
    Touch,
    Touched,
    Value,
    Written,
)
from peerload.store.hosttime import HostTime
from peerload.store.values import check_beat, check_blob, check_key, check_prefix, encode_value
from peerload.store.wakeups import Wakeups

__all__ = ["FEED_LIMIT", "MemoryStore"]

FEED_LIMIT: Final = 100_000
"""Changes that the feed reaches back."""

_FEED_BATCH: Final = 1_000


class MemoryStore:
    """A `Store` in this process's memory, used from one event loop.

    Several servers in one process may share one instance: it is open from the first `open` to as many `close` calls as
    there were `open` calls, and what it holds stays for whoever opens it next.
    """

    def __init__(self, clock: Clock, *, feed_limit: int = FEED_LIMIT) -> None:
        self._clock = clock
        self._time = HostTime(clock)
        self._entries: dict[str, Entry] = {}
        self._blobs: dict[str, bytes] = {}
        # Starting from the time in microseconds, a later store never repeats an earlier one's revisions.
        self._last = clock.wall_ms() * 1_000
        # Feed item i is number _floor + 1 + i; one item is one put, one delete or one batch of touches.
        self._feed: deque[tuple[Change, ...]] = deque()
        self._floor = self._last
        self._feed_changes = 0
        self._feed_limit = feed_limit
        self._epoch = secrets.token_hex(4)
        self._opened = 0
        self._wakeups: Wakeups | None = None

    @property
    def url(self) -> str:
        return "memory:"

    @property
    def pace(self) -> float:
        return 0.0

    async def open(self) -> None:
        self._opened += 1
        if self._wakeups is None:
            self._wakeups = Wakeups(self._clock, self._time.check)

    async def close(self) -> None:
        self._opened = max(0, self._opened - 1)
        if self._opened == 0 and self._wakeups is not None:
            wakeups, self._wakeups = self._wakeups, None
            await wakeups.stop()

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
        kept: Value = json.loads(encode_value(value))
        await self._turn()
        held = self._entries.get(key)
        if (expect is ABSENT and held is not None) or (
            isinstance(expect, int) and (held is None or held.revision != expect)
        ):
            raise Conflict(key, None if held is None else held.revision)
        revision = self._last + 1
        if isinstance(blob, Keep):
            entry = Entry(
                key=key,
                value=kept,
                revision=revision,
                generation=revision if held is None else held.generation,
                beat=beat if held is None else _later(held.beat, beat),
                blob_size=None if held is None else held.blob_size,
            )
        else:
            entry = Entry(key, kept, revision, revision, beat, len(blob))
            self._blobs[key] = bytes(blob)
        self._entries[key] = entry
        self._append((Put(entry),))
        return Written(entry.revision, entry.generation)

    async def touch(self, touches: Sequence[Touch]) -> list[Touched]:
        batch = tuple(touches)
        for touch in batch:
            check_key(touch.key)
            check_beat(touch.beat)
        await self._turn()
        answers: list[Touched] = []
        beaten: dict[str, Beaten] = {}
        for touch in batch:
            held = self._entries.get(touch.key)
            if held is None or held.generation != touch.generation:
                answers.append(Touched.MISSING)
                continue
            changed = touch.revision is not None and touch.revision != held.revision
            if held.beat is not None and held.beat.stamp >= touch.beat.stamp:
                answers.append(Touched.CHANGED if changed else Touched.OLDER)
            else:
                self._entries[touch.key] = Entry(
                    held.key, held.value, held.revision, held.generation, touch.beat, held.blob_size
                )
                beaten[touch.key] = Beaten(touch.key, touch.generation, touch.beat)
                answers.append(Touched.CHANGED if changed else Touched.APPLIED)
        if beaten:
            self._append(tuple(beaten.values()))
        return answers

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        await self._turn()
        return self._entries.get(key)

    async def blob(self, key: str, generation: int) -> bytes:
        check_key(key)
        await self._turn()
        held = self._entries.get(key)
        if held is None or held.generation != generation or held.blob_size is None:
            raise NotFound(f"entry {key!r} has no blob of generation {generation}")
        return self._blobs[key]

    async def delete(
        self, key: str, *, expect: int | Literal[Any.ANY] = ANY, unless_beaten_since: int | None = None
    ) -> int:
        check_key(key)
        await self._turn()
        held = self._entries.get(key)
        if held is None:
            raise Conflict(key, None)
        late = unless_beaten_since is not None and held.beat is not None and held.beat.stamp > unless_beaten_since
        if late or (isinstance(expect, int) and held.revision != expect):
            raise Conflict(key, held.revision)
        del self._entries[key]
        self._blobs.pop(key, None)
        revision = self._last + 1
        self._append((Deleted(key, revision),))
        return revision

    async def list(self, prefix: str = "") -> Listing:
        check_prefix(prefix)
        await self._turn()
        keys = sorted(key for key in self._entries if key.startswith(prefix))
        return Listing(tuple(self._entries[key] for key in keys), self._position(self._last))

    async def watch(self, position: Position, prefix: str = "") -> AsyncGenerator[Feed, None]:
        check_prefix(prefix)
        await self._turn()
        wakeups = self._wakeups
        assert wakeups is not None
        seen = self._number(position)
        with wakeups.listen() as listener:
            while True:
                if self._wakeups is not wakeups:
                    raise Unavailable("the store was closed")
                if seen < self._floor:
                    raise Compacted("the feed no longer reaches back to the reader's position")
                end = min(self._last, seen + _FEED_BATCH)
                changes = tuple(
                    change
                    for number in range(seen + 1, end + 1)
                    for change in self._feed[number - self._floor - 1]
                    if _key(change).startswith(prefix)
                )
                seen = end
                if changes or listener.due:
                    listener.due = False
                    yield Feed(changes, self._position(seen))
                if seen == self._last:
                    await listener.wait()

    async def examine(self) -> AsyncGenerator[Finding, None]:
        yield Finding(
            Level.WARNING,
            "a store in memory is one server's own, and its restart loses every source until its worker publishes again",
            "choose sqlite:PATH to keep them, or redis://HOST or kubernetes:NAMESPACE to share them too",
        )

    @contextlib.asynccontextmanager
    async def rehearsal(self) -> AsyncIterator[Store]:
        store = MemoryStore(self._clock)
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    async def _turn(self) -> None:
        """Let others run first, as every store that asks somebody else does; a cancelled call has done nothing."""
        await asyncio.sleep(0)
        if self._wakeups is None:
            raise Unavailable("the store is not open")

    def _append(self, changes: tuple[Change, ...]) -> None:
        self._last += 1
        self._feed.append(changes)
        self._feed_changes += len(changes)
        while self._feed_changes > self._feed_limit and len(self._feed) > 1:
            self._feed_changes -= len(self._feed.popleft())
            self._floor += 1
        if self._wakeups is not None:
            self._wakeups.ring()

    def _position(self, number: int) -> Position:
        return Position(f"{self._epoch}.{number}")

    def _number(self, position: Position) -> int:
        epoch, _, number = position.partition(".")
        if epoch != self._epoch or not number.isdecimal() or len(number) > 20 or int(number) > self._last:
            raise Compacted("the position is not one of this store's feed")
        return int(number)


def _later(held: Beat | None, given: Beat | None) -> Beat | None:
    if held is None or given is None:
        return held or given
    return given if given.stamp > held.stamp else held


def _key(change: Change) -> str:
    return change.entry.key if isinstance(change, Put) else change.key
