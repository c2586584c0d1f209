"""This process as a source: its bytes are served, its record is published, and it heartbeats until closed."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Final, Self, cast

from peerload.checkpoint import Skipped
from peerload.client.connection import Connection
from peerload.client.host import available_memory
from peerload.client.identity import SourceType, StockIdentity, read_identity
from peerload.client.manifest import Manifest, write_manifest
from peerload.client.ranks import Membership
from peerload.client.registration import OnSourceEvent, Registration, SourceEvent, SourceState
from peerload.client.settings import ClientSettings
from peerload.client.stock.serving import Bench, StockTensors
from peerload.client.threads import in_thread
from peerload.clock import Clock
from peerload.engines.agents import AgentExporter
from peerload.engines.base import DeviceMemory, Exporter, Publication, Region
from peerload.errors import InvalidArgument, LimitExceeded, Unavailable
from peerload.metadata.records import SourceKey, Status
from peerload.wire import p2p_pb2, sources_pb2
from peerload.wire.identity import source_id

__all__ = ["AsyncSource", "Offer", "OnSourceEvent", "SourceEvent", "SourceState", "WorkerFacts"]

_log: Final = logging.getLogger("peerload.client")
_LOOK_S: Final = 0.1
_CLOSE_S: Final = 5.0
"""How long a source that ends tries to take its record back; a record left behind runs out by itself."""
_GIVE_UP_S: Final = 1.0
"""The same for one that never began, because its publishing had no answer."""


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What a worker tells of itself beside its weights."""

    topology: Mapping[str, str]
    accelerator: str = "cpu"
    pod_name: str = ""
    pod_uid: str = ""
    pod_namespace: str = ""

    @classmethod
    def from_env(cls, topology: Mapping[str, str], env: Mapping[str, str] | None = None) -> Self:
        """The facts, with the Pod that POD_NAME, POD_UID and POD_NAMESPACE name."""
        env = os.environ if env is None else env
        return cls(
            topology,
            pod_name=env.get("POD_NAME", ""),
            pod_uid=env.get("POD_UID", ""),
            pod_namespace=env.get("POD_NAMESPACE", ""),
        )


@dataclass(frozen=True, slots=True)
class Offer:
    """What is to be published: the identity as it goes on the wire, a manifest without endpoints, and the regions that its
    items lie in. `owner` keeps their memory alive."""

    identity: p2p_pb2.SourceIdentity
    rank: int
    manifest: Manifest
    regions: Sequence[memoryview | DeviceMemory]
    owner: object = field(default=None, repr=False)

    @property
    def on_device(self) -> bool:
        """Whether any of it is in an accelerator's memory."""
        return any(isinstance(region, DeviceMemory) for region in self.regions)


