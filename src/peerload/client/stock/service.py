"""`model_express.p2p.WorkerService`: what readers of the stock package ask a worker of ours.

Answers are as the stock package's own: INVALID_ARGUMENT where nothing says which source, FAILED_PRECONDITION for another
source or worker, UNAVAILABLE while a source ends, NOT_FOUND for a lease that has run out, RESOURCE_EXHAUSTED while nothing more
can be leased.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message

from peerload.client.stock.artifact import PAGE, ArtifactManifest, header_of
from peerload.client.stock.leases import Leases
from peerload.client.stock.pool import LEASE_S, ChunkPool
from peerload.engines.agents import Exposed
from peerload.errors import InvalidArgument, LimitExceeded, NotAllowed, NotFound, PeerloadError, Unavailable
from peerload.wire import p2p_pb2, splice

__all__ = ["ArtifactSource", "Hold", "TensorSource", "WorkerService"]

_log: Final = logging.getLogger("peerload.client")
_SERVICE: Final = "/model_express.p2p.WorkerService/"
_MAX_REQUEST_BYTES: Final = 64 * 1024
_MAX_CALLS: Final = 1024
_PREPARED_MANIFEST: Final = 2
"""The number of the field `manifest` in PrepareTensorReadResponse."""


Hold: TypeAlias = Callable[[float], Awaitable[Exposed]]
"""How memory is reached now; and it is kept served for so many seconds from now, since somebody may read it."""


@dataclass(frozen=True, slots=True)
class TensorSource:
    """Tensors to be read: `manifest` gives the answer of GetTensorManifest, encoded."""

    source_id: str
    worker_id: str
    manifest: Callable[[], Awaitable[bytes]]
    leases: Leases


@dataclass(frozen=True, slots=True)
class ArtifactSource:
    """An artifact to be read chunk by chunk. `exposed` says how its pool's slots, `slot_bytes` each, are reached (see `Hold`), and
    `metadata_endpoint` where their agent's listener is."""

    source_id: str
    rank: int
    metadata_endpoint: str
    manifest: ArtifactManifest
    pool: ChunkPool
    slot_bytes: int
    exposed: Hold = field(repr=False)


