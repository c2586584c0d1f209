"""The metadata backend: the operations on sources, once, over any store."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Final

from peerload.clock import Clock
from peerload.errors import NotAllowed, PeerloadError, Unavailable
from peerload.metadata.confirm import Confirm
from peerload.metadata.directory.directory import Directory
from peerload.metadata.directory.feed import FeedTally, follow
from peerload.metadata.health import Health
from peerload.metadata.heartbeats import Heartbeats
from peerload.metadata.holding import Holding
from peerload.metadata.leases import Leases
from peerload.metadata.limits import MAX_WORKER_ID_BYTES
from peerload.metadata.lists import Lists
from peerload.metadata.lookup import Lookup
from peerload.metadata.models import ModelMetadataRecord, SourceInstanceInfo, WorkerRecord
from peerload.metadata.patience import Patience
from peerload.metadata.principals import ANYONE, Principal
from peerload.metadata.publications.manifests import Manifests
from peerload.metadata.publications.packed import Packed
from peerload.metadata.publications.publication import Publication
from peerload.metadata.publications.stored import StoredSource
from peerload.metadata.query import Query
from peerload.metadata.records import NO_POD, Pod, SourceKey, SourceRecord, Status
from peerload.metadata.scopes import check_model, scoped
from peerload.metadata.settings import MetadataSettings
from peerload.metadata.transfers import Transfer
from peerload.metadata.upkeep.dial import Dial, Dialer
from peerload.metadata.upkeep.prober import Prober
from peerload.metadata.upkeep.reaper import Reaper
from peerload.metadata.upkeep.revival import Reviver
from peerload.metadata.upkeep.suspicion import Suspicions
from peerload.metadata.waiting import settled_within
from peerload.metadata.watch_event import WatchEvent
from peerload.metadata.watchers import Watchers
from peerload.metadata.writes import Writes
from peerload.store.base import Store
from peerload.tally import Histogram
from peerload.wire import p2p_pb2, sources_pb2
from peerload.wire.identity import is_source_id

__all__ = ["MetadataBackend"]

_TICK_SECONDS: Final = 0.5
_MIN_TICK_SECONDS: Final = 0.01
_CLOSE_SECONDS: Final = 2.0
_MAX_RANK: Final = 2**32 - 1
_CLAIM_PREFIX: Final = "claim/"


class MetadataBackend:
    """Sources over a store, with a directory in memory. Every method raises `Unavailable` for an outage, never an
    answer that looks like absence. Deadlines are moments of `clock.monotonic`. Belongs to one event loop.

    `dial` connects to sources that have fallen silent (see `peerload.metadata.upkeep.prober`); over the network if none is given."""

    def __init__(
        self, store: Store, clock: Clock, settings: MetadataSettings | None = None, *, dial: Dial | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self.settings = (settings or MetadataSettings()).at_pace(store.pace)
        self.directory = Directory(store, clock, self.settings)
        self.watchers = Watchers(self.directory)
        self.reaper = Reaper(store, self.directory, clock, self.settings)
        self.reviver = Reviver(store, self.directory, clock)
        self.feed = FeedTally()
        self._health = Health(self.directory, self.settings)
        self.manifests = Manifests(store, self.settings.manifest_cache_bytes)
        self._confirm = Confirm(store, clock)
        self._holding = Holding(self.directory, self._health, clock, self.settings)
        self._patience = Patience(clock, self.settings, self._hopeful)
        self._writes = Writes(
            store,
            self.directory,
            clock,
            self.settings,
            confirm=self._confirm,
            patience=self._patience,
            server_id=secrets.token_hex(8),
        )
        self.prober: Prober | None = None
        if self.settings.probe:
            self.prober = Prober(self.directory, clock, self.settings, dial or Dialer(clock).dial)
        self._suspicions = Suspicions(self.directory, self.prober)
        self._lists = Lists(self.directory, self._holding, self._suspicions, self.settings.list_cache_bytes)
        self._lookup = Lookup(
            self.directory,
            self.manifests,
            health=self._health,
            holding=self._holding,
            patience=self._patience,
            confirm=self._confirm,
            seen=self._writes.seen,
            now=store.now,
        )
        self.claims = Leases(
            _CLAIM_PREFIX,
            store,
            self.directory,
            clock,
            confirm=self._confirm,
            patience=self._patience,
            known=self._holding.known,
            interval=self.settings.reaper_interval,
        )
        """Who does what only one should do."""
        self._tasks: list[asyncio.Task[None]] = []
        self._ended: asyncio.Future[None] | None = None

    # Life

    async def connect(self) -> None:
        """Open the store and begin to follow it, in tasks of the running loop. Does not wait for the first listing."""
        if self._tasks:
            return
        await self._store.open()
        self._ended = asyncio.get_running_loop().create_future()
        loops: dict[str, Coroutine[Any, Any, None]] = {
            "feed": follow(self._store, (self.claims, self.directory, self.feed), self._clock),
            "heartbeats": self.heartbeats.run(),
            "amends": self._writes.run(),
            "expiry": self._tick(),
            "reaper": self.reaper.run(),
            "claims": self.claims.run(),
            "reviver": self.reviver.run(),
        }
        if self.prober is not None:
            loops["prober"] = self.prober.run()
        self._holding.begin()
        for name, loop in loops.items():
            task = asyncio.create_task(loop, name=f"metadata {name}")
            task.add_done_callback(self._stopped)
            self._tasks.append(task)
        self._health.close("")

    async def run(self) -> None:
        """Return once closed; raises what broke a background task. Connects first if that was not done."""
        await self.connect()
        assert self._ended is not None
        await asyncio.shield(self._ended)

    async def close(self) -> None:
        """Store the heartbeats that were answered, end every watch with `Unavailable`, close the store."""
        if not self._tasks:
            return
        self._health.close("the server is stopping")
        self.watchers.interrupt(Unavailable("the server is stopping"))
        self._holding.end()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await self.heartbeats.close(_CLOSE_SECONDS)
        await self.manifests.close()
        await self._confirm.close()
        await self._store.close()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def __aenter__(self) -> MetadataBackend:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def lag(self) -> Histogram:
        """How long the directory takes to know of this server's own writes, in seconds."""
        return self._writes.lag

    @property
    def heartbeats(self) -> Heartbeats:
        """What gathers them."""
        return self._writes.heartbeats

    @property
    def serving(self) -> bool:
        """Whether answers can be given."""
        return self._health.serving

    @property
    def reason(self) -> str:
        """Why not, for people; empty while serving."""
        return self._health.reason

    async def health_changed(self, was: bool) -> bool:
        """Return `serving` once it is no longer `was`."""
        return await self._health.changed(was)

    def now(self) -> int:
        """The store's clock, milliseconds since 1970."""
        return self._store.now()

    # What the services need

    async def publish(
        self, publication: Publication, *, principal: Principal = ANYONE, deadline: float | None = None
    ) -> SourceKey:
        """Keep a publication, durably, in place of what was published under its key before. Raises `NotAllowed` where that
        is another principal's, or the model is not in this one's scope."""
        check_model(principal, publication.record.model_name)
        blob = await self.manifests.pack(publication)
        return await self.keep(Packed(publication.record, blob), principal=principal, deadline=deadline)

    async def keep(self, packed: Packed, *, principal: Principal = ANYONE, deadline: float | None = None) -> SourceKey:
        """`publish` for a publication that is packed already."""
        check_model(principal, packed.record.model_name)
        await self._writes.publish(packed, principal=principal, deadline=deadline)
        return packed.record.key

    async def stored(
        self, source_id: str, worker_id: str, worker_rank: int | None = None, *, deadline: float | None = None
    ) -> StoredSource | None:
        """What a worker published, with its present status; the lowest rank unless one is named. None only if the
        store confirmed that there is none. Raises `Damaged` where the store kept it badly."""
        if not _possible(source_id, worker_id, worker_rank):
            return None
        return await self._lookup.find(source_id, worker_id, worker_rank, deadline)

    def stored_at_hand(self, source_id: str, worker_id: str, worker_rank: int | None = None) -> StoredSource | None:
        """`stored` for what can be answered at once. None: nothing is said, ask `stored`."""
        return self._lookup.at_hand(source_id, worker_id, worker_rank)

    async def select(self, query: Query, *, deadline: float | None = None) -> Sequence[SourceRecord]:
        """The sources that a query lets through, by model, source id, rank, newest first (with a limit: newest first);
        those that are suspect come after the others of their rank.

        An answer without sources that may be an outage's doing is held until there are some, or it is certain, or
        `MetadataSettings.hold` has passed: then it is `Unavailable`.
        """
        return await self._lists.records(query, deadline)

    async def list_refs(self, query: Query, *, deadline: float | None = None) -> bytes:
        """The same as an encoded `ListSourcesResponse`, by source id, rank and worker id (with a limit: newest first), the
        suspect ones at the end."""
        return await self._lists.refs(query, deadline)

    async def update_status(
        self,
        source_id: str,
        worker_id: str,
        worker_rank: int,
        status: Status,
        load: float | None = None,
        *,
        principal: Principal = ANYONE,
        deadline: float | None = None,
    ) -> bool:
        """A heartbeat and a status. False only if the store confirmed that there is no such source. Raises `NotAllowed` where
        it is another principal's.

        A mere refresh is answered at once and stored within a moment; a change of status is durable before the answer.
        """
        if not _possible(source_id, worker_id, worker_rank):
            return False
        key = SourceKey(source_id, worker_rank, worker_id)
        return await self._writes.update(key, status, load, principal=principal, deadline=deadline)

    def refresh(
        self,
        source_id: str,
        worker_id: str,
        worker_rank: int,
        status: Status,
        load: float | None = None,
        *,
        principal: Principal = ANYONE,
    ) -> bool:
        """`update_status` for what it answers at once. False: it is more than a mere refresh, and nothing was done. Raises
        `Unavailable` while refreshes cannot be stored."""
        key = SourceKey(source_id, worker_rank, worker_id)
        return self._writes.refresh(key, status, load, principal=principal)

    async def withdraw(
        self,
        source_id: str,
        worker_id: str,
        worker_rank: int | None = None,
        *,
        principal: Principal = ANYONE,
        deadline: float | None = None,
    ) -> bool:
        """Remove a worker's record, or all its ranks'. False if there was nothing to remove. Raises `NotAllowed` where one of
        them is another principal's; the others are removed all the same."""
        if not _possible(source_id, worker_id, worker_rank):
            return False
        withdraw = partial(self._withdraw, source_id, worker_id, worker_rank, principal)
        return await self._patience.write(withdraw, deadline)

    async def _withdraw(self, source_id: str, worker_id: str, worker_rank: int | None, principal: Principal) -> bool:
        if worker_rank is not None:
            return await self._writes.remove(SourceKey(source_id, worker_rank, worker_id).encode(), principal)
        keys = [held.record.key for held in self.directory.ranks(source_id, worker_id)]
        if not keys or self.directory.lost:
            keys = [record.key for record in await self._lookup.confirmed_ranks(source_id, worker_id)]
        removed, refused = False, None
        for key in keys:
            try:
                removed = await self._writes.remove(key.encode(), principal) or removed
            except NotAllowed as error:
                refused = error
        if refused is not None:
            raise refused
        return removed

    def scoped(self, query: Query, principal: Principal) -> Query:
        """The query as this principal may ask it. Raises `NotAllowed` where it names what is not in its scope."""
        return scoped(query, principal, self.directory)

    def report(self, transfer: Transfer, principal: Principal = ANYONE) -> None:
        """Take note of how an attempt to read from a source has ended. One that failed is handed out last for a while. What
        is said of sources that the principal may not see is not heeded."""
        if not principal.sees_all:
            held = self.directory.get(transfer.source.encode())
            if held is None or not principal.covers(held.record.model_name):
                return
        self._suspicions.report(transfer.source, transfer.outcome)

    async def watch(
        self, query: Query, resume_token: str = "", *, deadline: float | None = None
    ) -> AsyncGenerator[WatchEvent, None]:
        """What a query lets through, and then every change to that, until the iterator is closed.

        A first answer without sources is held like that of `select`. Raises `Unavailable` when the store is lost for
        good, and when the server stops.
        """
        if not (resume_token and self.watchers.can_resume(resume_token)):
            await self._lists.known(replace(query, limit=None, instances=False), deadline)
        async with contextlib.aclosing(self.watchers.watch(query, resume_token)) as events:
            async for event in events:
                yield event

    # The operations by their common names (connect is above)

    async def publish_metadata(
        self,
        identity: p2p_pb2.SourceIdentity,
        worker: p2p_pb2.WorkerMetadata | WorkerRecord,
        worker_id: str,
        *,
        pod: Pod = NO_POD,
        manifest: sources_pb2.Manifest | None = None,
    ) -> str:
        """`publish` from messages or a record; the source id."""
        message = worker.to_wire() if isinstance(worker, WorkerRecord) else worker
        return (await self.publish(Publication.of(identity, message, worker_id, pod=pod, manifest=manifest))).source_id

    async def get_metadata(self, source_id: str, worker_id: str) -> ModelMetadataRecord | None:
        """Everything that a worker id published under a source, a record a rank."""
        first = await self.stored(source_id, worker_id)
        if first is None:
            return None
        found = [first]
        for held in self.directory.ranks(source_id, worker_id):
            rank = held.record.key.worker_rank
            if rank != first.record.worker_rank and (other := await self.stored(source_id, worker_id, rank)):
                found.append(other)
        workers = (p2p_pb2.WorkerMetadata.FromString(source.current_worker()) for source in found)
        return ModelMetadataRecord(
            source_id=source_id,
            worker_id=worker_id,
            model_name=first.record.model_name,
            workers=tuple(WorkerRecord.from_wire(worker) for worker in workers),
            published_at=min(source.record.published_at for source in found),
        )

    async def list_workers(
        self, source_id: str | None = None, status: Status | None = None
    ) -> list[SourceInstanceInfo]:
        """The workers of one source, or of all, that have that status."""
        records = await self.select(Query(source_id=source_id, status=status))
        return [SourceInstanceInfo.from_record(record) for record in records]

    async def remove_metadata(self, source_id: str) -> int:
        """Remove everything of one source; how many records there were."""
        if not is_source_id(source_id):
            return 0
        entries = (await self._patience.ask(partial(self._store.list, SourceKey.prefix_of(source_id)), None)).entries
        return sum([await self._writes.remove(entry.key) for entry in entries])

    async def remove_worker(self, source_id: str, worker_id: str, worker_rank: int | None = None) -> bool:
        """`withdraw`."""
        return await self.withdraw(source_id, worker_id, worker_rank)

    async def list_sources(self) -> list[tuple[str, str]]:
        """Every source id and its model name, whatever the state of its workers, sorted by name."""
        await self._lists.known(Query(), None)
        return self.directory.sources()

    # Within

    def _hopeful(self) -> bool:
        """Whether a fault of the store may be a short one."""
        return self._health.serving and self.directory.silent_ms <= self.settings.ride_out * 1000

    async def _tick(self) -> None:
        """Let heartbeats run out and the feed's silence be noticed, as time passes."""
        while True:
            self._holding.tick()
            pause = _TICK_SECONDS
            due = self.directory.next_expiry_ms()
            if due is not None and not self.directory.lost:
                pause = min(_TICK_SECONDS, max(_MIN_TICK_SECONDS, due / 1000))
            if self.directory.synced:
                await self._clock.sleep(pause)
            else:
                # The first listing makes a server fit to answer, and who starts one waits for that.
                await settled_within(self._clock, pause, self.directory.changed.next())
            self.directory.sweep()
            self._suspicions.sweep()
            self._writes.forget_seen()
            serving = self._health.check()
            lost = self.directory.synced and not serving
            self.watchers.interrupt(Unavailable(self._health.reason) if lost else None)

    def _stopped(self, task: asyncio.Task[None]) -> None:
        """A background task has ended; unless it was told to, so has everything."""
        if task.cancelled():
            return
        error = task.exception() or RuntimeError(f"the task {task.get_name()!r} returned")
        self._health.close("the server is broken")
        self.watchers.interrupt(PeerloadError("the server is broken"))
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)
            self._ended.exception()


def _possible(source_id: str, worker_id: str, worker_rank: int | None) -> bool:
    """Whether there can be such a source; what cannot be need not be asked for."""
    return (
        is_source_id(source_id)
        and bool(worker_id)
        and len(worker_id) <= MAX_WORKER_ID_BYTES
        and len(worker_id.encode()) <= MAX_WORKER_ID_BYTES
        and (worker_rank is None or 0 <= worker_rank <= _MAX_RANK)
    )
