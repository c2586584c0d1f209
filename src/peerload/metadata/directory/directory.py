"""What this server knows of all sources: an index in memory, fed by the store's changes alone."""

from __future__ import annotations

from asyncio import Future, get_running_loop
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

import structlog

from peerload.clock import Clock
from peerload.metadata.directory.census import Census
from peerload.metadata.directory.expiry import Expiry
from peerload.metadata.directory.feed_time import FeedTime
from peerload.metadata.directory.held import Held
from peerload.metadata.directory.index import Index
from peerload.metadata.directory.liveness import SERVER_PREFIX, Liveness
from peerload.metadata.directory.search import find
from peerload.metadata.query import Query
from peerload.metadata.records import SOURCE_PREFIX, SourceKey, SourceRecord, Status
from peerload.metadata.settings import MetadataSettings
from peerload.metadata.waiting import Pulse, settle
from peerload.store.base import Beaten, Change, Deleted, Entry, Feed, Put, Store

__all__ = ["Directory", "Seen"]

_log = structlog.stdlib.get_logger(__name__)

_TOMBSTONES: Final = 16_384
"""Deletions that are remembered, so that a feed that repeats an older change brings nothing back."""


class Seen(NamedTuple):
    """One change that a watcher may care about; None: not there. The status is the one shown."""

    key: SourceKey
    before: SourceRecord | None
    before_status: Status
    after: SourceRecord | None
    after_status: Status


