"""What every part of the client needs: the server, the engines, the threads; and the questions that move no weights."""

from __future__ import annotations

import asyncio
import random
import uuid
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from peerload.checkpoint import Skipped
from peerload.client.addresses import servers
from peerload.client.arguments import Seconds, destination, seconds, selection
from peerload.client.buffers import memories
from peerload.client.connection import Connection
from peerload.client.delivery import WeightStream
from peerload.client.engines import Engines
from peerload.client.explanation import Explanation, explain
from peerload.client.health import Health, ServerInfo, ask, describe
from peerload.client.host import advertised_host, topology_from
from peerload.client.identity import Identity, StockIdentity
from peerload.client.manifest import Item, SourceManifest
from peerload.client.publisher import Publisher
from peerload.client.pull import Pull, PullContext
from peerload.client.reports import Reader, Reports
from peerload.client.search import Wanted, fetch_manifest, find, follow
from peerload.client.settings import ClientSettings
from peerload.client.source import AsyncSource, Offer, OnSourceEvent, WorkerFacts
from peerload.client.sources import Selector, SourceChange, SourceInfo
from peerload.client.targets import SourceUnusable, Target
from peerload.client.threads import in_thread
from peerload.client.transfer import FOREVER_S, Served, Slot, transfer
from peerload.client.weights import OnProgress, PullProgress
from peerload.clock import Clock, SystemClock
from peerload.errors import InvalidArgument, Unavailable, VerificationFailed
from peerload.metadata.records import SourceKey
from peerload.wire import sources_pb2

__all__ = ["BaseClient"]

_THREADS: Final = 32
"""Pulls, digests and publications that block at once; more wait for their turn."""


