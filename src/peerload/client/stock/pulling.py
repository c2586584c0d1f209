"""Pulling an artifact from the workers that have it, one after the other until it is whole."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from peerload.client.stock.agents import host_of
from peerload.client.stock.artifact import ArtifactChunk, ArtifactManifest, read_chunks, read_header
from peerload.client.stock.calls import WorkerBusy, WorkerCalls
from peerload.client.stock.crc import Crc, new_crc
from peerload.client.stock.staging import ArtifactStaging
from peerload.client.targets import SourceUnusable
from peerload.client.threads import Stopped, in_thread
from peerload.engines.agents import ADDRESS_SPACE, AgentImporter
from peerload.engines.base import Job, JobState, Range, Reader
from peerload.errors import (
    Fault,
    InvalidArgument,
    InvalidCheckpoint,
    TransferFailed,
    VerificationFailed,
)
from peerload.wire import p2p_pb2

__all__ = ["ArtifactReader", "fetch_artifact"]

_CALL_S: Final = 10.0
_BATCH_CHUNKS: Final = 4
"""Chunks that are asked for at once: as many as the stock package has room for."""
_BATCH_BYTES: Final = 64 << 20
"""Memory that is read into at once; larger chunks are read in pieces."""
_BLOCK: Final = 1 << 20
_PAGES: Final = 4096
"""Answers with an artifact's chunks, at most: a source that gives them one by one would never end."""
_BUSY_S: Final = 0.25
_BUSY_TRIES: Final = 240
_READ_S: Final = 120.0
"""For one piece; an engine gives up on a source that stands still long before."""
_TICK_S: Final = 0.1


async def fetch_artifact(calls: WorkerCalls, record: p2p_pb2.ArtifactSourceMetadata) -> tuple[ArtifactManifest, str]:
    """The manifest of the artifact that a record announces, checked, and the name of the agent that serves it.

    Raises `SourceUnusable` for one that is not valid or another, `TransferFailed`.
    """
    header = await calls.header(record.artifact_id)
    try:
        begun = read_header(header)
        chunks: list[ArtifactChunk] = []
        for _ in range(_PAGES):
            if len(chunks) == header.chunk_count:
                break
            page = await calls.chunks(record.artifact_id, len(chunks))
            if not page.chunks or len(chunks) + len(page.chunks) > header.chunk_count:
                raise InvalidArgument("manifest.chunks", f"{len(page.chunks)} chunks on a page after {len(chunks)}")
            chunks.extend(read_chunks(page.chunks, len(chunks)))
        else:
            raise InvalidArgument("manifest.chunks", f"come on more than {_PAGES} pages")
        manifest = ArtifactManifest(begun.source_type, begun.chunk_size, begun.files, tuple(chunks))
        manifest.check()
    except (InvalidArgument, InvalidCheckpoint) as error:
        raise SourceUnusable(f"its manifest is not valid: {error}") from error
    if manifest.artifact_id != record.artifact_id:
        raise SourceUnusable("its manifest is not the one that its artifact id stands for")
    return manifest, header.agent_name


@dataclass(slots=True)
class _Part:
    """A chunk that is being read: where it is at the source, and how much of it has come."""

    index: int
    lease: str
    address: int
    length: int
    checksum: str


