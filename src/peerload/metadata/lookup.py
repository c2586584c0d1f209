"""Sources with what they published: as the directory knows them, or as the store confirms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from peerload.errors import Damaged, NotFound, Unavailable
from peerload.metadata.confirm import Confirm
from peerload.metadata.directory.directory import Directory
from peerload.metadata.directory.held import Held
from peerload.metadata.health import Health
from peerload.metadata.holding import Holding
from peerload.metadata.patience import Patience
from peerload.metadata.publications.blobs import Parts
from peerload.metadata.publications.manifests import Manifests
from peerload.metadata.publications.stored import StoredSource
from peerload.metadata.records import SourceKey, SourceRecord
from peerload.metadata.writes import ATTEMPTS
from peerload.store.base import Entry

__all__ = ["Lookup"]


class Lookup:
    """Finds one source. What the directory knows is good enough, if it has seen this server's own writes; that something is
    not there, only the store says. `seen` tells of a key whether it has, `now` is the store's clock."""

    def __init__(
        self,
        directory: Directory,
        manifests: Manifests,
        *,
        health: Health,
        holding: Holding,
        patience: Patience,
        confirm: Confirm,
        seen: Callable[[str], bool],
        now: Callable[[], int],
    ) -> None:
        self._directory = directory
        self._manifests = manifests
        self._health = health
        self._holding = holding
        self._patience = patience
        self._confirm = confirm
        self._seen = seen
        self._now = now

    async def find(
        self, source_id: str, worker_id: str, worker_rank: int | None, deadline: float | None
    ) -> StoredSource | None:
        """See `MetadataBackend.stored`."""
        await self._holding.known(deadline)
        unsure = False
        for _ in range(ATTEMPTS):
            record = self._held(source_id, worker_id, worker_rank)
            if unsure or record is None or not self._seen(record.key.encode()):
                record = await self._patience.ask(lambda: self._confirmed(source_id, worker_id, worker_rank), deadline)
            if record is None:
                return None
            for _ in range(ATTEMPTS):
                key = record.key.encode()
                try:
                    parts = await self._parts(key, record.generation, deadline)
                except NotFound:
                    entry = await self._patience.ask(partial(self._confirm.entry, key), deadline)
                    if entry is None:
                        break  # removed just now; perhaps there is another rank
                    if entry.generation == record.generation:
                        raise Damaged(f"the store has lost what {key!r} published") from None
                    record = self._judged(entry)
                else:
                    return StoredSource(record, parts.identity, parts.worker, parts.manifest)
            else:
                break
            unsure = not await self._directory.seen(key, record.store_revision + 1)
        raise Unavailable("the source is published over and over; try again")

    def at_hand(self, source_id: str, worker_id: str, worker_rank: int | None) -> StoredSource | None:
        """`find` for what can be answered at once. None: nothing is said."""
        if self._health.reason:
            return None
        record = self._held(source_id, worker_id, worker_rank)
        if record is None:
            return None
        key = record.key.encode()
        parts = self._manifests.cached(key, record.generation) if self._seen(key) else None
        return None if parts is None else StoredSource(record, parts.identity, parts.worker, parts.manifest)

    async def confirmed_ranks(self, source_id: str, worker_id: str) -> list[SourceRecord]:
        """The records of all ranks of a worker id as the store has them, the lowest rank first."""
        entries = await self._confirm.source(source_id)
        # A worker id may hold a slash, so the end of a key does not tell.
        mine = [entry for entry in entries if _worker_of(entry) == worker_id]
        return sorted(map(self._judged, mine), key=lambda record: record.worker_rank)

    async def _parts(self, key: str, generation: int, deadline: float | None) -> Parts:
        parts = self._manifests.cached(key, generation)
        if parts is not None:
            return parts
        return await self._patience.ask(partial(self._manifests.read, key, generation), deadline)

    def _held(self, source_id: str, worker_id: str, worker_rank: int | None) -> SourceRecord | None:
        self._directory.sweep()
        for held in self._directory.ranks(source_id, worker_id):
            if worker_rank is None or held.record.key.worker_rank == worker_rank:
                return held.view()
        return None

    async def _confirmed(self, source_id: str, worker_id: str, worker_rank: int | None) -> SourceRecord | None:
        """The record as the store has it."""
        if worker_rank is None:
            records = await self.confirmed_ranks(source_id, worker_id)
            return records[0] if records else None
        entry = await self._confirm.entry(SourceKey(source_id, worker_rank, worker_id).encode())
        return None if entry is None else self._judged(entry)

    def _judged(self, entry: Entry) -> SourceRecord:
        """A record from the store with the status that it has by now."""
        held = Held(SourceRecord.from_entry(entry), self._now())
        held.expired = held.heard < self._directory.liveness.cutoff(self._directory.now())
        held.refresh()
        return held.view()


def _worker_of(entry: Entry) -> str | None:
    """The worker id in an entry's key; None for one that is no source's."""
    try:
        return SourceKey.decode(entry.key).worker_id
    except ValueError:
        return None