class Directory:
    """The index. It is brought up to date as a `peerload.metadata.directory.feed.Reader`, `sweep` lets heartbeats run out;
    everything else asks. All of it belongs to one event loop; nothing here waits for the store."""

    def __init__(self, store: Store, clock: Clock, settings: MetadataSettings) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._time = FeedTime(store, round(settings.alive_tolerance * 1000))
        self._index = Index()
        self._tombstones: OrderedDict[str, int] = OrderedDict()
        self._waiting: dict[str, list[tuple[int, Future[None]]]] = {}
        self._lost_data_at: int | None = None
        # While the store is listed: the keys that did not come yet, and the servers that were known before.
        self._unlisted: dict[str, None] = {}
        self._servers: set[str] = set()
        self.synced = False
        """Whether the store was ever listed."""
        self.census = Census()
        self.liveness = Liveness(
            timeout_ms=settings.heartbeat_timeout_ms, tolerance_ms=round(settings.alive_tolerance * 1000)
        )
        self.expiry = Expiry(self.liveness, self.now, quiet_ms=settings.quiet_ms, on_expired=self._tell_status)
        """How long ago each record was heard from."""
        self.overtaken: dict[str, Held] = {}
        """Records that are marked stale although a later heartbeat is known."""
        self.marked: dict[str, Held] = {}
        """Records that are marked stale."""
        self.changed = Pulse()
        """Beats when anything but a mere heartbeat has happened."""
        self.on_change: Callable[[Seen], None] | None = None
        self.on_data_lost: Callable[[], None] | None = None
        """Called when the store came back without its data, once the directory has followed it."""

    # Time

    def now(self) -> int:
        """The moment as of which heartbeats are judged: the store's clock, held back while the feed is."""
        return self._time.now()

    @property
    def silent_ms(self) -> int:
        """How long ago the feed last spoke."""
        return self._time.silent_ms

    @property
    def lost(self) -> bool:
        """Whether the feed has fallen silent: what is known may be out of date."""
        return not self.synced or self._time.lost

    def lost_at(self, now: int) -> bool:
        """The same for who knows the store's clock already."""
        return not self.synced or self._time.lost_at(now)

    @property
    def settled(self) -> bool:
        """Whether servers and feed have been up for so long that absence proves something."""
        now = self._store.now()
        since = max(self._time.since, self.liveness.last_outage_end(now))
        return not self.lost and now - since >= self._settings.settle_ms

    def doubtful(self, query: Query) -> bool:
        """Whether an answer without sources might be an outage's doing rather than a fact."""
        if self.lost:
            return True
        if query.status is not Status.READY:
            return False
        now = self.now()
        if self._lost_data_at is not None and now - self._lost_data_at < self._settings.settle_ms:
            return True
        outage_end = self.liveness.last_outage_end(now)
        if now - outage_end >= self._settings.settle_ms:
            return False
        # Sources that were ready before the outage and have had no time to be heard again.
        return any(
            held.told is Status.READY and held.heard < outage_end and not held.refuses and query.concerns(held.record)
            for group in self._index.groups(query)
            for ranks in group.members.values()
            for held in ranks
        )

    # Changes

    def begin_list(self) -> None:
        """The store is listed anew: what is in none of the parts that follow is no longer there."""
        self._servers = set(self.liveness.episodes)
        self._unlisted = dict.fromkeys((*self._index.entries, *self._servers))

    def take_listed(self, entries: Sequence[Entry]) -> None:
        """Take in a part of the listing, in place of what is known of these keys. Until the whole is there, time does not go
        on: the heartbeats of others may be in the next."""
        now = self._store.now()
        for entry in entries:
            self._unlisted.pop(entry.key, None)
            self._put(entry, now, listed=True)

    def end_list(self) -> None:
        """The listing is complete."""
        for key in self._unlisted:
            if key in self._servers:
                del self.liveness.episodes[key]
            else:
                self._drop(key)
        lost = bool(self._servers) and self._servers <= self._unlisted.keys()
        self._unlisted, self._servers = {}, set()
        self._time.hear(())
        if lost:
            # The store has lost every trace of the servers that wrote to it.
            self._lost_data_at = self._store.now()
            _log.warning("the store came back without its data", store=self._store.url)
            if self.on_data_lost is not None:
                self.on_data_lost()
        if not self.synced:
            self.synced = True
            self.liveness.begin(self._store.now())
        for key in list(self._waiting):
            self._notify(key)
        self.sweep()
        self.changed.beat()

    def apply(self, feed: Feed) -> None:
        """Take in some changes. Repeats and what is older than what is known change nothing."""
        self._time.hear(feed.changes)
        now = self.now()
        for change in feed.changes:
            self._apply(change, now)
        self.sweep()

    def _apply(self, change: Change, now: int) -> None:
        if isinstance(change, Put):
            self._put(change.entry, now)
        elif isinstance(change, Beaten):
            if change.key.startswith(SERVER_PREFIX):
                self.liveness.beat(change.key, change.generation, change.beat.stamp)
                return
            held = self._index.entries.get(change.key)
            if held is not None and held.record.generation == change.generation and change.beat.stamp > held.stamp:
                was = held.shown
                held.beat(change.beat, now)
                self._index.changed(held)
                self._judge(change.key, held)
                if held.shown is not was:
                    self._tell_status(held, was)
        else:
            self._delete(change)

    def _put(self, entry: Entry, now: int, *, listed: bool = False) -> None:
        key = entry.key
        if key.startswith(SERVER_PREFIX):
            self.liveness.put(entry)
            return
        if not key.startswith(SOURCE_PREFIX):
            return
        held = self._index.entries.get(key)
        if not listed:
            if self._tombstones.get(key, 0) >= entry.revision:
                return
            if held is not None and held.record.store_revision > entry.revision:
                return
        try:
            record = SourceRecord.from_entry(entry)
        except ValueError as error:
            _log.warning("an entry is no source's", key=key, error=str(error))
            return
        self._tombstones.pop(key, None)
        if held is None:
            held = Held(record, now)
            self._index.add(key, held)
            self.expiry.add(key, held)
            self._judge(key, held)
            self._tell(Seen(record.key, None, Status.UNKNOWN, record, held.shown))
        else:
            before, was = held.record, held.shown
            self._index.renamed(before, record)
            held.put(record, now)
            self._index.changed(held)
            self._judge(key, held)
            # What is published changes only with a new generation; a name, if at all, only in how it is spelled.
            if (
                held.shown is not was
                or before.generation != record.generation
                or before.model_name != record.model_name
            ):
                self._tell(Seen(record.key, before, was, record, held.shown))
        self._notify(key)

    def _delete(self, change: Deleted) -> None:
        if change.key.startswith(SERVER_PREFIX):
            self.liveness.remove(change.key, change.revision)
            return
        if not change.key.startswith(SOURCE_PREFIX):
            return
        held = self._index.entries.get(change.key)
        if held is None or held.record.store_revision < change.revision:
            self._tombstones[change.key] = max(change.revision, self._tombstones.get(change.key, 0))
            self._tombstones.move_to_end(change.key)
            while len(self._tombstones) > _TOMBSTONES:
                self._tombstones.popitem(last=False)
            if held is not None:
                self._drop(change.key)
        self._notify(change.key)

    def _drop(self, key: str) -> None:
        held = self._index.remove(key)
        for known in (self.marked, self.overtaken):
            known.pop(key, None)
        self.expiry.forget(key, len(self._index.entries))
        self._tell(Seen(held.record.key, held.record, held.shown, None, Status.UNKNOWN))

    def _tell_status(self, held: Held, was: Status) -> None:
        self._index.changed(held)
        self._tell(Seen(held.record.key, held.record, was, held.record, held.shown))

    def _tell(self, seen: Seen) -> None:
        self.census.note(seen.before, seen.before_status, seen.after, seen.after_status)
        if self.on_change is not None and self.synced:
            self.on_change(seen)
        self.changed.beat()

    def _judge(self, key: str, held: Held) -> None:
        """Put a record that changed where it belongs."""
        self.expiry.judge(key, held)
        if held.record.mark is None:
            if self.marked:
                self.marked.pop(key, None)
                self.overtaken.pop(key, None)
            return
        self.marked[key] = held
        if held.overtaken:
            self.overtaken[key] = held
            self.changed.beat()
        else:
            self.overtaken.pop(key, None)

    # Time, and what is found out besides

    def sweep(self) -> None:
        """Let run out what has run out by now. Cheap where nothing has; called often."""
        self.expiry.sweep()

    def next_expiry_ms(self) -> int | None:
        """How long until a heartbeat may run out; None where nothing waits."""
        return self.expiry.next_ms()

    def refused(self, key: str, generation: int, since: int) -> bool:
        """The source's process was found gone: at or after `since` its host refused connections to all its addresses. It is
        hidden, as one whose heartbeat has run out, until it is heard from again. Whether that changed anything: a
        heartbeat after `since` wins, and so does another publication."""
        held = self._index.entries.get(key)
        if held is None or held.record.generation != generation or not held.refuse(since):
            return False
        self._tell_status(held, held.told)
        return True

    def suspect(self, held: Held, suspect: bool) -> None:
        """A record is suspect from now on, or no longer."""
        held.suspect = suspect
        self._index.changed(held)

    # Questions

    def __len__(self) -> int:
        return len(self._index.entries)

    def get(self, key: str) -> Held | None:
        """What is known of a key of the store."""
        return self._index.entries.get(key)

    def expired(self) -> list[tuple[str, Held]]:
        """The records whose heartbeat has run out and that are not marked."""
        return [(key, held) for key, held in self.expiry.expired.items() if held.record.mark is None]

    def ranks(self, source_id: str, worker_id: str) -> tuple[Held, ...]:
        """The records under one worker id, lowest rank first."""
        return self._index.ranks(source_id, worker_id)

    def sources(self) -> list[tuple[str, str]]:
        """Every source id with its model's name, sorted by name."""
        return self._index.sources()

    def models(self) -> list[str]:
        """Every model's name, in no order."""
        return self._index.models()

    def models_of(self, source_id: str) -> set[str]:
        """How the name of a source's model is spelled by those who published it."""
        return self._index.models_of(source_id)

    def owned(self, owner: str) -> int:
        """How many records belong to a principal."""
        return self._index.owned(owner)

    def find(self, query: Query) -> list[tuple[Held, ...]]:
        """The answers to a query: each a record, followed by the other ranks that are part of the same instance, if instances
        are asked for. By source id, rank and worker id; with a limit the newest first, the suspect ones after the others."""
        self.sweep()
        return find(self._index, query)

    def version(self, query: Query) -> int:
        """A number that stays the same as long as all answers to a query do, and never comes back."""
        self.sweep()
        return self._index.version(query)

    # Own writes

    async def seen(self, key: str, revision: int) -> bool:
        """Whether the change of that revision, or a later one of the same key, has come in, or comes in within the
        time that a write waits for it."""
        if self.has(key, revision):
            return True
        future: Future[None] = get_running_loop().create_future()
        waiting = self._waiting.setdefault(key, [])
        waiting.append((revision, future))
        timer = self._clock.call_later(self._settings.visible_within, partial(settle, future))
        try:
            await future
        finally:
            timer.cancel()
            waiting = self._waiting.get(key, [])
            waiting[:] = [item for item in waiting if item[1] is not future]
            if not waiting:
                self._waiting.pop(key, None)
        return self.has(key, revision)

    def has(self, key: str, revision: int) -> bool:
        """Whether the change of that revision, or a later one of the same key, has come in."""
        held = self._index.entries.get(key)
        known = self._tombstones.get(key, 0) if held is None else held.record.store_revision
        return known >= revision

    def _notify(self, key: str) -> None:
        waiting = self._waiting.get(key)
        if waiting:
            for revision, future in waiting:
                if self.has(key, revision):
                    settle(future)
