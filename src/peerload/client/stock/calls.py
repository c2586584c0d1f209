"""Asking a peer's WorkerService. The peer is a stranger: its answers are bounded in size and time, and checked."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from peerload.errors import Fault, TransferFailed
from peerload.wire import p2p_pb2

__all__ = ["NoSuchCall", "WorkerBusy", "WorkerCalls"]

_SERVICE: Final = "/model_express.p2p.WorkerService/"
_MAX_ANSWER_BYTES: Final = 100 * 1024 * 1024
_RETRYABLE: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
    }
)
_REFUSED: Final = ("connection refused",)
_TOO_LARGE: Final = "larger than max"

M = TypeVar("M", bound=Message)


class NoSuchCall(TransferFailed):
    """The peer does not know that call: its release is older."""


class WorkerBusy(TransferFailed):
    """The peer has no room for another reader now."""


class WorkerCalls:
    """A channel to the WorkerService at `endpoint`, and one source there. Belongs to one event loop.

    Every call is given `timeout` seconds, and raises `TransferFailed` where it fails or its answer is of another source.
    """

    def __init__(self, endpoint: str, source_id: str, *, timeout: float) -> None:
        self.endpoint = endpoint
        self._source_id = source_id
        self._timeout = timeout
        self._channel = grpc.aio.insecure_channel(
            endpoint,
            options=(
                ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES),
                ("grpc.enable_http_proxy", 0),
                ("grpc.use_local_subchannel_pool", 1),
            ),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def manifest(self, worker_id: str) -> p2p_pb2.GetTensorManifestResponse:
        """The tensors of a worker."""
        request = p2p_pb2.GetTensorManifestRequest(mx_source_id=self._source_id, worker_id=worker_id)
        answer = await self._call("GetTensorManifest", request, p2p_pb2.GetTensorManifestResponse)
        self._check_worker(answer, worker_id)
        return answer

    async def prepare(self, worker_id: str) -> p2p_pb2.PrepareTensorReadResponse:
        """The same, with a lease: until it is released or runs out, the worker keeps its memory as it is."""
        request = p2p_pb2.PrepareTensorReadRequest(mx_source_id=self._source_id, worker_id=worker_id)
        answer = await self._call("PrepareTensorRead", request, p2p_pb2.PrepareTensorReadResponse)
        self._check_worker(answer.manifest, worker_id)
        return answer

    async def release(self, worker_id: str, lease_id: str) -> None:
        """End a lease; raises where it has run out, or the worker is not the one that gave it."""
        request = p2p_pb2.ReleaseTensorReadRequest(mx_source_id=self._source_id, worker_id=worker_id, lease_id=lease_id)
        await self._call("ReleaseTensorRead", request, p2p_pb2.ReleaseTensorReadResponse)

    async def header(self, artifact_id: str) -> p2p_pb2.GetArtifactManifestHeaderResponse:
        """An artifact's files."""
        request = p2p_pb2.GetArtifactManifestHeaderRequest(mx_source_id=self._source_id, artifact_id=artifact_id)
        answer = await self._call("GetArtifactManifestHeader", request, p2p_pb2.GetArtifactManifestHeaderResponse)
        self._check(answer.mx_source_id, answer.artifact_id, artifact_id)
        return answer

    async def chunks(self, artifact_id: str, start: int) -> p2p_pb2.GetArtifactManifestChunksResponse:
        """A page of an artifact's chunks."""
        request = p2p_pb2.GetArtifactManifestChunksRequest(
            mx_source_id=self._source_id, artifact_id=artifact_id, start_chunk_index=start
        )
        answer = await self._call("GetArtifactManifestChunks", request, p2p_pb2.GetArtifactManifestChunksResponse)
        self._check(answer.mx_source_id, answer.artifact_id, artifact_id)
        return answer

    async def prepare_chunk(self, artifact_id: str, index: int) -> p2p_pb2.PrepareArtifactChunkResponse:
        """Have a chunk put where it can be read, and a lease on it. Raises `WorkerBusy` where there is no room now."""
        request = p2p_pb2.PrepareArtifactChunkRequest(
            mx_source_id=self._source_id, artifact_id=artifact_id, chunk_index=index
        )
        answer = await self._call("PrepareArtifactChunk", request, p2p_pb2.PrepareArtifactChunkResponse)
        self._check(answer.mx_source_id, answer.artifact_id, artifact_id)
        return answer

    async def release_chunk(self, artifact_id: str, lease_id: str) -> None:
        """End a lease on a chunk."""
        request = p2p_pb2.ReleaseArtifactChunkRequest(
            mx_source_id=self._source_id, artifact_id=artifact_id, lease_id=lease_id
        )
        await self._call("ReleaseArtifactChunk", request, p2p_pb2.ReleaseArtifactChunkResponse)

    def _check_worker(self, manifest: p2p_pb2.GetTensorManifestResponse, worker_id: str) -> None:
        self._check(manifest.mx_source_id, "", "")
        # Older workers do not say who they are.
        if manifest.HasField("worker_id") and manifest.worker_id != worker_id:
            text = f"the worker at {self.endpoint} is {manifest.worker_id[:64]!r}, and not {worker_id[:64]!r} any more"
            raise TransferFailed(text, retryable=False)

    def _check(self, source_id: str, artifact_id: str, asked: str) -> None:
        if source_id != self._source_id or artifact_id != asked:
            what = (
                f"artifact {artifact_id[:64]!r} of source {source_id[:64]!r}" if asked else f"source {source_id[:64]!r}"
            )
            raise TransferFailed(f"the worker at {self.endpoint} answered for {what}", retryable=False)

    async def _call(self, name: str, request: Message, answer: type[M]) -> M:
        call = self._channel.unary_unary(
            _SERVICE + name,
            request_serializer=lambda message: message.SerializeToString(),
        )(request, timeout=self._timeout)
        try:
            # As bytes: gRPC itself gives None for an answer that it cannot decode.
            return answer.FromString(await call)
        except grpc.aio.AioRpcError as error:
            raise _failure(error.code(), error.details() or "", f"{name} at {self.endpoint}", self._timeout) from error
        except DecodeError:
            raise TransferFailed(
                f"{name} at {self.endpoint}: the answer is no {answer.__name__}", retryable=False
            ) from None


def _failure(code: grpc.StatusCode, details: str, what: str, timeout: float) -> TransferFailed:
    said = details[:500] if details.isprintable() else ascii(details)[:500]
    text = f"{what}: {said or code.name}"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return NoSuchCall(text, retryable=False)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TransferFailed(f"{what}: no answer within {timeout:g} s", fault=Fault.STALLED)
    if code is grpc.StatusCode.UNAVAILABLE:
        refused = any(sign in details.lower() for sign in _REFUSED)
        return TransferFailed(text, fault=Fault.REFUSED if refused else Fault.UNREACHABLE)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE not in details:
        return WorkerBusy(text)
    return TransferFailed(text, retryable=code in _RETRYABLE and _TOO_LARGE not in details)
