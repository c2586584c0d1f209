"""Everything that changes a source: publishing, heartbeats and statuses, removal."""

from __future__ import annotations

from functools import partial
from typing import Final, NamedTuple

import structlog

from peerload.clock import Clock
from peerload.errors import Conflict, LimitExceeded, NotAllowed, Unavailable
from peerload.locks import KeyLocks
from peerload.metadata.confirm import Confirm
from peerload.metadata.directory.directory import Directory
from peerload.metadata.directory.held import Held
from peerload.metadata.heartbeats import Heartbeats
from peerload.metadata.order import Order
from peerload.metadata.patience import Patience
from peerload.metadata.principals import ANYONE, Principal
from peerload.metadata.publications.packed import Packed
from peerload.metadata.records import SourceKey, SourceRecord, Status, said_at, with_said_at, with_status
from peerload.metadata.settings import MetadataSettings
from peerload.metadata.waiting import Pulse
from peerload.store.base import ABSENT, Beat, Store, Touch, Touched, Value, Written
from peerload.tally import Histogram

__all__ = ["ATTEMPTS", "Writes"]

_log = structlog.stdlib.get_logger(__name__)

ATTEMPTS: Final = 10
"""How often a conditional write is tried when others write the same entry."""
_RETRY_SECONDS: Final = 1.0
_SHOWN: Final = 100
_OVERSLEPT_SECONDS: Final = 0.5
"""Who waited so much longer than it meant to was stopped meanwhile."""


class _Amend(NamedTuple):
    """What a heartbeat meant that was taken for a mere refresh, and was none."""

    status: Status
    beat: Beat
    principal: Principal


