"""The store over Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import structlog

from peerload.clock import Clock
from peerload.errors import Compacted, Conflict, InvalidArgument, NotFound, Unavailable
from peerload.finding import Finding, Level
from peerload.store.base import (
    ABSENT,
    ANY,
    KEEP,
    Any,
    Beat,
    Change,
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
from peerload.store.redis import checks, examination
from peerload.store.redis.layout import LAYOUT, Keys, load_text, read_entry, read_position, write_position
from peerload.store.redis.link import Command, Link, Replies
from peerload.store.redis.place import RedisPlace
from peerload.store.redis.poller import Poller
from peerload.store.redis.pool import CALL_SECONDS, Pool, checked
from peerload.store.redis.reading import Reading
from peerload.store.redis.route import route_to
from peerload.store.redis.scripts import script
from peerload.store.redis.trouble import NewerLayout
from peerload.store.servertime import Measured, ServerTime
from peerload.store.values import check_beat, check_blob, check_key, check_prefix, encode_value
from peerload.store.wakeups import Wakeups

__all__ = ["RedisStore"]

_SLOW_BYTES: Final = 10_000_000
"""Bytes a second that the slowest network worth waiting for carries."""
_LIST_ATTEMPTS: Final = 3
_REPLICAS_MS: Final = 1_000
"""How long a write waits for replicas."""
_MEASURE_SECONDS: Final = 2.0
_MEASUREMENTS: Final = 10
_EXACT_MS: Final = 0.2
_COMMON_DOUBT_MS: Final = 0.5
_OLD_SECONDS: Final = 0.5
_BLOB_SECONDS: Final = 30.0
_TOUCHES: Final = {"a": Touched.APPLIED, "o": Touched.OLDER, "m": Touched.MISSING, "c": Touched.CHANGED}

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an open store consists of."""

    pool: Pool
    poller: Poller
    wakeups: Wakeups
    timekeeper: asyncio.Task[None]