class WorkerService:
    """Serves the sources of one process, on one port, without TLS and to anybody, as stock readers expect.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._tensors: dict[tuple[str, str], TensorSource] = {}
        self._artifacts: dict[tuple[str, str], ArtifactSource] = {}
        self._server: grpc.aio.Server | None = None
        self.port = 0
        """Where it listens, once started."""

    async def start(self, bind: str, port: int = 0) -> None:
        """Listen on an address ("" for all) and a port (0 for any that is free). Raises `Unavailable` where it is taken."""
        server = grpc.aio.server(
            handlers=(_Table(self._methods()),),
            options=(
                ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
                ("grpc.server.max_pending_requests", _MAX_CALLS),
                ("grpc.server.max_pending_requests_hard_limit", 2 * _MAX_CALLS),
            ),
            maximum_concurrent_rpcs=_MAX_CALLS,
        )
        host = f"[{bind}]" if ":" in bind else bind or "[::]"
        try:
            self.port = server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise Unavailable(f"port {port} of WorkerService cannot be listened on: {error}") from error
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """End every call and stop listening. Stopping twice is allowed."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(0.0)

    def add(self, source: TensorSource | ArtifactSource) -> Callable[[], None]:
        """Serve a source, until what this returns is called."""
        if isinstance(source, TensorSource):
            key = source.source_id, source.worker_id
            self._tensors[key] = source
            return lambda: _drop(self._tensors, key, source)
        key = source.source_id, source.manifest.artifact_id
        self._artifacts[key] = source
        return lambda: _drop(self._artifacts, key, source)

    # Below here: the calls.

    async def _get_tensor_manifest(self, request: p2p_pb2.GetTensorManifestRequest) -> bytes:
        source = self._tensor(request)
        source.leases.check()
        return await source.manifest()

    async def _prepare_tensor_read(self, request: p2p_pb2.PrepareTensorReadRequest) -> bytes:
        source = self._tensor(request)
        manifest = await source.manifest()
        lease = p2p_pb2.PrepareTensorReadResponse(lease_id=source.leases.take()).SerializeToString()
        return lease + splice.bytes_field(_PREPARED_MANIFEST, manifest)

    async def _release_tensor_read(self, request: p2p_pb2.ReleaseTensorReadRequest) -> bytes:
        self._tensor(request).leases.release(request.lease_id)
        return p2p_pb2.ReleaseTensorReadResponse().SerializeToString()

    async def _get_header(self, request: p2p_pb2.GetArtifactManifestHeaderRequest) -> bytes:
        source = self._artifact(request.mx_source_id, request.artifact_id)
        message = header_of(source.manifest)
        message.mx_source_id = source.source_id
        message.metadata_endpoint = source.metadata_endpoint
        message.agent_name = (await source.exposed(0.0)).agent
        message.worker_rank = source.rank
        return message.SerializeToString()

    async def _get_chunks(self, request: p2p_pb2.GetArtifactManifestChunksRequest) -> bytes:
        source = self._artifact(request.mx_source_id, request.artifact_id)
        start, count = request.start_chunk_index, len(source.manifest.chunks)
        if start > count:
            raise InvalidArgument("start_chunk_index", f"{start} is beyond the {count} chunks")
        page = source.manifest.page(start, min(request.max_chunks or PAGE, PAGE))
        end = start + len(page)
        return p2p_pb2.GetArtifactManifestChunksResponse(
            mx_source_id=source.source_id,
            artifact_id=source.manifest.artifact_id,
            start_chunk_index=start,
            chunks=page,
            next_page_token=str(end) if end < count else "",
        ).SerializeToString()

    async def _prepare_chunk(self, request: p2p_pb2.PrepareArtifactChunkRequest) -> bytes:
        source = self._artifact(request.mx_source_id, request.artifact_id)
        index, count = request.chunk_index, len(source.manifest.chunks)
        if index >= count:
            raise InvalidArgument("chunk_index", f"{index} is beyond the {count} chunks")
        leased = await source.pool.prepare(index)
        try:
            exposed = await source.exposed(LEASE_S)
        except BaseException:
            # A reader that is never told of its lease cannot release it.
            with suppress(NotFound):
                source.pool.release(leased.lease)
            raise
        return p2p_pb2.PrepareArtifactChunkResponse(
            mx_source_id=source.source_id,
            artifact_id=source.manifest.artifact_id,
            lease_id=leased.lease,
            chunk=source.manifest.chunk(index),
            source=p2p_pb2.ArtifactChunkTransferDescriptor(
                addr=exposed.addresses[0] + leased.slot * source.slot_bytes,
                length=source.manifest.chunks[index].length,
            ),
            source_metadata=exposed.metadata,
        ).SerializeToString()

    async def _release_chunk(self, request: p2p_pb2.ReleaseArtifactChunkRequest) -> bytes:
        source = self._artifact(request.mx_source_id, request.artifact_id)
        chunk = source.pool.release(request.lease_id)
        return p2p_pb2.ReleaseArtifactChunkResponse(
            mx_source_id=source.source_id,
            artifact_id=source.manifest.artifact_id,
            chunk=source.manifest.chunk(chunk),
        ).SerializeToString()

    def _tensor(
        self,
        request: p2p_pb2.GetTensorManifestRequest | p2p_pb2.PrepareTensorReadRequest | p2p_pb2.ReleaseTensorReadRequest,
    ) -> TensorSource:
        if not request.mx_source_id:
            raise InvalidArgument("mx_source_id", "is missing")
        found = [
            source
            for (source_id, worker_id), source in self._tensors.items()
            if source_id == request.mx_source_id
            and (not request.HasField("worker_id") or worker_id == request.worker_id)
        ]
        if len(found) != 1:
            raise NotAllowed(
                f"this process has {len(found)} sources {request.mx_source_id[:64]!r} of worker "
                f"{request.worker_id[:64]!r}: it may have been started anew"
            )
        return found[0]

    def _artifact(self, source_id: str, artifact_id: str) -> ArtifactSource:
        if not self._artifacts:
            raise NotFound("this worker has no artifact")
        found = [
            source
            for (its_id, its_artifact), source in self._artifacts.items()
            if source_id in ("", its_id) and artifact_id in ("", its_artifact)
        ]
        if not found:
            raise NotAllowed(f"this worker has no artifact {artifact_id[:64]!r} of source {source_id[:64]!r}")
        if len(found) > 1:
            raise InvalidArgument("artifact_id" if source_id else "mx_source_id", "is missing, and there are several")
        return found[0]

    def _methods(self) -> dict[str, grpc.RpcMethodHandler]:
        return {
            _SERVICE + name: _handler(call, request)
            for name, call, request in (
                ("GetTensorManifest", self._get_tensor_manifest, p2p_pb2.GetTensorManifestRequest),
                ("PrepareTensorRead", self._prepare_tensor_read, p2p_pb2.PrepareTensorReadRequest),
                ("ReleaseTensorRead", self._release_tensor_read, p2p_pb2.ReleaseTensorReadRequest),
                ("GetArtifactManifestHeader", self._get_header, p2p_pb2.GetArtifactManifestHeaderRequest),
                ("GetArtifactManifestChunks", self._get_chunks, p2p_pb2.GetArtifactManifestChunksRequest),
                ("PrepareArtifactChunk", self._prepare_chunk, p2p_pb2.PrepareArtifactChunkRequest),
                ("ReleaseArtifactChunk", self._release_chunk, p2p_pb2.ReleaseArtifactChunkRequest),
            )
        }


class _Table(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, methods: dict[str, grpc.RpcMethodHandler]) -> None:
        self._methods = methods

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._methods.get(details.method)


_CODES: Final[tuple[tuple[type[Exception], grpc.StatusCode], ...]] = (
    (LimitExceeded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (NotAllowed, grpc.StatusCode.FAILED_PRECONDITION),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
)


def _handler(call: Callable[[Any], Awaitable[bytes]], request: type[Message]) -> grpc.RpcMethodHandler:
    async def answer(asked: Message, context: grpc.aio.ServicerContext) -> bytes:
        try:
            return await call(asked)
        except (PeerloadError, OSError) as error:
            code = next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
            if code is grpc.StatusCode.INTERNAL:
                _log.warning("WorkerService: %s: %s", type(asked).__name__, error)
            await context.abort(code, str(error))
            raise AssertionError("abort raises") from None

    return grpc.unary_unary_rpc_method_handler(answer, request_deserializer=request.FromString)


def _drop(shelf: dict[tuple[str, str], Any], key: tuple[str, str], source: object) -> None:
    if shelf.get(key) is source:
        del shelf[key]
