"""The calls of the client that share and pull artifacts: compile caches and their like."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from peerload.checkpoint import Progress
from peerload.client.arguments import Seconds, seconds
from peerload.client.base import BaseClient
from peerload.client.identity import SourceType, StockIdentity
from peerload.client.opening import Opening
from peerload.client.ranks import own_rank
from peerload.client.registration import OnSourceEvent
from peerload.client.reports import Reader
from peerload.client.stock.artifact import MAX_CHUNK_BYTES
from peerload.client.stock.artifact_pull import ArtifactContext, ArtifactPull, PulledArtifact, WantedArtifact
from peerload.client.stock.artifact_source import AsyncArtifact, Served
from peerload.client.stock.crc import new_crc
from peerload.client.stock.sealing import seal
from peerload.client.threads import in_thread, relay
from peerload.client.weights import OnProgress
from peerload.errors import DeadlineExceeded, InvalidArgument

__all__ = ["ArtifactCalls"]

CHUNK_BYTES: Final = 16 << 20
"""Bytes of a chunk: small enough that a few in memory are no burden, large enough that asking for each is none."""


class ArtifactCalls(BaseClient):
    """Part of `AsyncClient`."""

    def share_artifact(
        self,
        folder: Path | str,
        identity: StockIdentity,
        *,
        roots: Mapping[str, Path | str] | None = None,
        rank: int | None = None,
        node_rank: int = 0,
        accelerator: str = "",
        chunk_size: int = CHUNK_BYTES,
        spool: Path | str | None = None,
        progress: Progress | None = None,
        on_event: OnSourceEvent | None = None,
    ) -> Opening[AsyncArtifact]:
        """Serve a folder as an artifact (a compile cache, say), for workers of the stock package and for `pull_artifact`.

        The folder, and each of `roots` by name, is packed into an archive of its own on this machine's disk, below `spool` or where
        temporary files go; links and special files are left out, and named in `artifact.skipped`. `identity` says which cache it is:
        its `source_type` is one of those that are no weights. `rank`, `node_rank` and `accelerator` are for readers that choose by
        them (stock readers want their own node's rank, and take any accelerator where none is named). Eight chunks of `chunk_size`
        bytes at most are held in memory.

            async with client.share_artifact("/var/cache/triton", identity) as artifact:
                ...

        Needs the engine `nixl`. Raises `InvalidArgument`, `InvalidCheckpoint` naming what cannot be shared, `MissingExtra`, `OSError`.
        """
        _check_identity(identity)
        if not 0 < chunk_size <= MAX_CHUNK_BYTES:
            raise InvalidArgument("chunk_size", f"{chunk_size} is not 1 to {MAX_CHUNK_BYTES} bytes")
        own = own_rank(rank)

        async def start() -> AsyncArtifact:
            engines = self._engines
            served = Served(
                self._connection,
                self._publisher.bench,
                engines.agent_exporter,
                lambda nbytes: engines.agent_importer().allocate(nbytes),
                self._publisher.facts,
                self.settings,
                self._rng,
                self._executor,
            )
            engines.agents()
            told = relay(progress)
            sealed = await in_thread(
                self._executor,
                lambda stop: seal(
                    Path(folder),
                    {name: Path(root) for name, root in (roots or {}).items()},
                    source_type=int(identity.source_type),
                    chunk_size=chunk_size,
                    spool=None if spool is None else Path(spool),
                    stop=stop,
                    progress=lambda done, total: told(stop, done, total),
                ),
            )
            artifact = AsyncArtifact(
                served,
                identity,
                sealed,
                worker_id=uuid.uuid4().hex,
                rank=own,
                node_rank=node_rank,
                accelerator=accelerator,
                on_event=on_event,
                on_closed=self._publisher.artifacts.discard,
            )
            self._publisher.artifacts.add(artifact)
            self._publisher.own_workers.add(artifact.key.worker_id)
            await artifact.start()
            return artifact

        return Opening(start)

    async def pull_artifact(
        self,
        identity: StockIdentity,
        local_dir: Path | str,
        *,
        roots: Mapping[str, Path | str] | None = None,
        artifact_id: str = "",
        rank: int | None = None,
        node_rank: int | None = None,
        accelerator: str = "",
        wait: Seconds | None = None,
        timeout: Seconds | None = None,
        progress: OnProgress | None = None,
    ) -> PulledArtifact:
        """Fetch an artifact into a folder, from a worker of either package.

        Any artifact of that identity will do, unless `artifact_id` names one; `rank` and `node_rank` keep to workers of that rank,
        `accelerator` to those that name no other. An artifact's further folders go where `roots` says, by their names. Nothing of it
        is in place before every checksum was right; what is in the folders already stays, except files of the same names. A pull that was
        cut short is taken up again. `wait` is how long to wait for a source.

        Compile caches are code: whoever may publish under an identity can have it run where they are used. Checksums find
        corruption only; an `artifact_id` that comes from somebody trusted is what the manifest is checked against.

        Needs the engine `nixl`. Raises `NoSource`, `PullFailed` with a line for each attempt, `InvalidArgument`, `InvalidCheckpoint`
        naming what is unsafe, `NotAllowed` while another pull fills a folder, `LimitExceeded` where the disk is too small,
        `DeadlineExceeded`, `Unavailable`, `MissingExtra`, `OSError`.
        """
        _check_identity(identity)
        engine = self._engines.agents()
        new_crc()
        context = ArtifactContext(
            connection=self._connection,
            importer=self._engines.agent_importer,
            engine=engine,
            settings=self.settings,
            topology=self._topology,
            rng=self._rng,
            executor=self._executor,
            own_workers=self._publisher.own_workers,
            reports=self._reports,
            reader=Reader(uuid.uuid4().hex, own_rank(rank), self._topology.get("host", "")),
        )
        folders = {name: Path(root) for name, root in (roots or {}).items()}
        wanted = WantedArtifact(identity, artifact_id, rank, node_rank, accelerator)
        pull = ArtifactPull(context, wanted, Path(local_dir), folders, progress)
        limit = None if timeout is None else seconds(timeout, 0.0)
        try:
            async with asyncio.timeout(limit):
                return await pull.run(seconds(wait, 0.0))
        except TimeoutError:
            raise DeadlineExceeded(f"the pull of {identity.model!r} was not done within {limit:g} s") from None
        finally:
            await pull.close()


def _check_identity(identity: StockIdentity) -> None:
    if identity.source_type in (SourceType.WEIGHTS, SourceType.LORA):
        raise InvalidArgument("identity", f"its source_type is {identity.source_type.name}, which is no artifact")