class RedisStore:
    """A `Store` in a Redis that any number of servers share.

    Opening a store that is open does nothing; a closed one may be opened again. How durable a write is, Redis's own
    settings say; `min_replicas` in the URL lets it also wait for replicas.
    """

    def __init__(self, url: str | RedisPlace, clock: Clock) -> None:
        """Raises `InvalidArgument` for a URL that cannot be read."""
        self._place = RedisPlace.parse(url) if isinstance(url, str) else url
        self._keys = Keys(self._place)
        self._reading = Reading(self._place)
        self._clock = clock
        self._time = ServerTime(clock, "Redis", common_doubt_ms=_COMMON_DOUBT_MS)
        self._parts: _Parts | None = None
        self._opening = asyncio.Lock()
        # The latest revision seen anywhere: a primary that has lost some must not use them again.
        self._seen = 0

    @property
    def url(self) -> str:
        return self._place.shown

    @property
    def pace(self) -> float:
        return 0.0

    async def open(self) -> None:
        async with self._opening:
            if self._parts is not None:
                return
            route = route_to(self._place)
            pool = Pool(route)
            try:
                facts = await pool.run(checks.inspect)
                await self._position(pool)
                self._time.begin(await pool.run(self._measure))
            except NewerLayout as error:
                pool.close()
                raise InvalidArgument("store", str(error)) from error
            except BaseException:
                pool.close()
                raise
            for finding in facts.findings():
                if finding.level is not Level.OK:
                    _log.warning(str(finding), store=self.url)
            wakeups = Wakeups(self._clock, lambda: None)
            poller = Poller(route_to(self._place), self._keys.feed, lambda: wakeups.wanted, wakeups.ring)
            timekeeper = asyncio.create_task(self._keep_time(pool), name="redis time")
            self._parts = _Parts(pool, poller, wakeups, timekeeper)

    async def close(self) -> None:
        parts, self._parts = self._parts, None
        if parts is None:
            return
        parts.pool.close()
        parts.timekeeper.cancel()
        await parts.wakeups.stop()
        await parts.poller.stop()
        await asyncio.wait([parts.timekeeper])

    def now(self) -> int:
        return self._time.now()

    @property
    def doubt_ms(self) -> float:
        return self._time.doubt_ms

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
        text = encode_value(value)
        outcome, revision, *generation = await self._write(
            "put",
            (*self._keys.common, self._keys.blob(key)),
            secrets.token_hex(6),
            self._seen,
            key,
            text,
            "any" if isinstance(expect, Any) else "absent" if expect is ABSENT else str(expect),
            "" if beat is None else beat.stamp,
            "" if beat is None else load_text(beat),
            *(() if isinstance(blob, Keep) else (blob,)),
            seconds=CALL_SECONDS + (len(text) + (0 if isinstance(blob, Keep) else len(blob))) / _SLOW_BYTES,
        )
        if outcome == b"conflict":
            raise Conflict(key, int(revision) if revision else None)
        self._saw(int(revision))
        return Written(int(revision), int(generation[0]))

    async def touch(self, touches: Sequence[Touch]) -> list[Touched]:
        parts = self._open_parts()
        flat: list[str] = []
        for touch in touches:
            check_beat(touch.beat)
            flat += (
                check_key(touch.key),
                str(touch.generation),
                str(touch.beat.stamp),
                load_text(touch.beat),
                "" if touch.revision is None else str(touch.revision),
            )
        if not flat:
            return []
        text = json.dumps(flat, ensure_ascii=False, separators=(",", ":"))
        (answer,) = await self._run(
            parts.pool, "touch", self._seen, text, seconds=CALL_SECONDS + len(text) / _SLOW_BYTES
        )
        parts.wakeups.ring()
        return [_TOUCHES[letter] for letter in answer.decode()]

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        (found,) = await self._run(self._open_parts().pool, "get", key)
        return read_entry(key.encode(), *found) if found else None

    async def blob(self, key: str, generation: int) -> bytes:
        check_key(key)
        beat: Command = ("HGET", self._keys.beats, key)
        name = self._keys.blob(key)

        async def work(link: Link) -> tuple[bytes | None, bytes | None, bytes | None]:
            # The generation is asked before and after: if both are the one wanted, so is what came in between.
            await link.send([beat, ("STRLEN", name), ("GET", name), beat])
            async with asyncio.timeout(CALL_SECONDS) as deadline:
                before, size = checked(link, await link.receive(2))
                deadline.reschedule(asyncio.get_running_loop().time() + CALL_SECONDS + size / _SLOW_BYTES)
                data, after = checked(link, await link.receive(2))
            return before, data, after

        before, data, after = await self._open_parts().pool.run(work, _BLOB_SECONDS)
        wanted = str(generation).encode()
        if data is None or any(held is None or held.partition(b" ")[0] != wanted for held in (before, after)):
            raise NotFound(f"entry {key!r} has no blob of generation {generation}")
        return data

    async def delete(
        self, key: str, *, expect: int | Literal[Any.ANY] = ANY, unless_beaten_since: int | None = None
    ) -> int:
        check_key(key)
        outcome, revision = await self._write(
            "delete",
            (*self._keys.common, self._keys.blob(key)),
            self._seen,
            key,
            "any" if isinstance(expect, Any) else str(expect),
            "" if unless_beaten_since is None else str(unless_beaten_since),
        )
        if outcome == b"conflict":
            raise Conflict(key, int(revision) if revision else None)
        self._saw(int(revision))
        return int(revision)

    async def list(self, prefix: str = "") -> Listing:
        for _ in range(_LIST_ATTEMPTS):
            try:
                parts = [part async for part in self.pages(prefix)]
            except Compacted:
                continue
            return Listing(tuple(entry for part in parts for entry in part.entries), parts[0].position)
        raise Unavailable("Redis is emptied over and over while it is listed")

    async def pages(self, prefix: str = "") -> AsyncGenerator[Listing, None]:
        check_prefix(prefix)
        pool = self._open_parts().pool
        epoch, last = await self._position(pool)
        async with contextlib.aclosing(self._reading.pages(pool, prefix.encode(), epoch)) as parts:
            async for entries in parts:
                yield Listing(entries, write_position(epoch, last))

    async def watch(self, position: Position, prefix: str = "") -> AsyncGenerator[Feed, None]:
        check_prefix(prefix)
        parts = self._open_parts()
        epoch, seen = read_position(position)
        with parts.wakeups.listen() as listener:
            while True:
                asked = self._clock.monotonic()
                changes, seen, more = await self._reading.feed(parts.pool, epoch, seen)
                self._saw(seen)
                parts.poller.seen(seen)
                if prefix:
                    changes = tuple(change for change in changes if _key(change).startswith(prefix))
                if not changes and self._clock.monotonic() - asked > _OLD_SECONDS:
                    continue  # this process was stopped while the answer was on its way: "nothing new" is old news
                if changes or listener.due:
                    listener.due = False
                    yield Feed(changes, write_position(epoch, seen))
                if not more:
                    await listener.wait()

    async def examine(self) -> AsyncGenerator[Finding, None]:
        async with contextlib.aclosing(examination.examine(self._place, LAYOUT)) as found:
            async for finding in found:
                yield finding

    @contextlib.asynccontextmanager
    async def rehearsal(self) -> AsyncIterator[Store]:
        # A room of its own in the namespace: neither servers nor their feed hear of it, and all of it can be removed.
        place = replace(self._place, room=f"doctor-{secrets.token_hex(6)}:")
        async with examination.removed_after(place):
            store = RedisStore(place, self._clock)
            try:
                await store.open()
                yield store
            finally:
                await store.close()

    async def _position(self, pool: Pool) -> tuple[str, int]:
        """The epoch and the last revision; begins the feed where there is none."""
        ((epoch, last),) = await self._run(pool, "position", secrets.token_hex(6))
        self._saw(int(last))
        return epoch.decode(), int(last)

    async def _run(
        self, pool: Pool, name: str, *arguments: str | bytes | int, seconds: float = CALL_SECONDS
    ) -> Replies:
        """Run a script that may be run twice."""
        return await pool.run(lambda link: script(name).run(link, self._keys.common, *arguments), seconds)

    async def _write(
        self,
        name: str,
        keys: tuple[str, ...],
        *arguments: str | bytes | int,
        seconds: float = CALL_SECONDS,
    ) -> Replies:
        """Run a script that must be kept; with `min_replicas`, by so many replicas too."""
        wanted = self._place.min_replicas
        wait: Command | None = ("WAIT", wanted, _REPLICAS_MS) if wanted else None
        parts = self._open_parts()
        answer, *rest = await parts.pool.run(
            lambda link: script(name).run(link, keys, *arguments, then=wait), seconds, harmless=False
        )
        parts.wakeups.ring()  # whoever waits to see it need not wait for the poller
        if rest and rest[0] < wanted and answer[0] == b"ok":
            self._saw(int(answer[1]))
            raise Unavailable(
                f"only {rest[0]} of the {wanted} replicas that min_replicas asks for have the write so far; repeat it"
            )
        written: Replies = answer
        return written

    async def _measure(self, link: Link) -> Measured:
        """Redis's time, as exactly as a few tries can tell: what servers do at nearly the same moment is put in order
        by their stamps, and the first answer often comes late."""
        ahead_ms, doubt_ms = 0.0, math.inf
        for _ in range(_MEASUREMENTS):
            asked = self._clock.monotonic()
            (answer,) = checked(link, await link.ask(("TIME",)))
            heard = self._clock.monotonic()
            # It was read in between; who knows when.
            if (heard - asked) * 500.0 < doubt_ms:
                doubt_ms = (heard - asked) * 500.0
                ahead_ms = int(answer[0]) * 1_000 + int(answer[1]) / 1_000 - (asked + heard) * 500.0
            if doubt_ms <= _EXACT_MS:
                break
        return Measured(ahead_ms + self._clock.monotonic() * 1_000.0, doubt_ms)

    async def _keep_time(self, pool: Pool) -> None:
        while True:
            await self._clock.sleep(_MEASURE_SECONDS)
            try:
                self._time.compare(await pool.run(self._measure))
            except Unavailable:
                continue  # the calls that matter say so

    def _saw(self, revision: int) -> None:
        self._seen = max(self._seen, revision)

    def _open_parts(self) -> _Parts:
        if self._parts is None:
            raise Unavailable("the store is not open")
        return self._parts


def _key(change: Change) -> str:
    return change.entry.key if isinstance(change, Put) else change.key