class Writes:
    """The writes of one server. Those of one source happen one after the other, in the order of their arrival.

    A source belongs to the principal that published it. Whose it is, the store decides: what the directory says of that is
    good enough to let a principal go on, in writes that the store refuses if it is not so, and never to turn one away. An
    unbounded principal may change everything, and is not asked.
    """

    def __init__(
        self,
        store: Store,
        directory: Directory,
        clock: Clock,
        settings: MetadataSettings,
        *,
        confirm: Confirm,
        patience: Patience,
        server_id: str,
    ) -> None:
        self._store = store
        self._directory = directory
        self._clock = clock
        self._settings = settings
        self._overdue_ms = settings.heartbeat_timeout_ms // 2
        self._confirm = confirm
        self._patience = patience
        self._locks = KeyLocks()
        self._order = Order(store, clock)
        # What this server wrote and has not seen in the feed: until then the directory is out of date.
        self._unseen: dict[str, int] = {}
        self._amends: dict[str, _Amend] = {}
        self._amend = Pulse()
        self.lag = Histogram()
        """Seconds from a durable write until this server's directory had it; such as were not waited for longer are among them."""
        self.heartbeats = Heartbeats(store, clock, settings, server_id, on_mistake=self._amend_later)

    async def publish(self, packed: Packed, *, principal: Principal, deadline: float | None) -> None:
        """Keep a publication, durably, in place of what was published under its key before. Raises
        `NotAllowed` where that is another principal's, `LimitExceeded` where this one has as many as it may."""
        self._check_count(packed.record, principal)
        await self._patience.write(lambda: self._put(packed.record, packed.blob, principal), deadline)

    async def update(
        self,
        source: SourceKey,
        status: Status,
        load: float | None,
        *,
        principal: Principal,
        deadline: float | None,
    ) -> bool:
        """A heartbeat and a status. False only if the store confirmed that there is no such source. Raises `NotAllowed`
        where it is another principal's."""
        if self.refresh(source, status, load, principal=principal):
            return True
        key = source.encode()
        now = self._store.now()
        held = self._fresh(key, status, principal, now)
        if held is not None:
            touch = self._touch(key, held, load, now)
            if await self._patience.write(partial(self.heartbeats.store, touch), deadline) in _NO_CHANGE:
                return True
        return await self._patience.write(partial(self._update, key, status, load, principal), deadline)

    def refresh(self, source: SourceKey, status: Status, load: float | None, *, principal: Principal) -> bool:
        """A heartbeat that may be answered at once, and is stored with the next batch. False: it is more than that, and
        `update` is to be asked. Raises `Unavailable`."""
        key = source.encode()
        now = self._store.now()
        held = self._fresh(key, status, principal, now)
        if held is None:
            return False
        touch = self._touch(key, held, load, now)
        if touch.beat.stamp - held.stamp >= self._overdue_ms:
            return False
        if self.heartbeats.failed:
            raise Unavailable("heartbeats cannot be stored at the moment")
        self.heartbeats.add(touch, status, principal)
        return True

    def _touch(self, key: str, held: Held, load: float | None, now: int) -> Touch:
        if self._amends:
            # Whatever an earlier one meant, this one says what holds now.
            self._amends.pop(key, None)
        stamp = self.heartbeats.stamp(key, held.stamp, now)
        return Touch(key, held.record.generation, Beat(stamp, load), held.record.store_revision)

    async def remove(self, key: str, principal: Principal = ANYONE) -> bool:
        """Remove a record, durably; whether there was one. Raises `NotAllowed` where it is another principal's."""
        await self._turn_away(key, principal)
        async with self._locks.hold(key):
            try:
                revision = await self._delete(key, principal)
            except Conflict:
                if key in self._unseen:
                    await self._written(
                        key, self._unseen[key]
                    )  # it may have been removed by an earlier try of the same
                return False
            await self._written(key, revision)
            return True

    def seen(self, key: str) -> bool:
        """Whether the directory knows of everything that this server wrote under a key."""
        return self._directory.has(key, self._unseen.get(key, 0))

    def forget_seen(self) -> None:
        """Forget writes that have come in since their callers stopped waiting, and those of what is no longer there."""
        gone = not self._directory.lost
        for key, revision in list(self._unseen.items()):
            if self._directory.has(key, revision) or (gone and self._directory.get(key) is None):
                del self._unseen[key]

    async def run(self) -> None:
        """Make good, until cancelled, for heartbeats that were taken for mere refreshes by mistake.

        A server hears of another's writes a moment late. If a worker changes its status (or publishes anew) at one
        server and heartbeats at another within that moment, the second compares with what no longer holds; the store tells
        it when the heartbeat arrives there, and the status that the worker meant is written now, unless the worker may have
        said so before that change. A change is answered only when whatever is said after the answer is surely later.
        """
        while True:
            if not self._amends:
                await self._amend.wait()
                continue
            key, amend = next(iter(self._amends.items()))
            try:
                await self._update(key, amend.status, amend.beat.load, amend.principal, meant=amend)
            except Unavailable as error:
                _log.warning("a status could not be written", key=key, error=str(error))
                await self._clock.sleep(_RETRY_SECONDS)
                continue
            except NotAllowed:
                pass  # it is another's by now, and says of itself what holds
            if self._amends.get(key) is amend:
                del self._amends[key]

    def _amend_later(self, touch: Touch, status: Status, principal: Principal) -> None:
        self._amends[touch.key] = _Amend(status, touch.beat, principal)
        self._amend.beat()

    def _check_count(self, record: SourceRecord, principal: Principal) -> None:
        """The directory may be a moment behind, and so may this limit."""
        most = self._settings.limit_principal_records
        if not most or not principal.name or self._directory.owned(principal.name) < most:
            return
        held = self._directory.get(record.key.encode())
        if held is None or held.record.owner != principal.name:
            raise LimitExceeded("--limit-principal-records", f"{principal.name} has {most} records already", limit=most)

    def _fresh(self, key: str, status: Status, principal: Principal, now: int) -> Held | None:
        """The record, if a heartbeat with that status is no change, and this principal's to send, and the directory can be
        relied on to say so."""
        held = self._directory.get(key)
        if (
            held is None
            or held.record.mark is not None
            or held.record.status is not status
            or self._directory.lost_at(now)
        ):
            return None
        if not principal.unbounded and not principal.may_change(held.record.owner, held.record.model_name):
            return None
        revision = self._unseen.get(key)
        if revision is not None:
            if not self._directory.has(key, revision):
                return None
            del self._unseen[key]
        return held

    async def _turn_away(self, key: str, principal: Principal) -> None:
        """Raise `NotAllowed` where it is plain that a source is another's: a flood of strangers' writes is not to stand in
        line before its owner's."""
        held = self._directory.get(key)
        if principal.unbounded or held is None or principal.may_change(held.record.owner, held.record.model_name):
            return
        entry = await self._confirm.entry(key)
        if entry is not None:
            self._check_owner(SourceRecord.from_entry(entry), principal)

    @staticmethod
    def _check_owner(record: SourceRecord, principal: Principal) -> None:
        if principal.unbounded or principal.may_change(record.owner, record.model_name):
            return
        # Whose it is, is nobody's concern.
        which = f"source {record.source_id}, worker {record.worker_id[:_SHOWN]!r}, rank {record.worker_rank}"
        raise NotAllowed(f"{which} belongs to another principal than {principal.name}")

    async def _put(self, record: SourceRecord, blob: bytes, principal: Principal) -> None:
        key = record.key.encode()
        await self._turn_away(key, principal)
        async with self._locks.hold(key):
            held, now = self._directory.get(key), self._store.now()
            stamp = self.heartbeats.stamp(key, held.stamp if held else 0, now)
            first = held.record.published_at if held else now
            said = self._order.latest(now)
            value = with_said_at(record._replace(published_at=first, owner=principal.name).to_value(), said)
            if principal.unbounded:
                written = await self._store.put(key, value, blob=blob, beat=Beat(stamp))
            else:
                known = None if held is None else held.record
                written = await self._put_own(key, known, value, blob, Beat(stamp), principal)
            self._amends.pop(key, None)
            await self._written(key, written.revision)
        await self._order.over(said)

    async def _put_own(
        self, key: str, known: SourceRecord | None, value: Value, blob: bytes, beat: Beat, principal: Principal
    ) -> Written:
        """Write in place of `known`, or of what the store turns out to hold, if the principal may replace that."""
        for _ in range(ATTEMPTS):
            if known is None or principal.may_change(known.owner, known.model_name):
                expect = ABSENT if known is None else known.store_revision
                try:
                    return await self._store.put(key, value, blob=blob, expect=expect, beat=beat)
                except Conflict:
                    pass
            entry = await self._confirm.entry(key)
            known = None if entry is None else SourceRecord.from_entry(entry)
            if known is not None:
                self._check_owner(known, principal)
        raise Unavailable("the source is changed by others over and over; try again")

    async def _delete(self, key: str, principal: Principal) -> int:
        """The revision of the deletion. Raises `Conflict` where there is nothing to delete."""
        if principal.unbounded:
            return await self._store.delete(key)
        for _ in range(ATTEMPTS):
            entry = await self._confirm.entry(key)
            if entry is None:
                raise Conflict(key, None)
            self._check_owner(SourceRecord.from_entry(entry), principal)
            try:
                return await self._store.delete(key, expect=entry.revision)
            except Conflict:
                continue
        raise Unavailable("the source is changed by others over and over; try again")

    async def _update(
        self, key: str, status: Status, load: float | None, principal: Principal, *, meant: _Amend | None = None
    ) -> bool:
        await self._turn_away(key, principal)
        # In the order of arrival, so that of two updates of one worker the later one is the last to be written.
        async with self._locks.hold(key):
            now = self._store.now()
            for _ in range(ATTEMPTS):
                entry = await self._confirm.entry(key)
                if entry is None:
                    return False
                record = SourceRecord.from_entry(entry)
                self._check_owner(record, principal)
                if meant is None:
                    self._amends.pop(key, None)
                elif (
                    self._amends.get(key) is not meant
                    or record.updated_at > meant.beat.stamp
                    or said_at(entry.value) >= self._order.earliest(meant.beat.stamp)
                ):
                    return True  # a later one has said what holds
                # Made good, a heartbeat is still as old as it is: another server may know of a later one.
                stamp = meant.beat.stamp if meant is not None else self.heartbeats.stamp(key, record.updated_at, now)
                beat = Beat(max(stamp, record.updated_at + 1), load)
                if record.status is status and record.mark is None:
                    touch = Touch(key, entry.generation, beat, entry.revision)
                    if await self.heartbeats.store(touch) not in _NO_CHANGE:
                        continue
                    return True
                # Of two that were taken for mere refreshes, the stamps alone tell which came last.
                said = self._order.latest(now) if meant is None else self._order.earliest(meant.beat.stamp)
                value = with_said_at(with_status(entry.value, status), said)
                try:
                    written = await self._store.put(key, value, expect=entry.revision, beat=beat)
                except Conflict:
                    continue
                await self._written(key, written.revision)
                if meant is None:
                    await self._order.over(said)
                return True
        raise Unavailable("the source is changed by others over and over; try again")

    async def _written(self, key: str, revision: int) -> None:
        """Wait until the directory knows of a write of this server's, as `_seen` does."""
        self._unseen[key] = revision
        begun = self._clock.monotonic()
        try:
            seen = await self._seen(key, revision)
        finally:
            self.lag.observe(self._clock.monotonic() - begun)
        if seen and self._unseen.get(key) == revision:
            del self._unseen[key]

    async def _seen(self, key: str, revision: int) -> bool:
        """Whether the directory knows of a change, after waiting for it, but not for long.

        Raises `Unavailable` if the feed says nothing at all for so long: lists go on from what the directory knows, and must
        not deny what was acknowledged here. Of a feed that is merely slow the answer need not wait.
        """
        while True:
            begun = self._clock.monotonic()
            if await self._directory.seen(key, revision):
                return True
            if self._clock.monotonic() - begun < self._settings.visible_within + _OVERSLEPT_SECONDS:
                break
            # This process was stopped: the feed had no time, and what it says first is old.
        if self._directory.silent_ms >= self._settings.visible_within * 1000:
            raise Unavailable("it may be written, but the store tells of no changes at the moment; repeat it")
        return False


_NO_CHANGE: Final = (Touched.APPLIED, Touched.OLDER)
