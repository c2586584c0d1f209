"""This process as a source: its bytes are served, its record is published, and it heartbeats until closed."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import os
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeAlias, cast

from peerload.checkpoint import Skipped
from peerload.client.connection import Connection
from peerload.client.host import available_memory
from peerload.client.identity import Identity
from peerload.client.manifest import Manifest, write_manifest
from peerload.client.ranks import Membership
from peerload.client.settings import ClientSettings
from peerload.clock import Clock
from peerload.engines.base import DeviceMemory, Exporter, Publication, Region
from peerload.errors import InvalidArgument, LimitExceeded, NotFound, PeerloadError, Unavailable
from peerload.metadata.records import SourceKey, Status
from peerload.wire import p2p_pb2, sources_pb2
from peerload.wire.identity import source_id

__all__ = ["AsyncSource", "Offer", "OnSourceEvent", "SourceEvent", "SourceState", "WorkerFacts"]

_log: Final = logging.getLogger("peerload.client")
_FIRST_RETRY_S: Final = 1.0
_LOOK_S: Final = 0.1
_CLOSE_S: Final = 5.0
"""How long a source that ends tries to take its record back; a record left behind runs out by itself."""
_GIVE_UP_S: Final = 1.0
"""The same for one that never began, because its publishing had no answer."""


class SourceState(enum.Enum):
    """Where a source of this process stands."""

    STARTING = "starting"
    LIVE = "live"
    """Published, and the last heartbeat was taken."""
    UNREACHABLE = "unreachable"
    """The last heartbeat was not taken; it goes on trying, and serves meanwhile."""
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """A source entered `state`; `reason` says why where that is not plain."""

    state: SourceState
    reason: str = ""


OnSourceEvent: TypeAlias = Callable[[SourceEvent], None]
"""Called on the event loop's thread."""


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
        facts: WorkerFacts,
        settings: ClientSettings,
        clock: Clock,
        rng: random.Random,
        executor: Executor,
        skipped: tuple[Skipped, ...] = (),
        on_event: OnSourceEvent | None = None,
        on_closed: Callable[[AsyncSource], None] | None = None,
    ) -> None:
        self._connection = connection
        self._exporters = exporters
        self._offer: Offer | None = offer
        self._membership = membership
        self._registering = registering
        self._facts = facts
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._executor = executor
        self._on_event = on_event
        self._on_closed = on_closed
        self._publications: list[tuple[Exporter, Publication]] = []
        self._request = sources_pb2.PublishRequest()
        self._heart: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._state = SourceState.STARTING
        self._announced = False
        self.key = SourceKey(source_id(offer.identity), offer.rank, worker_id)
        self.identity = Identity.from_wire(offer.identity)
        self.manifest = offer.manifest
        self.skipped = skipped
        """Files of a shared folder that are not served."""

    @property
    def state(self) -> SourceState:
        """Where it stands."""
        return self._state

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
            loop = asyncio.get_running_loop()
            self._request = await loop.run_in_executor(self._executor, self._encode, offer)
            # Peers may come the moment the record is there, so the bytes are served before it.
            self._announced = True
            await self._announce(patient)
        except BaseException as error:
            # Of a publish without an answer nobody knows whether it took effect; a refused one did not.
            if self._announced and isinstance(error, (Unavailable, asyncio.CancelledError)):
                await self._withdraw(_GIVE_UP_S)
            await self._retire(0.0)
            self._end()
            raise
        self._heart = asyncio.create_task(self._beat_forever(), name=f"peerload-heartbeat-{self.worker_id}")

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
        response = await self._connection.update_status(
            p2p_pb2.UpdateStatusRequest(
                mx_source_id=self.source_id,
                worker_rank=self.rank,
                worker_id=self.worker_id,
                status=cast(p2p_pb2.SourceStatus, int(Status.READY)),
                source_load=self.load,
            )
        )
        if not response.success:
            _log.warning("the server lost %s (%s): publishing again", self.key.encode(), response.message)
            await self._connection.publish(self._request)
            self._enter(SourceState.LIVE, "published: the server had no record")
        elif self._state is not SourceState.LIVE:
            self._enter(SourceState.LIVE, "the server is back")

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
        return f"<AsyncSource {self.key.encode()!r}: {self._state.value}>"

    async def _announce(self, patient: bool) -> None:
        try:
            await self._connection.publish(self._request)
        except Unavailable as error:
            if not patient:
                raise
            # The first heartbeat that gets through will be told that the server knows no such worker.
            _log.warning("publishing %s: %s", self.key.encode(), error)
            self._enter(SourceState.UNREACHABLE, str(error))
        else:
            self._enter(SourceState.LIVE)

    async def _serve(self, offer: Offer) -> None:
        loop = asyncio.get_running_loop()
        regions = [Region(view) for view in offer.regions]
        refused: InvalidArgument | None = None
        for name, exporter in self._exporters.items():
            if name in self._registering:
                self._check_room(name, await loop.run_in_executor(self._executor, exporter.copies, regions))
            try:
                publication = await loop.run_in_executor(self._executor, exporter.publish, regions)
            except InvalidArgument as error:
                # Memory that it cannot serve: others may.
                _log.debug("%s does not serve %s: %s", name, self.key.encode(), error)
                refused = refused or error
            else:
                self._publications.append((exporter, publication))
        if refused is not None and not self._publications:
            raise refused

    def _check_room(self, engine: str, needed: int) -> None:
        """Say how much memory an engine is about to copy. Raises `LimitExceeded` if there is not room for that."""
        if not needed:
            return
        available = available_memory()
        if needed > available:
            text = f"{engine} must copy {needed:,} bytes of memory to serve them, and this machine has {available:,} to spare"
            raise LimitExceeded("weights", text, limit=available)
        self._enter(SourceState.STARTING, f"{engine} copies {needed:,} bytes of memory")

    def _encode(self, offer: Offer) -> sources_pb2.PublishRequest:
        facts = self._facts
        return sources_pb2.PublishRequest(
            record=p2p_pb2.PublishMetadataRequest(
                identity=offer.identity,
                worker=p2p_pb2.WorkerMetadata(
                    worker_rank=offer.rank,
                    status=cast(p2p_pb2.SourceStatus, int(Status.READY)),
                    accelerator="cuda" if offer.on_device else facts.accelerator,
                    topology=facts.topology,
                ),
                worker_id=self.worker_id,
                pod_name=facts.pod_name,
                pod_uid=facts.pod_uid,
                pod_namespace=facts.pod_namespace,
            ),
            manifest=write_manifest(self.manifest),
            replica=self._membership.replica,
            world_size=self._membership.world_size,
        )

    async def _beat_forever(self) -> None:
        failures = 0 if self._state is SourceState.LIVE else 1
        interval = self._settings.heartbeat_interval
        while True:
            # Spread, so that a fleet that started together does not call together.
            pause = min(interval, _FIRST_RETRY_S * 2.0 ** min(failures - 1, 16)) if failures else interval
            await self._clock.sleep(pause * self._rng.uniform(0.8, 1.0))
            try:
                await self.beat()
                failures = 0
            except PeerloadError as error:
                failures += 1
                if self._state is not SourceState.UNREACHABLE:
                    _log.warning("heartbeat of %s: %s", self.key.encode(), error)
                    self._enter(SourceState.UNREACHABLE, str(error))

    async def _close(self) -> None:
        if self._heart is not None:
            self._heart.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._heart
        try:
            if self._state in (SourceState.LIVE, SourceState.UNREACHABLE):
                await self._withdraw(_CLOSE_S)
        finally:
            await self._retire(self._settings.retire_grace)
            self._end()

    async def _withdraw(self, seconds: float) -> None:
        request = sources_pb2.WithdrawRequest(source_id=self.source_id, worker_id=self.worker_id, worker_rank=self.rank)
        try:
            async with asyncio.timeout(seconds):
                await self._connection.withdraw(request)
        except (Unavailable, NotFound, TimeoutError) as error:
            _log.warning("%s could not be withdrawn, and will run out by itself: %s", self.key.encode(), error)

    async def _retire(self, grace: float) -> None:
        loop = asyncio.get_running_loop()
        publications, self._publications = self._publications, []
        for exporter, publication in publications:
            await loop.run_in_executor(self._executor, partial(exporter.retire, publication, grace=grace))
        self._offer = None

    def _end(self) -> None:
        self._enter(SourceState.CLOSED)
        if self._on_closed is not None:
            self._on_closed(self)

    def _enter(self, state: SourceState, reason: str = "") -> None:
        self._state = state
        if self._on_event is not None:
            # Not called from here: what a callback raises is for the loop to report, and must not stop a heart.
            asyncio.get_running_loop().call_soon(self._on_event, SourceEvent(state, reason))
