"""An artifact that this process serves: sealed, published under its identity, and read by its peers chunk by chunk."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, Self, cast

from peerload.client.connection import Connection
from peerload.client.identity import StockIdentity
from peerload.client.registration import OnSourceEvent, Registration, SourceState
from peerload.client.settings import ClientSettings
from peerload.client.source import WorkerFacts
from peerload.client.stock.artifact import ArtifactManifest, source_metadata
from peerload.client.stock.pool import ChunkPool
from peerload.client.stock.sealing import Sealed
from peerload.client.stock.service import ArtifactSource
from peerload.client.stock.serving import Bench, Stand
from peerload.client.threads import in_thread
from peerload.engines.agents import AgentExporter, Exposed
from peerload.engines.base import Publication, Region
from peerload.errors import TransferFailed, Unavailable
from peerload.metadata.records import SourceKey, Status
from peerload.wire import p2p_pb2

__all__ = ["AsyncArtifact", "Served"]

_CLOSE_S: Final = 5.0
_SLOTS: Final = 8
"""Chunks in memory at once. A reader of the stock package takes four."""


@dataclass(frozen=True, slots=True)
class Served:
    """What an artifact's source has from its client."""

    connection: Connection
    bench: Bench
    exporter: Callable[[], AgentExporter]
    allocate: Callable[[int], memoryview]
    """Gives memory that the exporter serves where it is. Both block."""
    facts: WorkerFacts
    settings: ClientSettings
    rng: random.Random
    executor: Executor


class AsyncArtifact:
    """An artifact that this process serves. Made by `AsyncClient.share_artifact`.

    Until it is closed (`await artifact.close()`, or leaving its `async with`) peers of either package may read it, and its
    record heartbeats. The folder that it was made of may change meanwhile: what is served is a copy.
    """

    def __init__(
        self,
        served: Served,
        identity: StockIdentity,
        sealed: Sealed,
        *,
        worker_id: str,
        rank: int,
        node_rank: int,
        accelerator: str,
        on_event: OnSourceEvent | None,
        on_closed: Callable[[AsyncArtifact], None],
    ) -> None:
        self._served = served
        self._sealed = sealed
        self._node_rank = node_rank
        self._accelerator = accelerator
        self._on_closed = on_closed
        self._publication: tuple[AgentExporter, Publication] | None = None
        self._stand: Stand | None = None
        self._pool: ChunkPool | None = None
        self._told = ""
        self._closing: asyncio.Task[None] | None = None
        self.identity = identity
        self.skipped = sealed.skipped
        """What of the folders is not served, and why."""
        self.key = SourceKey(identity.source_id, rank, worker_id)
        self._registration = Registration(
            served.connection,
            self.key,
            publish=self._publish,
            load=lambda: self.load,
            changed=self._changed,
            settings=served.settings,
            clock=served.bench.clock,
            rng=served.rng,
            on_event=on_event,
        )

    @property
    def artifact_id(self) -> str:
        """The digest of the artifact's manifest: equal for equal content."""
        return self._manifest.artifact_id

    @property
    def total_size(self) -> int:
        """Bytes of its archives."""
        return self._manifest.total_size

    @property
    def state(self) -> SourceState:
        """Where it stands."""
        return self._registration.state

    @property
    def load(self) -> float:
        """How busy it is serving, 0 to 1."""
        return 0.0 if self._pool is None else self._pool.load

    async def start(self) -> None:
        """Serve, then publish, then heartbeat. What fails leaves nothing behind. Once only."""
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._retire, 0.0)
            await self._serve()
            try:
                await self._registration.announce()
            except (Unavailable, asyncio.CancelledError):
                # Nobody knows whether it took effect.
                await self._registration.withdraw(1.0)
                raise
            undo.pop_all()
        self._registration.start()

    async def close(self) -> None:
        """Take the record back, let readers finish for `ClientSettings.retire_grace`, and stop serving. Closing twice is
        allowed."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def beat(self) -> None:
        """Send one heartbeat now; see `AsyncSource.beat`."""
        await self._registration.beat()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncArtifact {self.key.encode()!r}: {self.state.value}>"

    @property
    def _manifest(self) -> ArtifactManifest:
        return self._sealed.manifest

    async def _serve(self) -> None:
        served, manifest = self._served, self._manifest
        loop = asyncio.get_running_loop()
        exporter = await loop.run_in_executor(served.executor, served.exporter)
        slot_bytes = min(manifest.chunk_size, max((chunk.length for chunk in manifest.chunks), default=1))
        slots = min(_SLOTS, max(1, len(manifest.chunks)))
        memory = await loop.run_in_executor(served.executor, served.allocate, slots * slot_bytes)

        def publish(stop: threading.Event) -> None:
            # Noted here, on the thread: of one whose caller was cancelled meanwhile nobody else would know, and retire it.
            self._publication = exporter, exporter.publish([Region(memory)])

        await in_thread(served.executor, publish)
        self._pool = ChunkPool(
            memory, slot_bytes, self._sealed.read, clock=served.bench.clock, executor=served.executor
        )
        self._stand = await served.bench.stand(self._exposed)
        self._stand.serve(
            ArtifactSource(
                self.key.source_id,
                self.key.worker_rank,
                self._stand.metadata_endpoint,
                manifest,
                self._pool,
                slot_bytes,
                self._exposed,
            )
        )

    async def _exposed(self, hold: float) -> Exposed:
        if self._publication is None:
            raise TransferFailed("this artifact is not served any more", retryable=False)
        return await self._served.bench.exposed(*self._publication, hold)

    async def _changed(self) -> bool:
        try:
            return self._told != (await self._exposed(0.0)).agent
        except TransferFailed:
            return False

    async def _publish(self) -> None:
        assert self._stand is not None
        facts, agent = self._served.facts, (await self._exposed(0.0)).agent
        await self._served.connection.publish_metadata(
            p2p_pb2.PublishMetadataRequest(
                identity=self.identity.to_wire(),
                worker=p2p_pb2.WorkerMetadata(
                    worker_rank=self.key.worker_rank,
                    status=cast(p2p_pb2.SourceStatus, int(Status.READY)),
                    metadata_endpoint=self._stand.metadata_endpoint,
                    agent_name=agent,
                    worker_grpc_endpoint=self._stand.worker_endpoint,
                    accelerator=self._accelerator,
                    topology=facts.topology,
                    artifact_source=source_metadata(self._manifest, self._node_rank),
                ),
                worker_id=self.key.worker_id,
                pod_name=facts.pod_name,
                pod_uid=facts.pod_uid,
                pod_namespace=facts.pod_namespace,
            )
        )
        self._told = agent

    async def _close(self) -> None:
        await self._registration.stop()
        try:
            await self._registration.withdraw(_CLOSE_S)
        finally:
            await self._retire(self._served.settings.retire_grace)

    async def _retire(self, grace: float) -> None:
        loop = asyncio.get_running_loop()
        if self._pool is not None:
            await self._pool.drain(grace)
        if self._stand is not None:
            await self._stand.close()
        if self._publication is not None:
            exporter, publication = self._publication
            self._publication = None
            await loop.run_in_executor(self._served.executor, partial(exporter.retire, publication, grace=0.0))
        await loop.run_in_executor(self._served.executor, self._sealed.close)
        self._registration.enter(SourceState.CLOSED)
        self._on_closed(self)
