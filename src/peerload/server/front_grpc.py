"""The front on grpc.aio: conservative, and wherever grpcio is."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, cast

import grpc
import grpc.aio

from peerload.errors import InvalidArgument, Unavailable
from peerload.metadata.principals import ANYONE, Principal
from peerload.server.addresses import join_address, split_address
from peerload.server.front import (
    MAX_MESSAGE_BYTES,
    Bidi,
    BidiMethod,
    Context,
    Gate,
    Method,
    Methods,
    RpcError,
    Stream,
    StreamMethod,
    Unary,
    UnaryMethod,
)
from peerload.server.tls import Tls, TlsKeeper

__all__ = ["GrpcFront"]

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_DETAILS_KEY: Final = "grpc-status-details-bin"
_MAX_WAITING: Final = 50_000
_DEAD_PEER_MS: Final = 60_000
_DEAD_PEER_ANSWER_MS: Final = 20_000
_LISTEN_ERRORS: Final = {
    errno.EADDRINUSE: "is in use; another server may be running there",
    errno.EADDRNOTAVAIL: "is not an address of this machine",
    errno.EACCES: "may not be listened on by this user",
    errno.EPERM: "may not be listened on by this user",
}


class GrpcFront:
    """A `Front` over HTTP/2; with `tls` over TLS, and plaintext without."""

    def __init__(
        self,
        methods: Methods,
        *,
        gate: Gate | None = None,
        tls: TlsKeeper | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._tls = tls
        self._server = grpc.aio.server(
            handlers=(_Table(methods, gate),),
            options=(
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes),
                # Two servers on one port would each get some of the connections, and nobody would notice.
                ("grpc.so_reuseport", 0),
                # Clients ping every 30 s, idle ones too; gRPC's default answers that with GOAWAY after two minutes.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
                ("grpc.http2.max_ping_strikes", 0),
                # A fleet that starts calls all at once. Beyond a thousand calls that wait for the event loop, gRPC's
                # default is to cancel some at random, and clients take that for an answer.
                ("grpc.server.max_pending_requests", _MAX_WAITING),
                ("grpc.server.max_pending_requests_hard_limit", 2 * _MAX_WAITING),
                # Our own pings free what clients hold that vanished without a word.
                ("grpc.keepalive_time_ms", _DEAD_PEER_MS),
                ("grpc.keepalive_timeout_ms", _DEAD_PEER_ANSWER_MS),
            ),
        )

    async def start(self, listen: str) -> str:
        """Bind and serve; see `Front.start`."""
        try:
            host, port = split_address(listen)
        except ValueError as error:
            raise InvalidArgument("listen", str(error)) from None
        # grpc says only that binding failed, so the reason is found out first.
        await asyncio.get_running_loop().run_in_executor(None, _try_to_bind, host, port)
        try:
            bound = self._add_port(join_address(host, port))
        except RuntimeError as error:
            raise Unavailable(f"{join_address(host, port)} cannot be listened on: {error}") from error
        await self._server.start()
        return join_address(host, bound)

    async def stop(self, grace: float) -> None:
        """Stop; see `Front.stop`."""
        await self._server.stop(grace)

    def _add_port(self, address: str) -> int:
        if self._tls is None:
            return cast(int, self._server.add_insecure_port(address))
        return cast(int, self._server.add_secure_port(address, _TlsFetcher(self._tls).credentials))


class _TlsFetcher:
    """What grpc asks at each new connection, in threads of its own: what to meet it with, where that has changed."""

    def __init__(self, keeper: TlsKeeper) -> None:
        self._keeper = keeper
        self._given = keeper.current()

    @property
    def credentials(self) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(_configuration(self._given), self, self._keeper.mutual)

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        tls = self._keeper.current()
        if tls is self._given:
            return None
        self._given = tls
        return _configuration(tls)


def _configuration(tls: Tls) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(tls.pair.key, tls.pair.certificate)], tls.client_ca)


def _try_to_bind(host: str, port: int) -> None:
    """Raise `Unavailable` if the address cannot be listened on now. Nothing stays bound."""
    address = join_address(host, port)
    try:
        candidates = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise Unavailable(f"{address}: the host name cannot be resolved ({error})") from None
    reasons: list[OSError] = []
    for family, kind, protocol, _, where in candidates:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
                probe.listen(1)
        except OSError as error:
            reasons.append(error)
    in_use = [reason for reason in reasons if reason.errno == errno.EADDRINUSE]
    # One family of a name that has both may be missing on this machine; in use is refused for either.
    if in_use or len(reasons) == len(candidates):
        reason = (in_use or reasons)[0]
        text = _LISTEN_ERRORS.get(reason.errno or 0, f"cannot be listened on: {os.strerror(reason.errno or 0)}")
        raise Unavailable(f"{address} {text}")


class _Table(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds a method's handler by its path; none: grpc answers UNIMPLEMENTED."""

    def __init__(self, methods: Methods, gate: Gate | None) -> None:
        self._handlers = {path: _handler(path, method, gate) for path, method in methods.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(handler_call_details.method)


def _handler(path: str, method: Method, gate: Gate | None) -> grpc.RpcMethodHandler:
    # Without serializers grpc hands bytes through.
    match method:
        case UnaryMethod(unary):
            return grpc.unary_unary_rpc_method_handler(_unary(path, unary, gate))
        case StreamMethod(stream):
            return grpc.unary_stream_rpc_method_handler(_stream(path, stream, gate))
        case BidiMethod(bidi):
            return grpc.stream_stream_rpc_method_handler(_bidi(path, bidi, gate))


def _unary(path: str, handler: Unary, gate: Gate | None) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def call(request: bytes, context: Any) -> bytes:
        try:
            return await handler(request, await _admitted(path, context, gate))
        except RpcError as error:
            failure = error
        return cast(bytes, await _abort(context, failure))

    return call


def _stream(path: str, handler: Stream, gate: Gate | None) -> Callable[[bytes, Any], Awaitable[None]]:
    async def call(request: bytes, context: Any) -> None:
        try:
            admitted = await _admitted(path, context, gate)
        except RpcError as error:
            await _abort(context, error)
        else:
            await _send(handler(request, admitted), context)

    return call


def _bidi(path: str, handler: Bidi, gate: Gate | None) -> Callable[[AsyncIterator[bytes], Any], Awaitable[None]]:
    async def call(requests: AsyncIterator[bytes], context: Any) -> None:
        try:
            admitted = await _admitted(path, context, gate)
        except RpcError as error:
            await _abort(context, error)
        else:
            await _send(handler(requests, admitted), context)

    return call


async def _admitted(path: str, context: Any, gate: Gate | None) -> _Call:
    call = _Call(context)
    if gate is not None:
        call.principal = await gate.admit(path, call)
    return call


async def _send(answers: AsyncIterator[bytes], context: Any) -> None:
    try:
        async for answer in answers:
            # Returns when the transport has taken it: that is what holds back a stream nobody reads.
            await context.write(answer)
        return
    except RpcError as error:
        failure = error
    finally:
        close = getattr(answers, "aclose", None)
        if close is not None:
            await close()
    await _abort(context, failure)


async def _abort(context: Any, error: RpcError) -> Any:
    trailing = tuple(context.trailing_metadata() or ())
    if error.details is not None:
        trailing += ((_DETAILS_KEY, error.details),)
    await context.abort(_CODES[int(error.code)], error.message, trailing)


class _Call(Context):
    """A `Context` over grpc's; everything is looked up only when it is asked for."""

    __slots__ = ("_context", "_principal")

    def __init__(self, context: Any) -> None:
        self._context = context
        self._principal = ANYONE

    @property
    def principal(self) -> Principal:
        return self._principal

    @principal.setter
    def principal(self, principal: Principal) -> None:
        self._principal = principal

    @property
    def metadata(self) -> Mapping[str, tuple[str | bytes, ...]]:
        found: dict[str, tuple[str | bytes, ...]] = {}
        for key, value in self._context.invocation_metadata() or ():
            found[key] = (*found.get(key, ()), value)
        return found

    @property
    def peer(self) -> str:
        return str(self._context.peer())

    @property
    def deadline(self) -> float | None:
        remaining = self._context.time_remaining()
        return None if remaining is None else asyncio.get_running_loop().time() + remaining

    @property
    def client_certificate(self) -> bytes | None:
        pems = self._context.auth_context().get("x509_pem_cert")
        return bytes(pems[0]) if pems else None

    def set_trailing_metadata(self, *pairs: tuple[str, str | bytes]) -> None:
        self._context.set_trailing_metadata(pairs)
