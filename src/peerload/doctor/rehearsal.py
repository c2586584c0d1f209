"""Every verb of a store, round after round, under a key that no server reads: does it work, and how fast?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import statistics
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Final, TypeVar

from peerload.clock import Clock
from peerload.errors import Conflict, Damaged, PeerloadError, Unavailable
from peerload.finding import Finding, Level
from peerload.store.base import ABSENT, Beat, Beaten, Change, Deleted, Feed, Put, Store, Touch, Touched

__all__ = ["PREFIX", "rehearse"]

PREFIX: Final = "doctor/"
"""Servers take no key that begins so for a source's or a server's."""

_ROUNDS: Final = 24
_BLOB_BYTES: Final = 64 * 1024
"""About a compressed manifest of some thousand tensors."""
_HEARD_SECONDS: Final = 5.0
"""A feed that says nothing of a write for so long has lost it."""

_READ_MS: Final = 20.0
"""A median beyond this is another region, or a store that is busy with something else."""
_WORST_READ_MS: Final = 500.0
"""A third of what a small call waits for Redis before it gives up."""
_WRITE_MS: Final = 100.0
_WORST_WRITE_MS: Final = 1_000.0
_SKEW_MS: Final = 5_000
"""What servers warn of, too."""

_T = TypeVar("_T")


async def rehearse(store: Store, clock: Clock) -> list[Finding]:
    """Write to an open store and read it back; what that shows. Removes what it wrote, cancelled or not.

    Raises what the store raises, and `Damaged` where it does not give back what it was given.
    """
    trial = _Trial(store, clock)
    position = (await store.list(trial.key)).position
    try:
        async with contextlib.aclosing(store.watch(position, trial.key)) as feeds:
            for _ in range(_ROUNDS):
                await trial.run(feeds)
    finally:
        await trial.remove()
    return [
        Finding(Level.OK, f"{_ROUNDS} rounds of put, get, blob, touch, delete and the feed of changes went through"),
        _pace(
            "a read",
            trial.reads,
            (_READ_MS, _WORST_READ_MS),
            "every negative answer waits for one",
            "run servers and store in one zone, and see what else keeps the store or the way to it busy",
        ),
        _pace(
            "a durable write",
            trial.writes,
            (_WRITE_MS, _WORST_WRITE_MS),
            "every publish and every change of status waits for one",
            "give the store a faster disk, or one that it does not share",
        ),
        _clocks(clock.wall_ms() - store.now()),
    ]


class _Trial:
    """The rounds, and how long their calls took, in seconds."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.key = PREFIX + secrets.token_hex(8)
        self.reads: list[float] = []
        self.writes: list[float] = []
        self._written = False

    async def run(self, feeds: AsyncGenerator[Feed, None]) -> None:
        """One round: an entry is written, read, beaten and deleted, and the feed tells of it."""
        store, key = self._store, self.key
        blob = os.urandom(_BLOB_BYTES)
        stamp = store.now()
        self._written = True
        start = self._clock.monotonic()
        written = await _to_its_end(store.put(key, {"by": "doctor"}, blob=blob, expect=ABSENT, beat=Beat(stamp)))
        self.writes.append(self._clock.monotonic() - start)
        await _heard(feeds, lambda each: isinstance(each, Put) and each.entry.revision == written.revision)

        start = self._clock.monotonic()
        entry = await store.get(key)
        self.reads.append(self._clock.monotonic() - start)
        if entry is None or entry.revision != written.revision or entry.value != {"by": "doctor"}:
            raise Damaged("an entry was written and acknowledged, and another came back")
        if await store.blob(key, written.generation) != blob:
            raise Damaged("a blob was written and acknowledged, and another came back")

        (touched,) = await _to_its_end(store.touch([Touch(key, written.generation, Beat(stamp + 1))]))
        if touched is not Touched.APPLIED:
            raise Damaged(f"a heartbeat for an entry that is there was answered with {touched.value!r}")
        await _heard(feeds, lambda each: isinstance(each, Beaten) and each.beat.stamp == stamp + 1)

        revision = await _to_its_end(store.delete(key, expect=written.revision))
        self._written = False
        await _heard(feeds, lambda each: isinstance(each, Deleted) and each.revision == revision)

    async def remove(self) -> None:
        """Delete what an interrupted round has left. Raises `Unavailable` where that cannot be done."""
        if not self._written:
            return
        try:
            await self._store.delete(self.key)
        except Conflict:
            pass  # it never came to be
        except PeerloadError as error:
            raise Unavailable(f"the entry {self.key!r}, which no server reads, may be left behind ({error})") from error


async def _to_its_end(write: Coroutine[Any, Any, _T]) -> _T:
    """What a write comes to. Who is cancelled meanwhile waits for it: its deletion must not overtake it."""
    task = asyncio.ensure_future(write)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen: that we were cancelled matters more
        raise


async def _heard(feeds: AsyncGenerator[Feed, None], wanted: Callable[[Change], bool]) -> None:
    """Read on in the feed until it tells of a change."""
    try:
        async with asyncio.timeout(_HEARD_SECONDS):
            while not any(map(wanted, (await anext(feeds)).changes)):
                pass
    except (TimeoutError, StopAsyncIteration) as error:
        raise Unavailable(f"a change did not come through the feed within {_HEARD_SECONDS:g} s") from error


def _pace(call: str, seconds: list[float], bounds: tuple[float, float], why: str, advice: str) -> Finding:
    """What the times of one call mean, against the bounds in milliseconds of their median and of the worst."""
    median, most = 1_000 * statistics.median(seconds), 1_000 * max(seconds)
    what = f"{call} takes {_ms(median)} (median of {len(seconds)}; the worst {_ms(most)})"
    if median <= bounds[0] and most <= bounds[1]:
        return Finding(Level.OK, what)
    return Finding(Level.WARNING, f"{what}, and {why}", advice)


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms" if milliseconds < 9.95 else f"{milliseconds:.0f} ms"


def _clocks(ahead_ms: int) -> Finding:
    if abs(ahead_ms) <= _SKEW_MS:
        return Finding(Level.OK, f"the store's clock and this host's are {abs(ahead_ms) / 1_000:.1f} s apart")
    return Finding(
        Level.WARNING,
        f"this host's clock is {abs(ahead_ms) / 1_000:.1f} s {'ahead of' if ahead_ms > 0 else 'behind'} the store's;"
        " the store's counts, and the day when that is set right, heartbeats seem older or younger than they are",
        "set both by the same time servers (NTP)",
    )
