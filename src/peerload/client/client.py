"""The asynchronous client: one object for publishing, finding and pulling."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from peerload.checkpoint import Progress
from peerload.client.arguments import Seconds, destination, seconds, selection, wanted
from peerload.client.buffers import memories
from peerload.client.cache_calls import CacheCalls
from peerload.client.connection import Connection
from peerload.client.engines import Engines
from peerload.client.folders import Folder
from peerload.client.host import advertised_host, topology_from
from peerload.client.identity import Identity
from peerload.client.manifest import Item, SourceManifest
from peerload.client.memory import MemoryTarget, offer_tensors
from peerload.client.opening import Opening
from peerload.client.publisher import Publisher
from peerload.client.pull import Pull, PullContext
from peerload.client.search import Wanted, fetch_manifest, find, follow
from peerload.client.settings import ClientSettings, server_address
from peerload.client.source import AsyncSource, Offer, OnSourceEvent, WorkerFacts
from peerload.client.sources import Selector, SourceChange, SourceInfo
from peerload.client.targets import FolderTarget, SourceUnusable
from peerload.client.threads import in_thread, relay
from peerload.client.transfer import FOREVER_S, Served, Slot, transfer
from peerload.client.weights import OnProgress, PulledFolder, PullProgress, Weights
from peerload.clock import Clock, SystemClock
from peerload.engines.base import Range
from peerload.errors import InvalidArgument, Unavailable, VerificationFailed
from peerload.hub.patterns import Patterns
from peerload.metadata.records import Form, SourceKey
from peerload.wire import sources_pb2

__all__ = ["AsyncClient"]

_THREADS: Final = 32
"""Pulls, digests and publications that block at once; more wait for their turn."""


class AsyncClient(CacheCalls):
    """A connection to a Peerload server, and the engines that move bytes between this process and its peers.

    `address` is the server's `HOST:PORT`; where it is not given, PEERLOAD_SERVER, MODEL_EXPRESS_URL and MX_SERVER_ADDRESS
    are asked, then it is localhost:8001. `host` is the name or address under which peers reach this process (else
    MX_WORKER_HOST, else the address from which the server is reached). `topology` adds to what PEERLOAD_TOPOLOGY says
    (`zone=a,rack=b`). `engine_settings` are each engine's own, by its name. `clock` and `rng` are for tests.

    Nothing is connected or started before it is needed. Belongs to one event loop; close it, or use it as an asynchronous
    context manager: that ends its sources too. Every method may raise `Unavailable` where no server answers in time.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        host: str | None = None,
        topology: Mapping[str, str] | None = None,
        settings: ClientSettings | None = None,
        engine_settings: Mapping[str, Mapping[str, Any]] | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.address = server_address(address)
        self.settings = settings or ClientSettings.from_env()
        self._topology = topology_from(extra=topology)
        self._rng = rng or random.Random()
        self._engines = Engines(
            self.settings.engines, engine_settings or {}, partial(advertised_host, self.address, host)
        )
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="peerload-client")
        self._lazy_connection: Connection | None = None
        self._publisher = Publisher(
            lambda: self._connection,
            self._engines,
            facts=WorkerFacts.from_env(self._topology),
            settings=self.settings,
            clock=clock or SystemClock(),
            rng=self._rng,
            executor=self._executor,
        )
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every source of this client, its engines and its connection. Closing twice is allowed."""
        self._closed = True
        try:
            await self._publisher.close()
        finally:
            await asyncio.get_running_loop().run_in_executor(None, self._stop_threads)
            connection, self._lazy_connection = self._lazy_connection, None
            if connection is not None:
                await connection.close()

    def publish(
        self,
        tensors: Mapping[str, Any],
        *,
        model: str | Identity,
        rank: int = 0,
        copy: bool = False,
        digests: bool = True,
        progress: Progress | None = None,
        on_event: OnSourceEvent | None = None,
    ) -> Opening[AsyncSource]:
        """Serve tensors from this process's memory, and publish them for peers to pull.

        `tensors` maps names to numpy arrays, torch tensors in host memory, or anything with the buffer protocol. They are
        served where they are, and must not change until the source is closed. Those that are not contiguous are
        refused, or copied with `copy`. Their digests are computed first (`progress` is told bytes done and in all); without
        `digests` those who pull cannot check what arrives. `model` is a name, or an identity where more than the name
        makes the weights what they are; `rank` the worker's global rank.

            async with client.publish({"w": array}, model="org/name") as source:
                ...

        Raises `InvalidArgument` naming the tensor.
        """
        identity = model if isinstance(model, Identity) else Identity(model=model)
        if identity.form is Form.CHECKPOINT:
            raise InvalidArgument("model", "tensors are published in runtime form; share a folder instead")

        async def start() -> AsyncSource:
            told = relay(progress)

            def read(stop: threading.Event) -> Offer:
                return offer_tensors(tensors, identity, rank, copy, digests, partial(told, stop))

            offer = await in_thread(self._executor, read)
            return await self._publisher.open(offer, on_event=on_event)

        return Opening(start)

    def share(
        self,
        folder: Path | str,
        *,
        model: str = "",
        revision: str = "",
        allow_code: bool = False,
        progress: Progress | None = None,
        on_event: OnSourceEvent | None = None,
    ) -> Opening[AsyncSource]:
        """Serve the files of a model's folder, in checkpoint form.

        Every file is read once for its digests (`progress` is told bytes done and in all), then served from memory maps,
        without a second copy; the files must not change meanwhile. Files that may run code are left out unless
        `allow_code`; `source.skipped` names what was left out. Of a snapshot in a Hugging Face cache, the path tells model
        and commit, where they are not given; its links may not lead out of the cache.

        Raises `InvalidCheckpoint` naming the file, and `OSError`.
        """

        async def start() -> AsyncSource:
            shared = await in_thread(self._executor, lambda stop: Folder.at(Path(folder), model, revision))
            return await self._share(shared, allow_code, progress, on_event)

        return Opening(start)

    async def pull(
        self,
        model: str | Identity,
        *,
        rank: int = 0,
        revision: str | None = None,
        form: Form | None = None,
        content: str = "",
        wait: Seconds | None = None,
        timeout: Seconds | None = None,
        into: Mapping[str, Any] | None = None,
        publish: bool = False,
        progress: OnProgress | None = None,
        on_event: OnSourceEvent | None = None,
    ) -> Weights[AsyncSource]:
        """Fetch weights from a peer's memory into this process's, verified.

        By an identity: exactly those of that identity and `rank`. By name: whatever sources of that name have, in
        either form; `revision`, `form` and `content` (what a checkpoint's content digest begins with) say which where they
        differ. `wait`: how long to wait for a source to appear (the server tells; nothing is polled). `timeout`: how long
        it may take in all. `into` are writable arrays or buffers by name, to be filled in place (runtime form); what they hold
        after a failure is undefined. With `publish` this process becomes a source of them in turn, `weights.source`, which
        publishes later if no server can be reached by then.

        Raises `NoSource` (a fact), `Ambiguous` (sources of that name hold different weights; nothing was moved),
        `PullFailed` with a line for each attempt, `DeadlineExceeded`, `Unavailable`.
        """
        filled = None if into is None else memories(into, writable=True)
        target = MemoryTarget(filled, need_digests=publish)
        pull = self._pull(wanted(model, revision, form, content, rank), target, wait, timeout, progress)
        report = await pull.run()
        assert pull.found is not None
        weights = target.weights(pull.found, report)
        if publish:
            weights.source = await self._publisher.open(target.offer(pull.found), on_event=on_event, patient=True)
        return weights

    async def pull_folder(
        self,
        model: str,
        local_dir: Path | str,
        *,
        revision: str | None = None,
        content: str = "",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        wait: Seconds | None = None,
        timeout: Seconds | None = None,
        share: bool = False,
        allow_code: bool = False,
        progress: OnProgress | None = None,
        on_event: OnSourceEvent | None = None,
    ) -> PulledFolder[AsyncSource]:
        """Fetch the files of a model into a folder, verified, byte for byte.

        Files take their names only when everything is verified. What an earlier pull left, or the folder already has, is
        checked and not moved again. `include` and `exclude` are patterns as `hf download` has them (extra `hub`). Files that
        may run code are left out unless `allow_code`. With `share` this process serves the folder in turn, as
        `PulledFolder.source`. For the rest see `pull`.

        Raises what `pull` raises, `InvalidCheckpoint` for names that are unsafe here, `NotAllowed` while another pull fills
        the folder, `LimitExceeded` where the disk is too small, and `OSError`.
        """
        patterns = Patterns(tuple(include), tuple(exclude))
        target = FolderTarget(Path(local_dir), allow_code=allow_code, patterns=patterns)
        which = replace(wanted(model, revision, Form.CHECKPOINT, content, 0), part=str(patterns))
        pull = self._pull(which, target, wait, timeout, progress)
        try:
            report = await pull.run()
            staging = await in_thread(self._executor, lambda stop: target.commit())
        finally:
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._executor, target.close))
        assert pull.found is not None
        identity = pull.found.identity
        folder: PulledFolder[AsyncSource] = PulledFolder(
            target.local_dir, identity, staging.kept, staging.skipped, report
        )
        if not share:
            return folder
        shared = Folder(
            target.local_dir, identity.model, identity.revision, part=target.part_of(pull.found.source.part)
        )
        offer = await in_thread(self._executor, lambda stop: shared.known(staging.kept))
        source = await self._publisher.open(offer, skipped=staging.skipped, on_event=on_event, patient=True)
        return folder.served_by(source)

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

        await transfer(
            importer,
            endpoint,
            [
                Slot((item.name,), Range(item.region, item.offset, item.size), item.digest, views[item.name])
                for item in chosen
            ],
            origin=Served(found.source, endpoint.address),
            deadline=seconds(timeout, FOREVER_S),
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
            self._lazy_connection = Connection(self.address, self.settings, rng=self._rng)
        return self._lazy_connection

    def _pull(
        self,
        which: Wanted,
        target: MemoryTarget | FolderTarget,
        wait: Seconds | None,
        timeout: Seconds | None,
        progress: OnProgress | None,
    ) -> Pull:
        context = PullContext(
            connection=self._connection,
            importers=self._engines.importers,
            settings=self.settings,
            topology=self._topology,
            rng=self._rng,
            executor=self._executor,
            own_workers=self._publisher.own_workers,
            own_addresses=self._publisher.own_addresses,
        )
        limit = None if timeout is None else seconds(timeout, 0.0)
        return Pull(context, which, target, wait=seconds(wait, 0.0), timeout=limit, progress=progress)

    def _stop_threads(self) -> None:
        self._engines.close()
        self._executor.shutdown(wait=True, cancel_futures=True)