class AsyncSource:
    """Weights that this process serves. Made by `AsyncClient.publish`, `share` and pulls that publish.

    Until it is closed (`await source.close()`, or leaving its `async with`) peers may read the memory: it must not change.
    The record carries a heartbeat every `ClientSettings.heartbeat_interval`. Where the server lost it, it is published again;
    while no server can be reached, the source serves those that already know it, and keeps trying.
    """

    def __init__(
        self,
        connection: Connection,
        exporters: Mapping[str, Exporter],
        offer: Offer,
        *,
        worker_id: str,
        membership: Membership,
        registering: Collection[str] = (),
        bench: Bench | None = None,
        facts: WorkerFacts,
        settings: ClientSettings,
        clock: Clock,
        rng: random.Random,
        executor: Executor,
        skipped: tuple[Skipped, ...] = (),
        on_event: OnSourceEvent | None = None,
        on_closed: Callable[[AsyncSource], None] | None = None,
    ) -> None:
        self._exporters = exporters
        self._offer: Offer | None = offer
        self._membership = membership
        self._registering = registering
        self._facts = facts
        self._bench = bench
        self._settings = settings
        self._clock = clock
        self._executor = executor
        self._on_closed = on_closed
        self._publications: list[tuple[Exporter, Publication]] = []
        self._stock: StockTensors | None = None
        self._request = sources_pb2.PublishRequest()
        self._closing: asyncio.Task[None] | None = None
        self._announced = False
        self.key = SourceKey(source_id(offer.identity), offer.rank, worker_id)
        self.identity = read_identity(offer.identity)
        self.manifest = offer.manifest
        self.skipped = skipped
        """Files of a shared folder that are not served."""
        self._connection = connection
        self._registration = Registration(
            connection,
            self.key,
            publish=self._publish,
            load=lambda: self.load,
            changed=self._changed,
            settings=settings,
            clock=clock,
            rng=rng,
            on_event=on_event,
        )

    @property
    def state(self) -> SourceState:
        """Where it stands."""
        return self._registration.state

    @property
    def source_id(self) -> str:
        """The id of the identity: what every source of the same weights has in common."""
        return self.key.source_id

    @property
    def worker_id(self) -> str:
        """This source's own id, fresh for each."""
        return self.key.worker_id

    @property
    def rank(self) -> int:
        """The worker's global rank."""
        return self.key.worker_rank

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it is read from, one address an engine."""
        return tuple(publication.descriptor.address for _, publication in self._publications)

    @property
    def load(self) -> float:
        """How busy it is serving, 0 to 1."""
        return max((exporter.load() for exporter, _ in self._publications), default=0.0)

    async def start(self, *, patient: bool = False) -> None:
        """Serve, then publish, then heartbeat. What fails leaves nothing behind. Once only.

        A `patient` source begins without a server that cannot be reached, and publishes when it can be.
        """
        assert self._offer is not None
        offer = self._offer
        try:
            await self._serve(offer)
            self.manifest = replace(
                offer.manifest, endpoints=tuple(publication.descriptor for _, publication in self._publications)
            )
            await self._encode(offer)
            # Peers may come the moment the record is there, so the bytes are served before it.
            self._announced = True
            await self._registration.announce(patient=patient)
        except BaseException as error:
            # Of a publish without an answer nobody knows whether it took effect; a refused one did not.
            if self._announced and isinstance(error, (Unavailable, asyncio.CancelledError)):
                await self._registration.withdraw(_GIVE_UP_S)
            await self._retire(0.0)
            self._end()
            raise
        self._registration.start()

    async def close(self) -> None:
        """Take the record back, let readers finish for `ClientSettings.retire_grace`, and stop serving.

        When this returns the memory is the caller's alone again. A server that cannot be reached does not hinder it:
        the record then runs out by itself. Closing twice is allowed.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        # A caller that is cancelled must not leave the memory half retired.
        await asyncio.shield(self._closing)

    async def beat(self) -> None:
        """Send one heartbeat now; publish again where the server says that it does not know this worker.

        Raises `Unavailable` if no server could be reached, `PeerloadError` for what else it answers.
        """
        await self._registration.beat()

    async def quiet(self, seconds: float) -> None:
        """Return once nobody has been reading from it for so long, from now on."""
        since = self._clock.monotonic()
        while (left := since + seconds - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(left, _LOOK_S))
            if self.load:
                since = self._clock.monotonic()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncSource {self.key.encode()!r}: {self.state.value}>"

    async def _serve(self, offer: Offer) -> None:
        loop = asyncio.get_running_loop()
        regions = [Region(view) for view in offer.regions]
        refused: InvalidArgument | None = None
        for name, exporter in self._exporters.items():
            if name in self._registering:
                self._check_room(name, await loop.run_in_executor(self._executor, exporter.copies, regions))
            try:
                await in_thread(self._executor, partial(self._publish_by, exporter, regions))
            except InvalidArgument as error:
                # Memory that it cannot serve: others may.
                _log.debug("%s does not serve %s: %s", name, self.key.encode(), error)
                refused = refused or error
        if refused is not None and not self._publications:
            raise refused
        if isinstance(self.identity, StockIdentity):
            self._stock = await self._serve_stock(offer)

    def _publish_by(self, exporter: Exporter, regions: Sequence[Region], stop: threading.Event) -> None:
        # Noted here, on the thread: of one whose caller was cancelled meanwhile nobody else would know, and retire it.
        self._publications.append((exporter, exporter.publish(regions)))

    async def _serve_stock(self, offer: Offer) -> StockTensors:
        """Serve readers of the stock package too, who find this source under its identity."""
        kind = cast(StockIdentity, self.identity).source_type
        if kind not in (SourceType.WEIGHTS, SourceType.LORA):
            raise InvalidArgument("model", f"its source_type is {kind.name}, which is an artifact: use share_artifact")
        for exporter, publication in self._publications:
            if isinstance(exporter, AgentExporter) and self._bench is not None:
                return await StockTensors.open(self._bench, exporter, publication, self.key, offer.manifest.items)
        in_use = ", ".join(self._exporters)
        raise InvalidArgument(
            "model", f"is a StockIdentity, whose readers speak NIXL alone, and this client serves by {in_use}: add nixl"
        )

    async def _publish(self) -> None:
        """Send the record and the manifest."""
        if self._offer is not None and await self._changed():
            await self._encode(self._offer)
        await self._connection.publish(self._request)

    def _check_room(self, engine: str, needed: int) -> None:
        """Say how much memory an engine is about to copy. Raises `LimitExceeded` if there is not room for that."""
        if not needed:
            return
        available = available_memory()
        if needed > available:
            text = f"{engine} must copy {needed:,} bytes of memory to serve them, and this machine has {available:,} to spare"
            raise LimitExceeded("weights", text, limit=available)
        self._registration.enter(SourceState.STARTING, f"{engine} copies {needed:,} bytes of memory")

    async def _changed(self) -> bool:
        return self._stock is not None and await self._stock.changed()

    async def _encode(self, offer: Offer) -> None:
        """Make the request of what is to be published."""
        facts = self._facts
        worker = p2p_pb2.WorkerMetadata(
            worker_rank=offer.rank,
            status=cast(p2p_pb2.SourceStatus, int(Status.READY)),
            accelerator="cuda" if offer.on_device else facts.accelerator,
            topology=facts.topology,
        )
        if self._stock is not None:
            await self._stock.describe(worker)
        loop = asyncio.get_running_loop()
        self._request = await loop.run_in_executor(self._executor, self._message, offer, worker)

    def _message(self, offer: Offer, worker: p2p_pb2.WorkerMetadata) -> sources_pb2.PublishRequest:
        facts = self._facts
        return sources_pb2.PublishRequest(
            record=p2p_pb2.PublishMetadataRequest(
                identity=offer.identity,
                worker=worker,
                worker_id=self.worker_id,
                pod_name=facts.pod_name,
                pod_uid=facts.pod_uid,
                pod_namespace=facts.pod_namespace,
            ),
            manifest=write_manifest(self.manifest),
            replica=self._membership.replica,
            world_size=self._membership.world_size,
        )

    async def _close(self) -> None:
        await self._registration.stop()
        try:
            if self.state in (SourceState.LIVE, SourceState.UNREACHABLE):
                await self._registration.withdraw(_CLOSE_S)
        finally:
            await self._retire(self._settings.retire_grace)
            self._end()

    async def _retire(self, grace: float) -> None:
        loop = asyncio.get_running_loop()
        publications, self._publications = self._publications, []
        if self._stock is not None:
            # Readers of the stock package say when they begin and end; those that never end are cut off with the rest.
            await self._stock.drain(grace)
            await self._stock.close()
        for exporter, publication in publications:
            await loop.run_in_executor(self._executor, partial(exporter.retire, publication, grace=grace))
        self._offer = None

    def _end(self) -> None:
        self._registration.enter(SourceState.CLOSED)
        if self._on_closed is not None:
            self._on_closed(self)
