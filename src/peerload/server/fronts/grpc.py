"""The front on grpc.aio, the conservative choice."""

from __future__ import annotations

import asyncio
from typing import Final, cast

import grpc
import grpc.aio
import structlog

from peerload.errors import Unavailable
from peerload.server.addresses import join_address
from peerload.server.admission import Admission
from peerload.server.fronts.grpc_calls import Table
from peerload.server.limits import Limits
from peerload.server.listening import SharedPort, parse_listen
from peerload.server.listening import listen as bound_to
from peerload.server.rpc import Gate, Methods
from peerload.server.tls import Tls, TlsKeeper

__all__ = ["GrpcFront"]

_log = structlog.get_logger("peerload.server")

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
        self._table = Table(methods, self.admission)
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