class BaseClient:
    """Asks the server, and reads exactly what it is told to. `AsyncClient` adds publishing and pulling."""

    def __init__(
        self,
        address: str | None = None,
        *,
        host: str | None = None,
        topology: Mapping[str, str] | None = None,
        replica: str | None = None,
        settings: ClientSettings | None = None,
        engine_settings: Mapping[str, Mapping[str, Any]] | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._servers = servers(address)
        self.address = str(self._servers)
        self.settings = settings or ClientSettings.from_env()
        self._topology = topology_from(extra=topology)
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._engines = Engines(
            self.settings.engines, engine_settings or {}, partial(advertised_host, self.address, host)
        )
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="peerload-client")
        self._lazy_connection: Connection | None = None
        self._reports = Reports(lambda: self._connection, self._clock, enabled=self.settings.reports)
        self._publisher = Publisher(
            lambda: self._connection,
            self._engines,
            facts=WorkerFacts.from_env(self._topology),
            replica=replica,
            settings=self.settings,
            clock=self._clock,
            rng=self._rng,
            executor=self._executor,
        )
        self._streams: weakref.WeakSet[WeightStream[Any]] = weakref.WeakSet()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every source of this client, its engines and its connection. Closing twice is allowed."""
        await self._reports.close()
        self._closed = True
        try:
            await asyncio.gather(*(stream.interrupt() for stream in self._streams))
            await self._publisher.close()
        finally:
            await asyncio.get_running_loop().run_in_executor(None, self._stop_threads)
            connection, self._lazy_connection = self._lazy_connection, None
            if connection is not None:
                await connection.close()

    async def find(self, selector: Selector | Identity | str | None = None) -> list[SourceInfo]:
        """The sources that a selector (or an identity, or a model's exact name) lets through; all of them without one.

        Ordered by model, source id and rank, then newest first. Any status, unless the selector says which.
        """
        return await find(self._connection, selection(selector))

    async def watch(
        self,
        selector: Selector | Identity | str | None = None,
        *,
        on_outage: Callable[[Unavailable], None] | None = None,
    ) -> AsyncGenerator[SourceChange, None]:
        """The sources that are there, and then every change, until the caller stops; outages are ridden out.

        The first change is complete, and so is any after which earlier ones no longer count. `on_outage` is called once for
        each outage, with what it looks like; the next change tells that it is over.
        """
        away = False
        changes = follow(self._connection, selection(selector), self.settings, self._rng)
        async with aclosing(changes) as steps:
            async for step in steps:
                if not isinstance(step, Unavailable):
                    away = False
                    yield step
                elif not away:
                    away = True
                    if on_outage is not None:
                        on_outage(step)

    async def explain(
        self, model: str | Identity | None = None, *, source_id: str = "", limit: int = 20
    ) -> Explanation:
        """Why lists for a model, an identity or a source id matched nothing of late, and what they would match now.

        A model's name counts without case. Without any of them: every list of late. Told by the one server that answers,
        of what it was asked itself; at most `limit` reasons, 1,000 of them at most. Raises `InvalidArgument`.
        """
        return await explain(self._connection, model, source_id, limit)

    async def health(self, *, live: bool = False) -> Health:
        """Whether the server can answer calls, and why not; with `live`, whether it answers at all. Nobody need be allowed to
        ask. Raises `Unavailable` where none could be asked."""
        return await ask(self._connection, live=live)

    async def server_info(self) -> ServerInfo:
        """What the server is that answers, and how far its clock is from this host's."""
        return await describe(self._connection, self._clock)

    async def manifest(self, source: SourceInfo | SourceKey) -> SourceManifest:
        """What a source offers and how to read it.

        Raises `NotFound` if it is gone or was published by another client, `VerificationFailed` if its manifest is not valid.
        """
        key = source.key if isinstance(source, SourceInfo) else source
        try:
            return await fetch_manifest(self._connection, key, self._executor)
        except SourceUnusable as error:
            raise VerificationFailed(str(error)) from error

    async def read(
        self,
        found: SourceManifest,
        items: Iterable[Item] | None = None,
        *,
        into: Mapping[str, Any] | None = None,
        timeout: Seconds | None = None,
        progress: OnProgress | None = None,
    ) -> dict[str, memoryview]:
        """Read items (all, if none are named) from exactly that source, verified; their bytes by name.

        For engines that lay out memory themselves: `into` are writable buffers of the items' sizes, by name. Items of a
        checkpoint whose names repeat must be read apart. Raises `TransferFailed`, `VerificationFailed`, `InvalidArgument`.
        """
        chosen = list(found.manifest.items if items is None else items)
        names = [item.name for item in chosen]
        if len(set(names)) != len(names):
            raise InvalidArgument("items", "a name is there twice")
        endpoints = {endpoint.engine: endpoint for endpoint in found.manifest.endpoints}
        engine = next((name for name in self._engines.importers if name in endpoints), None)
        if engine is None:
            raise InvalidArgument("found", f"serves by {', '.join(endpoints)} only, which is not in use here")
        importer = await in_thread(self._executor, lambda stop: self._engines.importers[engine]())
        given = None if into is None else memories(into, writable=True)
        views = {item.name: destination(item, given, importer.allocate) for item in chosen}
        endpoint, total = endpoints[engine], sum(item.size for item in chosen)

        def report(done: int) -> None:
            if progress is not None:
                progress(PullProgress("reading", done, total, found.source, endpoint.address))

        slots = [Slot((item.name,), item.range, item.digest, views[item.name]) for item in chosen]
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds(timeout, FOREVER_S)
        await transfer(
            importer,
            await in_thread(self._executor, lambda stop: importer.open(endpoint)),
            lambda stop: [slots],
            origin=Served(found.source, endpoint.address),
            left=lambda: until - loop.time(),
            executor=self._executor,
            report=report,
        )
        return views

    async def withdraw(
        self, source: SourceInfo | SourceKey | str, worker_id: str | None = None, rank: int | None = None
    ) -> bool:
        """Take a record back: one worker's rank, or, by source id and worker id without `rank`, all its ranks. Whether there
        was anything. A worker that is alive publishes itself again at its next heartbeat."""
        if isinstance(source, str):
            if worker_id is None:
                raise InvalidArgument("worker_id", "is needed beside a source id")
            request = sources_pb2.WithdrawRequest(source_id=source, worker_id=worker_id, worker_rank=rank)
        else:
            request = sources_pb2.WithdrawRequest(
                source_id=source.source_id, worker_id=source.worker_id, worker_rank=source.worker_rank
            )
        return (await self._connection.withdraw(request)).withdrawn

    # Below here: how it is done.

    @property
    def _connection(self) -> Connection:
        if self._closed:
            raise RuntimeError("this client is closed")
        if self._lazy_connection is None:
            self._lazy_connection = Connection(self._servers, self.settings, clock=self._clock, rng=self._rng)
        return self._lazy_connection

    def _pull(
        self,
        which: Wanted,
        target: Target,
        wait: Seconds | None,
        timeout: Seconds | None,
        progress: OnProgress | None,
        publish: bool = False,
        executor: Executor | None = None,
    ) -> Pull:
        if publish and isinstance(which.selector.identity, StockIdentity):
            self._engines.agents()  # Before anything moves: it could not be published on.
        context = PullContext(
            connection=self._connection,
            importers=self._engines.importers,
            agents=self._engines.agent_importer if self._engines.of_agents else None,
            settings=self.settings,
            topology=self._topology,
            rng=self._rng,
            executor=executor or self._executor,
            own_workers=self._publisher.own_workers,
            own_addresses=self._publisher.own_addresses,
            reports=self._reports,
            reader=Reader(uuid.uuid4().hex, which.rank, self._topology.get("host", "")),
        )
        limit = None if timeout is None else seconds(timeout, 0.0)
        return Pull(context, which, target, wait=seconds(wait, 0.0), timeout=limit, progress=progress)

    async def _open(
        self, pull: Pull, offer: Offer, on_event: OnSourceEvent | None, skipped: tuple[Skipped, ...] = ()
    ) -> AsyncSource:
        """This process as a source of what it pulled: under the worker id by which it was reported as a reader, and at once,
        whether a server can be reached or not."""
        return await self._publisher.open(
            offer, skipped=skipped, on_event=on_event, patient=True, worker_id=pull.worker_id
        )

    def _stop_threads(self) -> None:
        self._engines.close()
        self._executor.shutdown(wait=True, cancel_futures=True)
