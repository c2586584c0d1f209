"""The metadata backend: the operations on sources, once, over any store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import TracebackType

from peerload.clock import Clock
from peerload.metadata.models import ModelMetadataRecord, SourceInstanceInfo
from peerload.metadata.publication import Publication
from peerload.metadata.query import Query
from peerload.metadata.records import NO_POD, Pod, SourceKey, SourceRecord, Status
from peerload.metadata.settings import MetadataSettings
from peerload.metadata.stored import StoredSource
from peerload.metadata.watch_event import WatchEvent
from peerload.store.base import Store
from peerload.wire import p2p_pb2, sources_pb2

__all__ = ["MetadataBackend"]


class MetadataBackend:
    """Sources over a store, with a directory in memory. Every method raises `Unavailable` for an outage, never an
    answer that looks like absence. Deadlines are moments of `clock.monotonic`."""

    def __init__(self, store: Store, clock: Clock, settings: MetadataSettings | None = None) -> None:
        raise NotImplementedError

    # Life

    async def connect(self) -> None:
        """Open the store and begin to follow it, in tasks of the running loop. Does not wait for the first listing."""
        raise NotImplementedError

    async def run(self) -> None:
        """Return once closed; raises what broke a background task. Connects first if that was not done."""
        raise NotImplementedError

    async def close(self) -> None:
        """Store the heartbeats that were answered, end every watch with `Unavailable`, close the store."""
        raise NotImplementedError

    async def __aenter__(self) -> MetadataBackend:
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError

    @property
    def serving(self) -> bool:
        """Whether answers can be given."""
        raise NotImplementedError

    @property
    def reason(self) -> str:
        """Why not, for people; empty while serving."""
        raise NotImplementedError

    async def health_changed(self, was: bool) -> bool:
        """Return `serving` once it is no longer `was`."""
        raise NotImplementedError

    def now(self) -> int:
        """The store's clock, milliseconds since 1970."""
        raise NotImplementedError

    # What the services need

    async def publish(self, publication: Publication) -> SourceKey:
        """Keep a publication, durably, in place of what was published under its key before."""
        raise NotImplementedError

    async def stored(self, source_id: str, worker_id: str, worker_rank: int | None = None) -> StoredSource | None:
        """What a worker published, with its present status; the lowest rank unless one is named. None only if the
        store confirmed that there is none. Raises `Damaged` where the store kept it badly."""
        raise NotImplementedError

    async def select(self, query: Query, *, deadline: float | None = None) -> Sequence[SourceRecord]:
        """The sources that a query lets through, by model, source id, rank, newest first (with a limit: newest first)."""
        raise NotImplementedError

    async def list_refs(self, query: Query, *, deadline: float | None = None) -> bytes:
        """The same as an encoded `ListSourcesResponse`, by rank and worker id (with a limit: newest first)."""
        raise NotImplementedError

    async def update_status(
        self, source_id: str, worker_id: str, worker_rank: int, status: Status, load: float | None = None
    ) -> bool:
        """A heartbeat and a status. False only if the store confirmed that there is no such source."""
        raise NotImplementedError

    async def withdraw(self, source_id: str, worker_id: str, worker_rank: int | None = None) -> bool:
        """Remove a worker's record, or all its ranks'. False if there was nothing to remove."""
        raise NotImplementedError

    def watch(
        self, query: Query, resume_token: str = "", *, deadline: float | None = None
    ) -> AsyncIterator[WatchEvent]:
        """What a query lets through, and then every change to that, until the iterator is closed."""
        raise NotImplementedError

    # The operations by their common names (connect is above)

    async def publish_metadata(
        self,
        identity: p2p_pb2.SourceIdentity,
        worker: p2p_pb2.WorkerMetadata,
        worker_id: str,
        *,
        pod: Pod = NO_POD,
        manifest: sources_pb2.Manifest | None = None,
    ) -> str:
        """`publish` from messages; the source id."""
        raise NotImplementedError

    async def get_metadata(self, source_id: str, worker_id: str) -> ModelMetadataRecord | None:
        """Everything that a worker id published under a source, a record a rank."""
        raise NotImplementedError

    async def list_workers(
        self, source_id: str | None = None, status: Status | None = None
    ) -> list[SourceInstanceInfo]:
        """The workers of one source, or of all, that have that status."""
        raise NotImplementedError

    async def remove_metadata(self, source_id: str) -> int:
        """Remove everything of one source; how many records there were."""
        raise NotImplementedError

    async def remove_worker(self, source_id: str, worker_id: str, worker_rank: int | None = None) -> bool:
        """`withdraw`."""
        raise NotImplementedError

    async def list_sources(self) -> list[tuple[str, str]]:
        """Every source id and its model name, whatever the state of its workers, sorted by name."""
        raise NotImplementedError
