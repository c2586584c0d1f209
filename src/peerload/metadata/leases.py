"""Leases: names that one holder at a time has, for as long as it renews them.

A lease is an entry of the store under a prefix of its own; its heartbeat is the last renewal. Taking one creates the entry
where there is none; renewing it touches the entry; letting it run out deletes exactly what was judged, unless it was
touched since. So a late renewal beats whoever would take over, and of several who would, one creates the entry. The
entry's generation is the lease's *token*: it grows with every acquisition.

How old a renewal is, the directory's liveness says: time in which no server was there to be told does not count. A store
that lost its data forgets its leases, and two may then hold one: a lease saves work, it does not guard what must not be
done twice. What must not, compares tokens.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Self

import structlog

from peerload.clock import Clock
from peerload.errors import Conflict, LimitExceeded, MissingField, Unavailable
from peerload.metadata import members
from peerload.metadata.confirm import Confirm
from peerload.metadata.directory.directory import Directory
from peerload.metadata.limits import MAX_TEXT_BYTES, check_text
from peerload.metadata.patience import Patience
from peerload.metadata.principals import ANYONE, Principal
from peerload.store.base import (
    ABSENT,
    Beat,
    Change,
    Deleted,
    Entry,
    Feed,
    Put,
    Scalar,
    Store,
    Touch,
    Touched,
)

__all__ = ["MAX_LEASES", "MAX_LEASE_MS", "MIN_LEASE_MS", "Lease", "Leases"]

_log = structlog.stdlib.get_logger(__name__)

MIN_LEASE_MS: Final = 1_000
MAX_LEASE_MS: Final = 3_600_000
MAX_LEASES: Final = 10_000
"""Of one kind, at any moment: they come from callers' names, and must not fill the store."""
_MAX_HOLDER_BYTES: Final = 256
_ATTEMPTS: Final = 10
_RECONNECT_MS: Final = 5_000
"""How long clients may take to come back after an outage."""
_TIDY_AFTER: Final = 2
"""Lengths of a lease after which one that ran out is removed. Until then its holder may still renew it, if nobody took it."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as it is held. Times are milliseconds, moments those of the store's clock."""

    name: str
    holder: str
    note: str
    token: int
    length: int
    since: int
    left: int
    """Until it runs out; 0 where it has."""


@dataclass(frozen=True, slots=True)
class _Held:
    """An entry, as far as leases are concerned."""

    holder: str
    note: str
    length: int
    since: int
    stamp: int
    revision: int
    generation: int
    owner: str = ""
    """The principal that took it; empty: nobody was asked who they were."""

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """What an entry says; one that says nothing of use has run out."""
        value = entry.value
        stamp = entry.beat.stamp if entry.beat else 0
        return cls(
            members.text(value, "holder"),
            members.text(value, "note"),
            members.number(value, "lease_ms", MAX_LEASE_MS) or 0,
            members.number(value, "since") or stamp,
            stamp,
            entry.revision,
            entry.generation,
            str(value.get("owner", "")),
        )

    def is_of(self, holder: str, principal: Principal) -> bool:
        """Whether this holder has it, and not another's that goes by the same name."""
        return self.holder == holder and principal.may_hold(self.owner)


