"""One channel to the server: typed calls, errors of our own, repetition while the server is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from peerload.client.settings import ClientSettings
from peerload.client.status import to_error
from peerload.errors import DeadlineExceeded, InvalidArgument, Unavailable
from peerload.wire import claims_pb2, diagnosis_pb2, p2p_pb2, sources_pb2, transfers_pb2

__all__ = ["MAX_MESSAGE_BYTES", "Connection"]

MAX_MESSAGE_BYTES: Final = 100 * 1024 * 1024
"""The largest message either way."""

_SOURCES: Final = "/peerload.v1.SourceService/"
_TRANSFERS: Final = "/peerload.v1.TransferService/"
_CLAIMS: Final = "/peerload.v1.ClaimService/"
_P2P: Final = "/model_express.p2p.P2pService/"
_DIAGNOSIS: Final = "/peerload.v1.DiagnosisService/"
_FIRST_DELAY_S: Final = 0.05
_MAX_DELAY_S: Final = 1.0
_MAX_TOKEN_BYTES: Final = 64 * 1024

_OPTIONS: Final = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A watch may be silent for hours: pings tell a dead server from a quiet one.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # After an outage heartbeats must come soon, however long it was.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # This one is how long an attempt to connect may take, despite its name.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.enable_http_proxy", 0),
    # Clients of one process must not share a connection that one of them closes.
    ("grpc.use_local_subchannel_pool", 1),
)

M = TypeVar("M", bound=Message)


class Connection:
    """A lazy channel to the server at `address`. Belongs to one event loop.

    Every call may raise `Unavailable` (after repeating it for `settings.patience`), `DeadlineExceeded`,
    `InvalidArgument`, `NotAllowed`. Repeating is safe: every call that is repeated is idempotent.
    """

    def __init__(self, address: str, settings: ClientSettings, *, rng: random.Random) -> None:
        self.address = address
        self._settings = settings
        self._rng = rng
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._token = _Token(Path(settings.token_path))

    async def close(self) -> None:
        """End the calls in flight and the channel. Closing twice is allowed."""
        await self._channel.close()

    async def publish(self, request: sources_pb2.PublishRequest) -> sources_pb2.PublishResponse:
        """Announce a worker with its manifest."""
        return await self._call(f"{_SOURCES}Publish", request, sources_pb2.PublishResponse)

    async def publish_metadata(self, request: p2p_pb2.PublishMetadataRequest) -> None:
        """Announce a worker as the stock package does. Raises `InvalidArgument` where the server says what is missing."""
        response = await self._call(f"{_P2P}PublishMetadata", request, p2p_pb2.PublishMetadataResponse)
        if not response.success:
            raise InvalidArgument("record", response.message)

    async def withdraw(self, request: sources_pb2.WithdrawRequest) -> sources_pb2.WithdrawResponse:
        """Take a record back."""
        return await self._call(f"{_SOURCES}Withdraw", request, sources_pb2.WithdrawResponse)

    async def manifest(self, request: sources_pb2.GetManifestRequest) -> sources_pb2.GetManifestResponse:
        """What a worker published; `NotFound` is a fact."""
        return await self._call(f"{_SOURCES}GetManifest", request, sources_pb2.GetManifestResponse)

    async def list(self, request: sources_pb2.ListRequest) -> sources_pb2.ListResponse:
        """The sources that a selector lets through."""
        return await self._call(f"{_SOURCES}List", request, sources_pb2.ListResponse)

    async def explain(self, request: diagnosis_pb2.ExplainRequest) -> diagnosis_pb2.ExplainResponse:
        """Why lists gave nothing."""
        return await self._call(f"{_DIAGNOSIS}Explain", request, diagnosis_pb2.ExplainResponse)

    async def update_status(self, request: p2p_pb2.UpdateStatusRequest) -> p2p_pb2.UpdateStatusResponse:
        """A heartbeat. `success` is False where the server knows no such worker."""
        return await self._call(f"{_P2P}UpdateStatus", request, p2p_pb2.UpdateStatusResponse)

    async def report(self, request: transfers_pb2.ReportRequest, *, timeout: float) -> transfers_pb2.ReportResponse:
        """Tell of transfers; tried once, for `timeout` seconds at most."""
        return await self._once(f"{_TRANSFERS}Report", request, transfers_pb2.ReportResponse, timeout)

    async def acquire(self, request: claims_pb2.AcquireClaimRequest) -> claims_pb2.AcquireClaimResponse:
        """Take a claim that is free; who holds it, if it is not."""
        return await self._call(f"{_CLAIMS}Acquire", request, claims_pb2.AcquireClaimResponse)

    async def renew(self, request: claims_pb2.RenewClaimRequest) -> claims_pb2.RenewClaimResponse:
        """Begin a claim's lease anew. `held` is False where it was lost."""
        return await self._call(f"{_CLAIMS}Renew", request, claims_pb2.RenewClaimResponse)

    async def release(self, request: claims_pb2.ReleaseClaimRequest) -> claims_pb2.ReleaseClaimResponse:
        """Let a claim go."""
        return await self._call(f"{_CLAIMS}Release", request, claims_pb2.ReleaseClaimResponse)

    async def watch(self, request: sources_pb2.WatchRequest) -> AsyncGenerator[sources_pb2.WatchResponse, None]:
        """The stream of changes, until the server ends it (then it raises `Unavailable`) or the caller does."""
        method = f"{_SOURCES}Watch"
        call = self._channel.unary_stream(
            method,
            request_serializer=sources_pb2.WatchRequest.SerializeToString,
            response_deserializer=sources_pb2.WatchResponse.FromString,
        )(request, metadata=self._token.metadata())
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise to_error(error.code(), error.details() or "", self.address, method) from error
        finally:
            call.cancel()
        raise Unavailable(f"the server at {self.address} ended the watch")

    async def _call(self, method: str, request: Message, answer: type[M]) -> M:
        loop = asyncio.get_running_loop()
        start = loop.time()
        end = start + self._settings.call_timeout
        delay = _FIRST_DELAY_S
        while True:
            try:
                return await self._once(method, request, answer, max(0.001, end - loop.time()))
            except DeadlineExceeded:
                raise
            except Unavailable:
                pause = delay * self._rng.uniform(0.5, 1.5)
                if loop.time() + pause > min(end, start + self._settings.patience):
                    raise
            await asyncio.sleep(pause)
            delay = min(delay * 2, _MAX_DELAY_S)

    async def _once(self, method: str, request: Message, answer: type[M], timeout: float) -> M:
        call = self._channel.unary_unary(
            method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )(request, timeout=timeout, metadata=self._token.metadata())
        try:
            response: M = await call
        except grpc.aio.AioRpcError as error:
            raise to_error(error.code(), error.details() or "", self.address, method) from error
        return response


class _Token:
    """The bearer token, read again when its file changes: such tokens are rotated."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._metadata: tuple[tuple[str, str], ...] = ()

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with a call: the authorization header, or nothing where there is no file."""
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp != self._seen:
                with self._path.open("rb") as file:
                    token = file.read(_MAX_TOKEN_BYTES).decode("ascii", "replace").strip()
                self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
                self._seen = stamp
        except OSError:
            self._seen, self._metadata = None, ()
        return self._metadata
