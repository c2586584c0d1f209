"""Reading what a target lacks, from one source, at one of its endpoints."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from peerload.client.connection import Connection
from peerload.client.manifest import SourceManifest
from peerload.client.mapped import mapped_regions
from peerload.client.measures import MEASURES
from peerload.client.reports import Reader as ReadBy
from peerload.client.reports import Reports
from peerload.client.settings import ClientSettings
from peerload.client.sources import SourceInfo
from peerload.client.targets import Allocate, SourceUnusable, Target
from peerload.client.threads import in_thread, relay
from peerload.client.transfer import Served, transfer
from peerload.client.weights import OnProgress, PullProgress
from peerload.engines.agents import AgentImporter
from peerload.engines.base import Descriptor, Importer, MappingReader, Reader
from peerload.engines.shared import allocate_shared

__all__ = ["PullContext", "Reads"]


@dataclass(frozen=True, slots=True)
class PullContext:
    """What a pull has from its client."""

    connection: Connection
    importers: Mapping[str, Callable[[], Importer]]
    """By engine name, in order of preference; made when first asked for."""
    agents: Callable[[], AgentImporter] | None
    """The one of them that reads from stock workers too, if there is one."""
    settings: ClientSettings
    topology: Mapping[str, str]
    rng: random.Random
    executor: Executor
    own_workers: Collection[str]
    """Worker ids of this client's own sources."""
    own_addresses: Collection[tuple[str, str]]
    """Engine and address of this client's own endpoints."""
    reports: Reports
    """Where to tell how each attempt ended."""
    reader: ReadBy
    """As whom."""


class Reads:
    """The reads of one pull, all into one target."""

    def __init__(self, context: PullContext, target: Target, tell: OnProgress) -> None:
        self._context = context
        self._target = target
        self._tell = tell
        self._begun = 0

    @property
    def verified(self) -> int:
        """Bytes of the target that are in place."""
        return sum(slot.size for slot in self._target.slots if slot.verified)

    def endpoints(self, found: SourceManifest) -> list[Descriptor]:
        """The ways to read from a source, by our preference of engines; at least one. Raises `SourceUnusable`."""
        given = {endpoint.engine: endpoint for endpoint in found.manifest.endpoints}
        endpoints = [given[name] for name in self._context.importers if name in given]
        if not endpoints:
            raise SourceUnusable("serves by no engine that is in use here")
        if any((endpoint.engine, endpoint.address) in self._context.own_addresses for endpoint in endpoints):
            raise SourceUnusable("this process's own endpoint")
        return endpoints

    async def read(self, found: SourceManifest, source: SourceInfo, endpoint: Descriptor, deadline: float) -> None:
        """Read what is missing, until it is there or the loop's clock says `deadline`. Raises `TransferFailed`,
        `VerificationFailed`, `SourceUnusable`, and what the target raises."""
        context, target = self._context, self._target
        loop = asyncio.get_running_loop()

        told = relay(lambda done, total: self._tell(PullProgress("checking", done, total)))

        def plan(stop: threading.Event) -> tuple[Importer, Reader]:
            importer = context.importers[endpoint.engine]()
            reader = importer.open(endpoint)
            try:
                mapped = None
                if target.maps and isinstance(reader, MappingReader):
                    views = reader.map(deadline=max(0.001, deadline - loop.time()))
                    mapped = None if views is None else mapped_regions(views)
                target.plan(found.manifest, _allocator(importer, target), partial(told, stop), mapped)
            except BaseException:
                reader.close()
                raise
            return importer, reader

        importer, reader = await in_thread(context.executor, plan)
        # One pass: of tens of thousands of slots each takes a millisecond.
        total = base = reused = 0
        whole = True
        for slot in target.slots:
            total += slot.size
            if not slot.verified:
                whole = False
                continue
            base += slot.size
            if slot.origin is None:
                reused += slot.size

        def report(done: int) -> None:
            self._tell(PullProgress("reading", base + done, total, source, endpoint.address, reused))

        report(0)
        if whole:
            await in_thread(context.executor, lambda stop: reader.close())
        else:
            if self._begun:
                MEASURES.retry(endpoint.engine)
            self._begun += 1
            with context.reports.attempt(
                context.reader, source, endpoint.engine, lambda: self.verified, total - base
            ) as under:

                def moved(done: int) -> None:
                    under.moved = done
                    report(done)

                await transfer(
                    importer,
                    reader,
                    target.batches,
                    origin=Served(source, endpoint.address),
                    left=lambda: deadline - loop.time(),
                    executor=context.executor,
                    report=moved,
                )
        report(total - base)


def _allocator(importer: Importer, target: Target) -> Allocate:
    """Memory for a target: such as can be given to others on this host, if it is to be served to them and there is any."""
    if not target.shares:
        return importer.allocate

    def allocate(nbytes: int) -> memoryview:
        try:
            return allocate_shared(nbytes, "peerload weights")
        except OSError:
            return importer.allocate(nbytes)

    return allocate