class Leases:
    """The leases of one kind, whose keys begin with `prefix`. `known` returns once outages can be told from silence.

    As a `peerload.metadata.directory.feed.Reader` it is told of the store's changes, for tidying and counting; every answer is
    the store's own. Every method raises `Unavailable` for an outage. Deadlines are moments of `clock.monotonic`.
    """

    def __init__(
        self,
        prefix: str,
        store: Store,
        directory: Directory,
        clock: Clock,
        *,
        confirm: Confirm,
        patience: Patience,
        known: Callable[[float | None], Awaitable[None]],
        interval: float,
        most: int = MAX_LEASES,
    ) -> None:
        self._prefix = prefix
        self._store = store
        self._directory = directory
        self._clock = clock
        self._confirm = confirm
        self._patience = patience
        self._known = known
        self._interval = interval
        self._most = most
        self._index: dict[str, _Held] = {}
        self._listed: dict[str, _Held] = {}

    def __len__(self) -> int:
        return len(self._index)

    async def acquire(
        self,
        name: str,
        holder: str,
        length: int,
        note: str = "",
        *,
        principal: Principal = ANYONE,
        deadline: float | None = None,
    ) -> tuple[bool, Lease]:
        """Take a lease of `length` milliseconds if nobody has it, or begin the holder's own anew. Whether the holder has it
        now, and the lease as it is, whoever holds it. Holders of one name are the same only if their principal is. Raises
        `InvalidArgument`, `LimitExceeded`."""
        key = self._key(name, holder)
        if not MIN_LEASE_MS <= length <= MAX_LEASE_MS:
            raise LimitExceeded(
                "lease_ms", f"{length} is not between {MIN_LEASE_MS} and {MAX_LEASE_MS}", limit=MAX_LEASE_MS
            )
        check_text("note", note, MAX_TEXT_BYTES)
        await self._known(deadline)
        return await self._patience.ask(partial(self._acquire, key, holder, length, note, principal), deadline)

    async def renew(
        self, name: str, holder: str, *, principal: Principal = ANYONE, deadline: float | None = None
    ) -> tuple[bool, Lease | None]:
        """Begin the lease anew, even one that ran out if nobody took it. Whether the holder has it, and who has."""
        key = self._key(name, holder)
        await self._known(deadline)
        return await self._patience.ask(partial(self._renew, key, holder, principal), deadline)

    async def release(
        self, name: str, holder: str, *, principal: Principal = ANYONE, deadline: float | None = None
    ) -> bool:
        """Let go of a lease; whether the holder had it."""
        return await self._patience.ask(partial(self._release, self._key(name, holder), holder, principal), deadline)

    async def run(self) -> None:
        """Tidy every so often until cancelled."""
        while True:
            await self._clock.sleep(self._interval)
            try:
                await self.sweep()
            except Unavailable as error:
                _log.warning("tidying leases was broken off", error=str(error))

    async def sweep(self) -> int:
        """Remove what ran out a while ago; how many. Any number of servers may do so at once. Raises `Unavailable`."""
        removed = 0
        for key, held in list(self._index.items()):
            # Asked again each time: the feed may have broken off meanwhile.
            if self._directory.lost:
                break
            if self._age(held) < _TIDY_AFTER * held.length or self._left(held):
                continue
            if await self._delete(key, held):
                removed += 1
            elif await self._store.get(key) is None:
                self._index.pop(key, None)
        return removed

    # The store's changes

    def begin_list(self) -> None:
        """The store is listed anew."""
        self._listed = {}

    def take_listed(self, entries: Sequence[Entry]) -> None:
        """Take in a part of the listing."""
        self._listed |= {entry.key: _Held.of(entry) for entry in entries if entry.key.startswith(self._prefix)}

    def end_list(self) -> None:
        """The listing is the whole truth."""
        self._index, self._listed = self._listed, {}

    def apply(self, feed: Feed) -> None:
        """Take in some changes."""
        for change in feed.changes:
            self._apply(change)

    def _apply(self, change: Change) -> None:
        key = change.entry.key if isinstance(change, Put) else change.key
        if not key.startswith(self._prefix):
            return
        held = self._index.get(key)
        if isinstance(change, Put):
            # One that was deleted may come again, and a later deletion after it; till then it is only tidied in vain.
            if held is None or held.revision <= change.entry.revision:
                self._index[key] = _Held.of(change.entry)
        elif isinstance(change, Deleted):
            if held is not None and held.revision < change.revision:
                del self._index[key]
        elif held is not None and held.generation == change.generation and change.beat.stamp > held.stamp:
            self._index[key] = replace(held, stamp=change.beat.stamp)

    # Within

    def _key(self, name: str, holder: str) -> str:
        for field, text, limit in (("name", name, MAX_TEXT_BYTES), ("holder", holder, _MAX_HOLDER_BYTES)):
            if not text:
                raise MissingField(field)
            check_text(field, text, limit)
        return self._prefix + name

    async def _acquire(self, key: str, holder: str, length: int, note: str, principal: Principal) -> tuple[bool, Lease]:
        for _ in range(_ATTEMPTS):
            entry = await self._confirm.entry(key)
            if entry is None:
                if (made := await self._create(key, holder, length, note, principal.name)) is not None:
                    return True, made
                continue
            held = _Held.of(entry)
            lease = self._lease(key, held)
            if held.is_of(holder, principal):
                if await self._touch(key, held):
                    return True, self._lease(key, held, fresh=True)
            elif lease.left:
                return False, lease
            else:
                await self._delete(key, held)
        raise Unavailable("the name is claimed and let go over and over; try again")

    async def _create(self, key: str, holder: str, length: int, note: str, owner: str) -> Lease | None:
        """A new lease; None where somebody else was faster."""
        if len(self._index) >= self._most:
            raise LimitExceeded("name", f"{self._most} names are claimed, and no more can be", limit=self._most)
        now = self._store.now()
        value: dict[str, Scalar] = {"holder": holder, "note": note, "lease_ms": length, "since": now}
        if owner:
            value["owner"] = owner
        try:
            written = await self._store.put(key, value, expect=ABSENT, beat=Beat(now))
        except Conflict:
            return None
        held = _Held(holder, note, length, now, now, written.revision, written.generation, owner)
        return self._lease(key, held, fresh=True)

    async def _renew(self, key: str, holder: str, principal: Principal) -> tuple[bool, Lease | None]:
        entry = await self._confirm.entry(key)
        if entry is None:
            return False, None
        held = _Held.of(entry)
        if not held.is_of(holder, principal):
            return False, self._lease(key, held)
        if not await self._touch(key, held):
            return False, None
        return True, self._lease(key, held, fresh=True)

    async def _release(self, key: str, holder: str, principal: Principal) -> bool:
        for _ in range(_ATTEMPTS):
            entry = await self._confirm.entry(key)
            if entry is None or not _Held.of(entry).is_of(holder, principal):
                return False
            try:
                await self._store.delete(key, expect=entry.revision)
            except Conflict:
                continue
            return True
        raise Unavailable("the name is claimed and let go over and over; try again")

    async def _touch(self, key: str, held: _Held) -> bool:
        """Renew; False if the entry is gone."""
        (result,) = await self._store.touch([Touch(key, held.generation, Beat(max(self._store.now(), held.stamp + 1)))])
        return result is not Touched.MISSING

    async def _delete(self, key: str, held: _Held) -> bool:
        """Remove what ran out, unless it was renewed or taken since; whether it was removed."""
        try:
            await self._store.delete(key, expect=held.revision, unless_beaten_since=held.stamp)
        except Conflict:
            return False
        return True

    def _age(self, held: _Held) -> int:
        return self._directory.liveness.age(held.stamp, self._directory.now())

    def _left(self, held: _Held) -> int:
        left = max(0, held.length - self._age(held))
        liveness, now = self._directory.liveness, self._directory.now()
        end = liveness.last_outage_end(now)
        if held.stamp < end and liveness.age(held.stamp, end) < held.length:
            # It was held when the outage began; its holder has yet to find out that a server is there again.
            left = max(left, _RECONNECT_MS - (now - end))
        return left

    def _lease(self, key: str, held: _Held, *, fresh: bool = False) -> Lease:
        left = held.length if fresh else self._left(held)
        name = key.removeprefix(self._prefix)
        return Lease(name, held.holder, held.note, held.generation, held.length, held.since, left)
