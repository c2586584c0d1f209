"""One pull of an artifact: workers in order, what is right is kept, until it is whole or nobody is left."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peerload.client.connection import Connection
from peerload.client.identity import StockIdentity
from peerload.client.reports import Reader, Reports
from peerload.client.search import find, follow, get_manifest
from peerload.client.selection import order
from peerload.client.settings import ClientSettings
from peerload.client.sources import Selector, SourceInfo, SourceKey, Status
from peerload.client.stock.artifact import ArtifactManifest
from peerload.client.stock.calls import WorkerCalls
from peerload.client.stock.pulling import ArtifactReader, fetch_artifact
from peerload.client.stock.staging import ArtifactStaging
from peerload.client.targets import SourceUnusable
from peerload.client.threads import in_thread, relay
from peerload.client.weights import Attempt, OnProgress, PullProgress
from peerload.engines.agents import AgentImporter
from peerload.errors import (
    InvalidCheckpoint,
    NoSource,
    NotFound,
    PullFailed,
    TransferFailed,
    Unavailable,
    VerificationFailed,
)
from peerload.wire import p2p_pb2

__all__ = ["ArtifactContext", "ArtifactPull", "PulledArtifact", "WantedArtifact"]

_CALL_S: Final = 10.0
_MAX_DELAY_S: Final = 5.0
_MAX_ATTEMPTS: Final = 200


@dataclass(frozen=True, slots=True)
class PulledArtifact:
    """An artifact, complete and with every checksum right, in the folders that were named."""

    local_dir: Path
    identity: StockIdentity
    artifact_id: str
    files: int
    """How many were written, in all folders."""
    bytes_total: int
    """Of the archives that came, or of the files where they came as they are."""
    bytes_reused: int
    """Of these, what an earlier pull had left."""
    seconds: float
    """From the first source found to the last file in place."""
    attempts: tuple[Attempt, ...]
    """The workers that were tried, in order; the last one completed it."""


@dataclass(frozen=True, slots=True)
class WantedArtifact:
    """Which artifact: any of that identity, unless it is named; from workers of any rank and node, unless those are."""

    identity: StockIdentity
    artifact_id: str = ""
    rank: int | None = None
    node_rank: int | None = None
    accelerator: str = ""


@dataclass(frozen=True, slots=True)
class ArtifactContext:
    """What a pull has from its client. `importer` blocks; `engine` is its name."""

    connection: Connection
    importer: Callable[[], AgentImporter]
    engine: str
    settings: ClientSettings
    topology: Mapping[str, str]
    rng: random.Random
    executor: Executor
    own_workers: Collection[str]
    reports: Reports
    reader: Reader


class ArtifactPull:
    """Fills folders with one artifact. `run` is called once, `close` in any case."""

    def __init__(
        self,
        context: ArtifactContext,
        wanted: WantedArtifact,
        local_dir: Path,
        roots: Mapping[str, Path],
        progress: OnProgress | None,
    ) -> None:
        self._context = context
        self._wanted = wanted
        self._local_dir = local_dir
        self._roots = roots
        self._progress = progress
        self._selector = Selector(identity=wanted.identity, rank=wanted.rank, status=Status.READY)
        self._attempts: list[Attempt] = []
        self._banned: set[SourceKey] = set()
        self._failures: dict[SourceKey, int] = {}
        self._manifest: ArtifactManifest | None = None
        self._staging: ArtifactStaging | None = None
        self._right: set[int] = set()
        self._reused = 0

    async def run(self, wait: float) -> PulledArtifact:
        """Pull; wait up to so many seconds for a source. Raises what `AsyncClient.pull_artifact` raises."""
        context = self._context
        loop = asyncio.get_running_loop()
        sources = self._usable(await find(context.connection, self._selector))
        if not sources and wait > 0:
            sources = await self._appear(wait)
        begun = loop.time()
        delay = context.settings.retry_delay
        rounds = 0
        outage_since: float | None = None
        while sources and rounds < context.settings.tries:
            before = self._bytes()
            outage: Unavailable | None = None
            try:
                for source in order(sources, topology=context.topology, rng=context.rng, failures=self._failures):
                    if await self._try(source):
                        return await self._installed(begun)
            except Unavailable as error:
                outage = error
            await asyncio.sleep(delay * context.rng.uniform(0.5, 1.0))
            delay = min(delay * 2, _MAX_DELAY_S)
            try:
                sources = self._usable(await find(context.connection, self._selector))
            except Unavailable as error:
                outage = error
            if outage is None:
                outage_since = None
                rounds = 0 if self._bytes() > before else rounds + 1
            elif outage_since is None:
                outage_since = loop.time()
                self._tell(PullProgress("waiting", reason=str(outage)))
            elif loop.time() - outage_since >= context.settings.outage_patience:
                raise outage
        if not self._attempts:
            raise NoSource(f"nobody has an artifact of {self._selector}")
        text = f"no source of the artifact of {self._selector} could give it"
        raise PullFailed(text, [str(attempt) for attempt in self._attempts])

    async def _installed(self, begun: float) -> PulledArtifact:
        """Put the files in place."""
        files = await in_thread(self._context.executor, lambda stop: self._whole().install())
        assert self._manifest is not None
        return PulledArtifact(
            self._local_dir,
            self._wanted.identity,
            self._manifest.artifact_id,
            files,
            self._manifest.total_size,
            self._reused,
            asyncio.get_running_loop().time() - begun,
            tuple(self._attempts),
        )

    async def close(self) -> None:
        """Let go of the folders; what is unfinished stays for the next pull."""
        staging, self._staging = self._staging, None
        if staging is not None:
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._context.executor, staging.close))

    async def _appear(self, seconds: float) -> list[SourceInfo]:
        """Sources as soon as there are any; none, if there were none for that long. Raises `Unavailable` if that is not
        known."""
        held: dict[SourceKey, SourceInfo] = {}
        outage: Unavailable | None = None
        self._tell(PullProgress("waiting"))
        changes = follow(self._context.connection, self._selector, self._context.settings, self._context.rng)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), aclosing(changes) as steps:
                async for step in steps:
                    outage = step if isinstance(step, Unavailable) else None
                    if isinstance(step, Unavailable):
                        continue
                    if step.complete:
                        held.clear()
                    held.update((source.key, source) for source in step.present)
                    for key in step.gone:
                        held.pop(key, None)
                    if sources := self._usable(held.values()):
                        return sources
        if outage is not None:
            raise outage
        return []

    def _usable(self, sources: Collection[SourceInfo]) -> list[SourceInfo]:
        return [
            source
            for source in sources
            if source.worker_id not in self._context.own_workers
            and source.key not in self._banned
            and _compatible(self._wanted.accelerator, source.accelerator)
        ]

    async def _try(self, source: SourceInfo) -> bool:
        """Read what is missing from one source; whether everything is here now. Raises `Unavailable`."""
        endpoint = error = ""
        before = self._bytes()
        try:
            response = await get_manifest(self._context.connection, source.key)
            worker = self._check(response.worker)
            endpoint = worker.worker_grpc_endpoint
            async with WorkerCalls(endpoint, source.source_id, timeout=_CALL_S) as calls:
                manifest, agent = await fetch_artifact(calls, worker.artifact_source)
                await self._stage(manifest)
                await self._read(calls, manifest, agent or worker.agent_name, source)
            await self._look()
        except (SourceUnusable, VerificationFailed, NotFound) as failure:
            self._banned.add(source.key)
            error = str(failure)
        except TransferFailed as failure:
            self._failures[source.key] = self._failures.get(source.key, 0) + 1
            error = str(failure)
        if len(self._attempts) < _MAX_ATTEMPTS:
            self._attempts.append(Attempt(source, endpoint, error, max(0, self._bytes() - before)))
        return not error

    def _check(self, worker: p2p_pb2.WorkerMetadata) -> p2p_pb2.WorkerMetadata:
        if worker.WhichOneof("source_payload") != "artifact_source":
            raise SourceUnusable("has no artifact")
        if not worker.worker_grpc_endpoint:
            raise SourceUnusable("does not say where its WorkerService is")
        if not _compatible(self._wanted.accelerator, worker.accelerator):
            raise SourceUnusable(f"is for {worker.accelerator[:100]!r}")
        if self._wanted.node_rank not in (None, worker.artifact_source.node_rank):
            raise SourceUnusable(f"is of node {worker.artifact_source.node_rank}")
        if self._wanted.artifact_id not in ("", worker.artifact_source.artifact_id):
            raise SourceUnusable("has another artifact than the one that was asked for")
        return worker

    async def _stage(self, manifest: ArtifactManifest) -> None:
        """Make ready for the artifact, unless that is done; another one begins anew."""
        if self._manifest is not None and self._manifest.artifact_id == manifest.artifact_id:
            return
        if manifest.source_type != int(self._wanted.identity.source_type):
            raise SourceUnusable(f"has an artifact of another kind ({manifest.source_type})")
        await self.close()
        self._manifest = None
        told = relay(lambda done, total: self._tell(PullProgress("checking", done, total)))

        def prepare(stop: threading.Event) -> None:
            self._staging = ArtifactStaging(manifest, self._local_dir, self._roots)
            self._right = self._staging.right(stop, lambda done, total: told(stop, done, total))

        await in_thread(self._context.executor, prepare)
        self._manifest = manifest
        self._reused = self._bytes()

    async def _read(self, calls: WorkerCalls, manifest: ArtifactManifest, agent: str, source: SourceInfo) -> None:
        context = self._context
        loop = asyncio.get_running_loop()

        def done(index: int) -> None:
            loop.call_soon_threadsafe(arrived, index)

        def arrived(index: int) -> None:
            self._right.add(index)
            tell()

        def tell() -> None:
            step = PullProgress("reading", self._bytes(), manifest.total_size, source, calls.endpoint, self._reused)
            self._tell(step)

        tell()
        missing = [index for index in range(len(manifest.chunks)) if index not in self._right]
        if missing:
            importer = await in_thread(context.executor, lambda stop: context.importer())
            reader = ArtifactReader(
                calls, importer, agent, manifest, self._whole(), executor=context.executor, done=done
            )
            left = sum(manifest.chunks[index].length for index in missing)
            with context.reports.attempt(context.reader, source, context.engine, self._bytes, left):
                await reader.run(missing)

    async def _look(self) -> None:
        """Whether what is whole is safe too; another source may have another artifact."""
        try:
            await in_thread(self._context.executor, lambda stop: self._whole().look())
        except InvalidCheckpoint as error:
            raise SourceUnusable(f"its archive is unsafe: {error}") from error

    def _whole(self) -> ArtifactStaging:
        assert self._staging is not None
        return self._staging

    def _bytes(self) -> int:
        if self._manifest is None:
            return 0
        return sum(self._manifest.chunks[index].length for index in self._right)

    def _tell(self, progress: PullProgress) -> None:
        if self._progress is not None:
            self._progress(progress)


def _compatible(wanted: str, offered: str) -> bool:
    """Whether what was made for one accelerator is for the other; what is not said is not held against anybody."""
    return not wanted or not offered or wanted == offered
