"""Heartbeats on their way into the cluster.

A batch is one write of one object, which holds nothing but heartbeats and which no other server writes. So it is kept
whole or not at all, costs the API server the same however large the fleet is, and meets no conflict. A server has a few
such objects: the newest heartbeats go to one of them until it is full, and an object of which all heartbeats have been
followed by later ones is used again.

What became of a batch is judged when the server's own watch brings the object back: all that was written before it has
been seen by then, and nothing that was written after it.

Besides, `kubectl get` shall show when a source was last heard from. So heartbeats are also written into the records that
they are of: of everything that is not a source, and of a few sources a second. Only what is acknowledged because of the
former is waited for.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from peerload.clock import Clock
from peerload.errors import Unavailable
from peerload.kubernetes.trouble import Moved, NotThere, Outage
from peerload.store.base import Beat, Touch, Touched
from peerload.store.kubernetes.copies import Copies
from peerload.store.kubernetes.fence import Fence
from peerload.store.kubernetes.index import Index
from peerload.store.kubernetes.objects import Record, beat_patch
from peerload.store.kubernetes.records import Records
from peerload.store.kubernetes.reflector import Reflector
from peerload.store.kubernetes.resources import Resources
from peerload.store.kubernetes.segments import Segments
from peerload.store.kubernetes.several import each

__all__ = ["Heartbeats"]

_MOST_TOUCHES: Final = 8_000
"""Touches in one batch. Of one call with more each batch is kept whole or not at all."""
_ROUNDS: Final = 5
_ATTEMPTS: Final = 10
_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class _Call:
    touches: tuple[Touch, ...]
    answer: asyncio.Future[list[Touched]]


@dataclass(slots=True)
class _Batch:
    """Touches on their way, and what is known of what became of them."""

    touches: list[Touch]
    verdicts: list[Touched | None]
    """None: it was not written, but should have been."""
    written: dict[int, Beat]
    judged: asyncio.Future[None]
    marked: set[str] = field(default_factory=set)
    """Keys of records that somebody is about to delete unless they are beaten."""


class Heartbeats:
    """The touches of one server. `shares` says of a key whether its heartbeats may be kept in shared objects alone;
    `rate` is how many of those are still written into their records, a second and over all servers."""

    def __init__(
        self,
        resources: Resources,
        index: Index,
        records: Records,
        reflector: Reflector,
        fence: Fence,
        clock: Clock,
        token: str,
        *,
        shares: Callable[[str], bool],
        rate: float,
    ) -> None:
        self._index = index
        self._records = records
        self._reflector = reflector
        self._fence = fence
        self._shares = shares
        self._copies = Copies(index, records, clock, token, shares=shares, rate=rate)
        self._segments = Segments(resources, index, token)
        self._calls: list[_Call] = []
        self._coming = asyncio.Event()
        self._expected: tuple[str, _Batch] | None = None
        self._task: asyncio.Task[None] | None = None
        index.on_shared = self._came_back

    def open(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="kubernetes heartbeats")

    async def close(self) -> None:
        """End; whoever waits is told that the store is unavailable."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._copies.close()
        _fail(self._calls, Unavailable("the store was closed"))
        self._calls = []

    async def touch(self, touches: Sequence[Touch]) -> list[Touched]:
        """As `Store.touch`; everything is well-formed."""
        if len({touch.key for touch in touches}) == 1 and not self._shares(touches[0].key):
            return await self._alone(touches)
        call = _Call(tuple(touches), asyncio.get_running_loop().create_future())
        self._calls.append(call)
        self._coming.set()
        try:
            return await call.answer
        finally:
            if call in self._calls:  # of somebody who gave up before the batch began
                self._calls.remove(call)

    async def _run(self) -> None:
        while True:
            await self._coming.wait()
            self._coming.clear()
            while self._calls:
                calls = self._next_calls()
                batch = asyncio.ensure_future(self._store_all([touch for call in calls for touch in call.touches]))
                try:
                    await asyncio.wait([batch])
                except asyncio.CancelledError:
                    batch.cancel()
                    await asyncio.wait([batch])
                    _fail(calls, Unavailable("the store was closed"))
                    raise
                error = batch.exception()
                if error is not None:
                    _fail(calls, error)
                    continue
                verdicts = iter(batch.result())
                for call in calls:
                    answer = [next(verdicts) for _ in call.touches]
                    if not call.answer.done():
                        call.answer.set_result(answer)

    def _next_calls(self) -> list[_Call]:
        calls: list[_Call] = []
        count = 0
        while self._calls and (not calls or count + len(self._calls[0].touches) <= _MOST_TOUCHES):
            calls.append(self._calls.pop(0))
            count += len(calls[-1].touches)
        return calls

    async def _store_all(self, touches: list[Touch]) -> list[Touched]:
        verdicts: list[Touched] = []
        for start in range(0, len(touches), _MOST_TOUCHES):
            verdicts += await self._store(touches[start : start + _MOST_TOUCHES])
        return verdicts

    async def _store(self, touches: list[Touch]) -> list[Touched]:
        verdicts: list[Touched | None] = [None] * len(touches)
        for _ in range(_ROUNDS):
            # A record may be newer than what this server has seen of it: then it is there the second time.
            open_ones = [number for number, verdict in enumerate(verdicts) if verdict is None]
            if not open_ones:
                break
            for number, verdict in zip(open_ones, await self._write([touches[n] for n in open_ones]), strict=True):
                verdicts[number] = verdict
        if any(verdict is None for verdict in verdicts):
            raise Unavailable("the records are written anew over and over; try again")
        return [verdict for verdict in verdicts if verdict is not None]

    async def _write(self, touches: list[Touch]) -> list[Touched | None]:
        """Write what is known to be later than what is held, and judge all of them."""
        judged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        batch = _Batch(touches, [], self._later_ones(touches), judged)
        if not batch.written:
            await self._fence.passed()
            self._judge(batch)
            return batch.verdicts
        write = secrets.token_hex(8)
        self._expected = (write, batch)
        try:
            try:
                version = await self._segments.write(batch.written, write)
            except Outage as error:
                if not error.ambiguous:
                    raise
                await self._told(judged, error)
            else:
                await self._reflector.reached(version)
                if not judged.done():
                    raise Unavailable("somebody else has written this server's heartbeats")
        finally:
            self._expected = None
        await self._write_directly(batch)
        self._copies.write(batch.written)
        return batch.verdicts

    def _later_ones(self, touches: Iterable[Touch]) -> dict[int, Beat]:
        """The latest heartbeat of each generation that is known, where it is later than what is known of it."""
        latest: dict[int, Beat] = {}
        for touch in touches:
            record = self._records.find(touch.key)
            generation = touch.generation - self._index.base
            if record is None or record.generation != generation:
                continue
            held = latest.get(generation) or self._index.beat_of(record)
            if held is None or touch.beat.stamp > held.stamp:
                latest[generation] = touch.beat
        return latest

    async def _told(self, judged: asyncio.Future[None], error: Outage) -> None:
        """Wait for the watch to bring a write that may have been done."""
        try:
            async with asyncio.timeout(self._reflector.back_seconds):
                await asyncio.shield(judged)
        except TimeoutError:
            raise error from None

    def _came_back(self, write: str) -> None:
        if self._expected is not None and self._expected[0] == write:
            batch = self._expected[1]
            if not batch.judged.done():
                self._judge(batch)
                batch.judged.set_result(None)

    def _judge(self, batch: _Batch) -> None:
        """Say what becomes of the touches, going by the index as it is now."""
        stamps: dict[int, int] = {}
        for touch in batch.touches:
            generation = touch.generation - self._index.base
            record = self._index.by_key.get(touch.key)
            if record is None or record.generation != generation:
                batch.verdicts.append(Touched.MISSING)
                continue
            if record.mark:
                batch.marked.add(touch.key)
            held = stamps.get(generation)
            if held is None:
                beat = self._index.beat_of(record)
                held = -1 if beat is None else beat.stamp
            stamps[generation] = max(held, touch.beat.stamp)
            later = touch.beat.stamp > held
            written = batch.written.get(generation)
            if later and (written is None or written.stamp < touch.beat.stamp):
                del stamps[generation]
                batch.verdicts.append(None)
            else:
                batch.verdicts.append(_verdict(touch, record, self._index.base, later=later))

    async def _write_directly(self, batch: _Batch) -> None:
        """Write into their records the heartbeats that are looked for there."""
        latest: dict[str, Touch] = {}
        for touch in batch.touches:
            written = batch.written.get(touch.generation - self._index.base)
            if written == touch.beat and (touch.key in batch.marked or not self._shares(touch.key)):
                latest[touch.key] = touch
        missing: set[str] = set()

        async def write(touch: Touch) -> None:
            record, _ = await self._raise(touch.key, touch.generation - self._index.base, touch.beat)
            if record is None:
                missing.add(touch.key)

        await each((write(touch) for touch in latest.values()), _AT_ONCE)
        for number, touch in enumerate(batch.touches):
            if touch.key in missing:
                batch.verdicts[number] = Touched.MISSING

    async def _alone(self, touches: Sequence[Touch]) -> list[Touched]:
        """Touches of one key, into its record and nowhere else."""
        key = touches[0].key
        verdicts = [Touched.MISSING] * len(touches)
        for generation in {touch.generation for touch in touches}:
            those = [number for number, touch in enumerate(touches) if touch.generation == generation]
            latest = max((touches[number].beat for number in those), key=lambda beat: beat.stamp)
            record, before = await self._raise(key, generation - self._index.base, latest)
            if record is None:
                continue
            held = -1 if before is None else before.stamp
            for number in those:
                stamp = touches[number].beat.stamp
                verdicts[number] = _verdict(touches[number], record, self._index.base, later=stamp > held)
                held = max(held, stamp)
        return verdicts

    async def _raise(self, key: str, generation: int, beat: Beat) -> tuple[Record | None, Beat | None]:
        """Raise the heartbeat in a record. The record and what was there before; None if it is gone, or of another
        generation."""
        record, asked = self._records.find(key), False
        for _ in range(_ATTEMPTS):
            if record is not None and record.generation == generation:
                before = self._index.beat_of(record)
                if record.beat is None or record.beat.stamp < beat.stamp:
                    try:
                        await self._records.patch(record, beat_patch(record, beat))
                    except (Moved, NotThere):
                        pass
                    else:
                        return record, before
                elif asked:
                    return record, before
            elif asked:
                return None, None
            record, asked = await self._records.ask(key), True
        raise Unavailable(f"{key!r} is written by others over and over; try again")


def _verdict(touch: Touch, record: Record, base: int, *, later: bool) -> Touched:
    if touch.revision is not None and touch.revision - base != record.revision:
        return Touched.CHANGED
    return Touched.APPLIED if later else Touched.OLDER


def _fail(calls: Iterable[_Call], error: BaseException) -> None:
    for call in calls:
        if not call.answer.done():
            call.answer.set_exception(error)
            call.answer.exception()  # whoever asked may be gone