class ArtifactReader:
    """Reads the chunks that are missing from one worker into a staging. `run` is called once."""

    def __init__(
        self,
        calls: WorkerCalls,
        importer: AgentImporter,
        agent: str,
        manifest: ArtifactManifest,
        staging: ArtifactStaging,
        *,
        executor: Executor,
        done: Callable[[int], None],
    ) -> None:
        self._calls = calls
        self._importer = importer
        self._agent = agent
        self._manifest = manifest
        self._staging = staging
        self._executor = executor
        self._done = done
        self._metadata = b""
        self._reader: Reader | None = None
        self._memory = memoryview(bytearray())

    async def run(self, missing: Sequence[int]) -> None:
        """Read, verify and write `missing`; `done` is told each that is.

        Raises `TransferFailed`, `VerificationFailed`, `LimitExceeded` where the disk is full, `OSError`.
        """
        waiting = list(missing)
        try:
            while waiting:
                parts, metadata = await self._prepare(waiting[:_BATCH_CHUNKS])
                del waiting[: len(parts)]
                try:
                    await in_thread(self._executor, lambda stop: self._move(parts, metadata, stop))  # noqa: B023
                finally:
                    await asyncio.shield(self._release(parts))
        finally:
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._executor, self._close))

    async def _prepare(self, indices: Sequence[int]) -> tuple[list[_Part], bytes]:
        """Leases on some of these chunks, at least the first. Where there is no room for it, it is asked for again."""
        parts: list[_Part] = []
        metadata = b""
        try:
            for index in indices:
                prepared = await self._patiently(index) if not parts else await self._at_once(index)
                if prepared is None:
                    break
                parts.append(self._part(index, prepared))
                if prepared.source_metadata != (metadata or prepared.source_metadata):
                    # The places of the parts before are those of an agent that is gone.
                    text = f"the worker at {self._calls.endpoint} serves by another agent than a moment ago"
                    raise TransferFailed(text, fault=Fault.LOST)
                metadata = prepared.source_metadata
        except BaseException:
            await asyncio.shield(self._release(parts))
            raise
        return parts, metadata

    async def _at_once(self, index: int) -> p2p_pb2.PrepareArtifactChunkResponse | None:
        try:
            return await self._calls.prepare_chunk(self._manifest.artifact_id, index)
        except WorkerBusy:
            return None

    async def _patiently(self, index: int) -> p2p_pb2.PrepareArtifactChunkResponse:
        for _ in range(_BUSY_TRIES):
            if (prepared := await self._at_once(index)) is not None:
                return prepared
            await asyncio.sleep(_BUSY_S)
        raise WorkerBusy(f"the worker at {self._calls.endpoint} has no room for another reader")

    def _part(self, index: int, prepared: p2p_pb2.PrepareArtifactChunkResponse) -> _Part:
        chunk = self._manifest.chunks[index]
        source = prepared.source
        if prepared.chunk != self._manifest.chunk(index) or source.length != chunk.length:
            raise TransferFailed(f"chunk {index} is not what the manifest says it is", retryable=False)
        if source.addr + source.length > ADDRESS_SPACE.nbytes or source.device_id:
            raise TransferFailed(f"chunk {index} is not in host memory", retryable=False)
        if not prepared.lease_id or not prepared.source_metadata:
            raise TransferFailed(
                f"chunk {index} comes without a lease, or without an agent to read it from", retryable=False
            )
        return _Part(index, prepared.lease_id, source.addr, chunk.length, chunk.checksum)

    async def _release(self, parts: Collection[_Part]) -> None:
        async def release(part: _Part) -> None:
            # What is verified is verified; a lease that is not released runs out.
            with suppress(TransferFailed):
                await self._calls.release_chunk(self._manifest.artifact_id, part.lease)

        await asyncio.gather(*(release(part) for part in parts))

    # On a thread.

    def _move(self, parts: Sequence[_Part], metadata: bytes, stop: threading.Event) -> None:
        if self._reader is None or metadata != self._metadata:
            self._close()
            self._reader = self._importer.open(
                self._importer.describe(self._agent, metadata, [ADDRESS_SPACE], host=host_of(self._calls.endpoint))
            )
            self._metadata = metadata
        sums = [new_crc() for _ in parts]
        for batch in _batches(parts):
            total = sum(piece.length for piece in batch)
            if len(self._memory) < total:
                self._memory = self._importer.allocate(total)
            views, at = [], 0
            for piece in batch:
                views.append(self._memory[at : at + piece.length])
                at += piece.length
            self._read(self._reader, [Range(0, piece.address, piece.length) for piece in batch], views, stop)
            for piece, view in zip(batch, views, strict=True):
                for start in range(0, piece.length, _BLOCK):
                    sums[piece.part].update(bytes(view[start : start + _BLOCK]))
                part = parts[piece.part]
                self._staging.write(part.index, piece.offset, view)
                if piece.offset + piece.length == part.length:
                    self._verify(part, sums[piece.part])

    def _verify(self, part: _Part, crc: Crc) -> None:
        if crc.hexdigest().decode() != part.checksum:
            name = f"chunk {part.index}"
            raise VerificationFailed(f"{name}: the bytes that arrived are not what the manifest says", items=(name,))
        self._done(part.index)

    def _read(
        self, reader: Reader, ranges: Sequence[Range], views: Sequence[memoryview], stop: threading.Event
    ) -> None:
        job: Job = reader.read(ranges, views, deadline=_READ_S)
        try:
            while True:
                progress = job.wait(_TICK_S)
                if progress.state is JobState.DONE:
                    return
                if progress.state is JobState.FAILED:
                    raise TransferFailed(
                        progress.reason or "the engine gave no reason",
                        retryable=progress.retryable,
                        fault=progress.fault,
                    )
                if stop.is_set():
                    raise Stopped
        finally:
            job.abandon()

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class _Piece(NamedTuple):
    """Bytes that are read at once: `length` from `offset` of a part, at `address` of the source."""

    part: int
    offset: int
    length: int
    address: int


def _batches(parts: Sequence[_Part]) -> Iterator[list[_Piece]]:
    """The parts in pieces, so many together as there is memory for."""
    batch: list[_Piece] = []
    room = _BATCH_BYTES
    for number, part in enumerate(parts):
        offset = 0
        while offset < part.length:
            length = min(room, part.length - offset)
            batch.append(_Piece(number, offset, length, part.address + offset))
            offset += length
            room -= length
            if not room:
                yield batch
                batch, room = [], _BATCH_BYTES
    if batch:
        yield batch
