"""The front on grpc.aio, the conservative choice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, cast

import grpc
import grpc.aio
import structlog

from peerload.errors import PeerloadError, Unavailable
from peerload.metadata.principals import ANYONE, Principal
from peerload.server.addresses import join_address
from peerload.server.admission import Admission
from peerload.server.front import (
    REQUEST_ID_KEY,
    Bidi,
    BidiMethod,
    Code,
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
from peerload.server.limits import SMALL_BYTES, Limits
from peerload.server.listening import SharedPort, parse_listen
from peerload.server.listening import listen as bound_to
from peerload.server.requests import CURRENT, request_id
from peerload.server.status import to_rpc_error
from peerload.server.tls import Tls, TlsKeeper

__all__ = ["GrpcFront"]

_log = structlog.get_logger("peerload.server")

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_DETAILS_KEY: Final = "grpc-status-details-bin"
_MAX_WAITING: Final = 50_000
_LOOK_SECONDS: Final = 0.2
"""Between two looks whether gRPC's server still serves."""
_RETRY_SECONDS: Final = 1.0
_BEFORE_PING: Final = 0.75
"""The part of the silence after which a peer is pinged; in the rest of it it has to answer."""


class GrpcFront:
    """A `Front` over HTTP/2; with `tls` over TLS, and plaintext without.

    Of `Limits`, gRPC itself keeps connections (more are closed), calls of one connection, ages, the times for handshakes
    and for idling, and the size of a message, which it refuses at its first bytes. Ours are the calls in flight, and the
    bytes: those of publications are counted, and may wait, before they are read, as if each were the largest there may
    be; those of other requests only when they have been read, and of answers while they are sent. Nothing here ends a
    reader that is merely slow.

    gRPC's server ends for good when something in it fails that never should; grpcio 1.84 and 1.85 do so at a request whose
    path is no UTF-8. Another takes its place within a moment then. All connections are lost with the first.

    On a `port` that is shared it listens with SO_REUSEPORT: gRPC takes no socket from others. The kernel spreads
    connections by their addresses, and gRPC goes on accepting until it is stopped.
    """

    def __init__(
        self,
        methods: Methods,
        *,
        gate: Gate | None = None,
        limits: Limits | None = None,
        tls: TlsKeeper | None = None,
        port: SharedPort | None = None,
    ) -> None:
        self._tls = tls
        self._port = port
        limits = Limits() if limits is None else limits
        self.admission = Admission(limits, gate)
        self._table = _Table(methods, self.admission)
        self._options = _options(limits, shared=port is not None)
        self._server = self._make()
        self._keeping: asyncio.Task[None] | None = None

    async def start(self, listen: str) -> str:
        """Bind and serve; see `Front.start`."""
        host, port = parse_listen(listen)
        if self._port is None:
            # grpc says only that binding failed, so the reason is found out first.
            await asyncio.get_running_loop().run_in_executor(None, _try_to_bind, host, port)
        try:
            bound = self._add_port(join_address(host, port))
        except RuntimeError as error:
            raise Unavailable(f"{join_address(host, port)} cannot be listened on: {error}") from error
        await self._server.start()
        address = join_address(host, bound)
        self._keeping = asyncio.create_task(self._keep(address), name="peerload-grpc")
        return address

    async def leave(self, grace: float) -> None:
        """Nothing: gRPC has no way to let connections go but to stop; see `Front.leave`."""

    async def stop(self, grace: float) -> None:
        """Stop; see `Front.stop`."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self._server.stop(grace)

    def _make(self) -> grpc.aio.Server:
        return grpc.aio.server(handlers=(self._table,), options=self._options)

    async def _keep(self, address: str) -> None:
        """Put another server in the place of one that ended by itself."""
        while True:
            try:
                # That it ended for good, gRPC tells only who asks again and again: it waits for streams that may never end.
                await self._server.wait_for_termination(_LOOK_SECONDS)
                continue
            except Exception as error:
                _log.error("gRPC's server ended; another takes its place", reason=f"{type(error).__name__}: {error}")
            await self._server.stop(None)
            while True:
                self._server = self._make()
                try:
                    self._add_port(address)
                    await self._server.start()
                    break
                except RuntimeError as error:
                    _log.error("the port cannot be listened on again yet", listen=address, reason=str(error))
                    await asyncio.sleep(_RETRY_SECONDS)

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


def _options(limits: Limits, *, shared: bool) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", limits.limit_message_bytes),
        ("grpc.max_send_message_length", limits.limit_message_bytes),
        ("grpc.max_allowed_incoming_connections", limits.limit_connections),
        ("grpc.max_concurrent_streams", limits.limit_connection_calls),
        # Else a client that has as many calls as it may is refused some of those that it begins as others end.
        ("grpc.http.overload_protection", 0),
        ("grpc.server_handshake_timeout_ms", _milliseconds(limits.timeout_handshake)),
        ("grpc.max_connection_idle_ms", _milliseconds(limits.timeout_idle)),
        # Two servers on one port would each get some of the connections, and nobody would notice.
        ("grpc.so_reuseport", int(shared)),
        # Clients ping every 30 s, idle ones too; gRPC's default answers that with GOAWAY after two minutes.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 0),
        # A fleet that starts calls all at once. Beyond a thousand calls that wait for the event loop, gRPC's
        # default is to cancel some at random, and clients take that for an answer.
        ("grpc.server.max_pending_requests", _MAX_WAITING),
        ("grpc.server.max_pending_requests_hard_limit", 2 * _MAX_WAITING),
        # Our own pings free what clients hold that vanished without a word.
        ("grpc.keepalive_time_ms", _milliseconds(limits.timeout_silence * _BEFORE_PING)),
        ("grpc.keepalive_timeout_ms", _milliseconds(limits.timeout_silence * (1 - _BEFORE_PING))),
    ]
    if limits.connection_age:
        options += [
            ("grpc.max_connection_age_ms", _milliseconds(limits.connection_age)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(limits.connection_age_grace)),
        ]
    return options


def _milliseconds(seconds: float) -> int:
    return min(2**31 - 1, max(1, round(seconds * 1000)))


def _try_to_bind(host: str, port: int) -> None:
    """Raise `Unavailable` if the address cannot be listened on now. Nothing stays bound."""
    for each in bound_to(host, port):
        each.close()


class _Table(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds a method's handler by its path; none: grpc answers UNIMPLEMENTED."""

    def __init__(self, methods: Methods, admission: Admission) -> None:
        self._handlers = {path: _handler(_Way(path, method, admission), method) for path, method in methods.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(handler_call_details.method)


def _handler(way: _Way, method: Method) -> grpc.RpcMethodHandler:
    # Without serializers grpc hands bytes through.
    match method:
        case UnaryMethod(handler=unary, large=True):
            # For a method that takes one request grpc reads it before it calls us.
            return grpc.stream_unary_rpc_method_handler(_large(way, unary))
        case UnaryMethod(handler=unary):
            return grpc.unary_unary_rpc_method_handler(_unary(way, unary))
        case StreamMethod(stream):
            return grpc.unary_stream_rpc_method_handler(_stream(way, stream))
        case BidiMethod(bidi):
            return grpc.stream_stream_rpc_method_handler(_bidi(way, bidi))


class _Way:
    """The way of a method's calls through the admission."""

    def __init__(self, path: str, method: Method, admission: Admission) -> None:
        self._path = path
        self._places = admission.places(path, method)
        self.admission = admission

    @contextlib.asynccontextmanager
    async def open(self, context: Any) -> AsyncIterator[_Call]:
        """For the length of a call. Errors in it become its status."""
        call = _Call(context)
        CURRENT.set(call)
        try:
            with self._places:
                call.principal = await self.admission.admit(self._path, call)
                yield call
            return
        except RpcError as error:
            failure = error
        except PeerloadError as error:
            self.admission.note(error)
            known = to_rpc_error(error)
            if known is None:
                raise
            failure = known
        await _abort(context, failure, call.request_id)

    async def hold_answer(self, answer: bytes, call: _Call, context: Any) -> bytes:
        """Find room for a large answer, until it has been sent."""
        if len(answer) > SMALL_BYTES:
            self.admission.check_answer(len(answer))
            # Twice, because gRPC makes a copy of it.
            held = await self.admission.answers.take(2 * len(answer), call.deadline)
            context.add_done_callback(lambda _: held.release())
        return answer


def _unary(way: _Way, handler: Unary) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def call(request: bytes, context: Any) -> bytes:
        async with way.open(context) as admitted:
            with await way.admission.requests.take(len(request), admitted.deadline):
                answer = await handler(request, admitted)
            return await way.hold_answer(answer, admitted, context)
        raise AssertionError("unreachable")

    return call


def _large(way: _Way, handler: Unary) -> Callable[[AsyncIterator[bytes], Any], Awaitable[bytes]]:
    async def call(_: AsyncIterator[bytes], context: Any) -> bytes:
        async with way.open(context) as admitted:
            limits = way.admission.limits
            with await way.admission.requests.take(limits.limit_message_bytes, admitted.deadline) as held:
                request = await _read(context, limits.timeout_request)
                held.shrink(len(request))
                answer = await handler(request, admitted)
            return await way.hold_answer(answer, admitted, context)
        raise AssertionError("unreachable")

    return call


async def _read(context: Any, allowed: float) -> bytes:
    try:
        async with asyncio.timeout(allowed):
            request = await context.read()
    except TimeoutError:
        raise RpcError(
            Code.DEADLINE_EXCEEDED, f"--timeout-request: the request was not there after {allowed:g} s"
        ) from None
    if request is grpc.aio.EOF:
        raise RpcError(Code.INTERNAL, "the request has no message")
    return cast(bytes, request)


def _stream(way: _Way, handler: Stream) -> Callable[[bytes, Any], Awaitable[None]]:
    async def call(request: bytes, context: Any) -> None:
        async with way.open(context) as admitted:
            await _send(handler(request, admitted), context, way)

    return call


def _bidi(way: _Way, handler: Bidi) -> Callable[[AsyncIterator[bytes], Any], Awaitable[None]]:
    async def call(requests: AsyncIterator[bytes], context: Any) -> None:
        async with way.open(context) as admitted:
            await _send(handler(requests, admitted), context, way)

    return call


async def _send(answers: AsyncIterator[bytes], context: Any, way: _Way) -> None:
    try:
        async for answer in answers:
            way.admission.check_answer(len(answer))
            with await way.admission.answers.take(2 * len(answer), None):
                # Returns when the transport has taken it: that is what holds back a stream nobody reads.
                await context.write(answer)
    finally:
        close = getattr(answers, "aclose", None)
        if close is not None:
            await close()


async def _abort(context: Any, error: RpcError, request_id: str) -> Any:
    trailing = (*(context.trailing_metadata() or ()), (REQUEST_ID_KEY, request_id))
    if error.details is not None:
        trailing += ((_DETAILS_KEY, error.details),)
    await context.abort(_CODES[int(error.code)], error.message, trailing)


class _Call(Context):
    """A `Context` over grpc's; everything is looked up only when it is asked for."""

    __slots__ = ("_context", "_request_id", "principal")

    def __init__(self, context: Any) -> None:
        self._context = context
        self._request_id = ""
        self.principal: Principal = ANYONE

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

    @property
    def request_id(self) -> str:
        if not self._request_id:
            given = self._context.invocation_metadata() or ()
            self._request_id = request_id(value for key, value in given if key == REQUEST_ID_KEY)
        return self._request_id

    def set_trailing_metadata(self, *pairs: tuple[str, str | bytes]) -> None:
        self._context.set_trailing_metadata(pairs)
