"""The sources of one client: opened, told apart from others', and closed together."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable
from concurrent.futures import Executor

from peerload.checkpoint import Skipped
from peerload.client.connection import Connection
from peerload.client.engines import Engines
from peerload.client.ranks import ALONE, Membership
from peerload.client.settings import ClientSettings
from peerload.client.source import AsyncSource, Offer, OnSourceEvent, WorkerFacts
from peerload.client.stock.artifact_source import AsyncArtifact
from peerload.client.stock.serving import Bench
from peerload.client.threads import in_thread
from peerload.clock import Clock
from peerload.metadata.records import Form

__all__ = ["Publisher"]


class Publisher:
    """Opens sources with what they have in common. `connection` gives the client's, when it is first needed."""

    def __init__(
        self,
        connection: Callable[[], Connection],
        engines: Engines,
        *,
        facts: WorkerFacts,
        replica: str | None,
        settings: ClientSettings,
        clock: Clock,
        rng: random.Random,
        executor: Executor,
    ) -> None:
        self._connection = connection
        self._engines = engines
        self.facts = facts
        self._replica = replica
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._executor = executor
        self.bench = Bench(engines.host, clock=clock, executor=executor)
        """Where stock readers find what is served."""
        self.artifacts: set[AsyncArtifact] = set()
        """Those that are served."""
        self._sources: list[AsyncSource] = []
        self.own_workers: set[str] = set()
        """Worker ids of all sources there were; a pull of this client passes them over."""
        self.own_addresses: set[tuple[str, str]] = set()
        """Engine and address of where they are or were read from."""

    async def open(
        self,
        offer: Offer,
        *,
        skipped: tuple[Skipped, ...] = (),
        on_event: OnSourceEvent | None = None,
        patient: bool = False,
        worker_id: str = "",
    ) -> AsyncSource:
        """A source that serves, is published and heartbeats; `patient` as in `AsyncSource.start`. Its worker id is a fresh
        one, unless one is given that no source has had."""
        # Checkpoints are whole; of runtime weights each rank has its own.
        whole = offer.manifest.form is Form.CHECKPOINT
        source = AsyncSource(
            self._connection(),
            await in_thread(self._executor, lambda stop: self._engines.exporters(device=offer.on_device)),
            offer,
            worker_id=worker_id or uuid.uuid4().hex,
            membership=ALONE if whole else Membership.of(offer.rank, self._replica),
            registering=self._engines.registering,
            bench=self.bench,
            facts=self.facts,
            settings=self._settings,
            clock=self._clock,
            rng=self._rng,
            executor=self._executor,
            skipped=skipped,
            on_event=on_event,
            on_closed=self._sources.remove,
        )
        self._sources.append(source)
        # Before it is published: a pull of this client that runs meanwhile must not meet it.
        self.own_workers.add(source.worker_id)
        await source.start(patient=patient)
        self.own_addresses |= {(endpoint.engine, endpoint.address) for endpoint in source.manifest.endpoints}
        return source

    async def close(self) -> None:
        """Close every source."""
        await asyncio.gather(
            *(source.close() for source in list(self._sources)), *(each.close() for each in list(self.artifacts))
        )
        await self.bench.close()
