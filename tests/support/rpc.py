"""An asynchronous gRPC client that knows only messages, for tests in the server's own event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from peerload.wire import p2p_pb2, sources_pb2

__all__ = ["AsyncRpc", "identity", "publication"]

M = TypeVar("M", bound=Message)

P2P = "/model_express.p2p.P2pService"
SOURCES = "/peerload.v1.SourceService"


class AsyncRpc:
    """A channel; a failed call raises grpc.aio.AioRpcError. `token` goes with every call, `credentials` with the
    connection: TLS."""

    def __init__(
        self, address: str, token: str | None = None, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        self.metadata = None if token is None else (("authorization", f"Bearer {token}"),)
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self.channel = grpc.aio.secure_channel(address, credentials, options=options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.channel.close()

    async def call(self, path: str, request: Message | bytes, answer: type[M], *, timeout: float | None = 30.0) -> M:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        return answer.FromString(await self.channel.unary_unary(path)(data, timeout=timeout, metadata=self.metadata))

    async def stream(self, path: str, request: Message | bytes, answer: type[M]) -> AsyncIterator[M]:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        call = self.channel.unary_stream(path)(data, metadata=self.metadata)
        try:
            async for message in call:
                yield answer.FromString(message)
        finally:
            call.cancel()

    async def publish(self, request: Message | bytes) -> p2p_pb2.PublishMetadataResponse:
        return await self.call(f"{P2P}/PublishMetadata", request, p2p_pb2.PublishMetadataResponse)

    async def list(self, timeout: float | None = 30.0, **request: Any) -> list[p2p_pb2.SourceInstanceRef]:
        message = p2p_pb2.ListSourcesRequest(**request)
        answer = await self.call(f"{P2P}/ListSources", message, p2p_pb2.ListSourcesResponse, timeout=timeout)
        return list(answer.instances)

    async def get(self, source_id: str, worker_id: str) -> p2p_pb2.GetMetadataResponse:
        message = p2p_pb2.GetMetadataRequest(mx_source_id=source_id, worker_id=worker_id)
        return await self.call(f"{P2P}/GetMetadata", message, p2p_pb2.GetMetadataResponse)

    async def update(self, **request: Any) -> p2p_pb2.UpdateStatusResponse:
        message = p2p_pb2.UpdateStatusRequest(**request)
        return await self.call(f"{P2P}/UpdateStatus", message, p2p_pb2.UpdateStatusResponse)

    async def publish_v1(self, request: sources_pb2.PublishRequest | bytes) -> sources_pb2.PublishResponse:
        return await self.call(f"{SOURCES}/Publish", request, sources_pb2.PublishResponse)

    async def withdraw(self, **request: Any) -> bool:
        message = sources_pb2.WithdrawRequest(**request)
        return (await self.call(f"{SOURCES}/Withdraw", message, sources_pb2.WithdrawResponse)).withdrawn

    async def manifest(self, **request: Any) -> sources_pb2.GetManifestResponse:
        message = sources_pb2.GetManifestRequest(**request)
        return await self.call(f"{SOURCES}/GetManifest", message, sources_pb2.GetManifestResponse)

    async def list_v1(self, **selector: Any) -> sources_pb2.ListResponse:
        message = sources_pb2.ListRequest(selector=sources_pb2.Selector(**selector))
        return await self.call(f"{SOURCES}/List", message, sources_pb2.ListResponse)

    def watch(self, resume_token: str = "", **selector: Any) -> AsyncIterator[sources_pb2.WatchResponse]:
        message = sources_pb2.WatchRequest(selector=sources_pb2.Selector(**selector), resume_token=resume_token)
        return self.stream(f"{SOURCES}/Watch", message, sources_pb2.WatchResponse)


def identity(model: str = "org/model", **more: Any) -> p2p_pb2.SourceIdentity:
    return p2p_pb2.SourceIdentity(**{"mx_version": "0.7.0", "model_name": model, **more})


def publication(
    worker_id: str = "w0", model: str = "org/model", *, tensors: int = 2, **worker: Any
) -> p2p_pb2.PublishMetadataRequest:
    """What a stock engine sends: the tensor list in both fields."""
    listed = [
        p2p_pb2.TensorDescriptor(name=f"layer.{index}", addr=4096 * index, size=4096, dtype="torch.bfloat16")
        for index in range(tensors)
    ]
    worker.setdefault("status", p2p_pb2.SOURCE_STATUS_READY)
    return p2p_pb2.PublishMetadataRequest(
        identity=identity(model),
        worker=p2p_pb2.WorkerMetadata(
            nixl_metadata=b"agent", tensors=listed, tensor_source={"tensors": listed}, **worker
        ),
        worker_id=worker_id,
    )
