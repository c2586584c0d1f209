"""The front on h2corn: a server in Rust that speaks HTTP/2, with our application in this event loop."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog

from peerload.errors import Unavailable
from peerload.server.addresses import join_address
from peerload.server.admission import Admission
from peerload.server.fronts.asgi.app import Application
from peerload.server.limits import Limits
from peerload.server.listening import SharedPort, break_connections, parse_listen
from peerload.server.listening import listen as bound_to
from peerload.server.rpc import Gate, Methods
from peerload.server.tls import TlsKeeper

if TYPE_CHECKING:
    import h2corn

__all__ = ["H2cornFront"]

_log = structlog.get_logger("peerload.server")

_STREAM_WINDOW: Final = 256 * 1024
_CONNECTION_WINDOW: Final = 4 * 1024 * 1024
"""What a connection's requests may hold before they are read. One that waits for room holds its stream's window, so
several of them leave the connection's other calls some."""
_HEADER_BYTES: Final = 16 * 1024
"""All headers of a call together; tokens are the largest of them."""
_FEW_CORES: Final = 4
_PROBES: Final = 3
"""So many unanswered probes in a row mean that a peer has vanished."""
_LOOK_SECONDS: Final = 5.0
"""Between two looks whether a certificate's files have changed."""
_MOMENT_SECONDS: Final = 0.05
_END_SECONDS: Final = 1.0
"""For calls that are ended to tell their clients so, where those read it."""
_NEVER: Final = 30 * 24 * 3600.0


class _Generation:
    """One h2corn server and the connections it has. All of them accept from the same sockets."""

    def __init__(self, server: h2corn.Server, application: Application) -> None:
        self._server = server
        self._application = application
        self._serving = asyncio.create_task(server.serve(), name="peerload-h2corn")

    async def started(self) -> None:
        """Wait until it accepts. Raises what kept it from that."""
        starting = asyncio.create_task(self._server.wait_started())
        try:
            await asyncio.wait({starting, self._serving}, return_when=asyncio.FIRST_COMPLETED)
            if self._serving.done():
                self._serving.result()
                raise Unavailable("the server ended before it served")
            starting.result()
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)

    def close(self) -> None:
        """Accept nothing more, and tell clients to make their next calls on another connection."""
        self._server.shutdown()

    async def end(self, grace: float) -> bool:
        """Wait `grace` seconds for the calls of these connections to end, then end them. Whether that was the end.

        What a client does not read it may hold up until it has stalled for too long.
        """
        await asyncio.wait({self._serving}, timeout=grace)
        for end in (self._application.end_calls, self._application.drop_calls):
            if not self._serving.done():
                end()
                await asyncio.wait({self._serving}, timeout=_END_SECONDS)
        if self._serving.done():
            # What it ended with is nobody's concern by now.
            self._serving.exception()
        return self._serving.done()

    async def ended(self, timeout: float | None = None) -> None:
        """Wait for the end of its last connection, at most so many seconds."""
        await asyncio.wait({self._serving}, timeout=timeout)


class H2cornFront:
    """A `Front` over HTTP/2, plaintext or TLS.

    It bounds everything in `Limits`. One message over the limit is refused at its first bytes; what is read of a
    request beyond that has its room, and the gate has let it in. More connections than the limit wait, unaccepted. Two
    bounds have no setting: headers have at most 16 KiB, and a connection that resets streams by the hundred is closed.

    What a connection's readers leave unread, h2corn holds up to 2 MiB for them all: then none of them is sent anything
    until they read on, or have stalled for too long. So a client that stops reading one large answer holds up its own
    others; its calls on other connections, and other clients, do not notice.

    A connection grows no older than its age by rolling: another h2corn server takes over the sockets, and the one before
    it lets its connections go. So all are let go at once, at ages from 0 to the limit. Changed certificates come in the
    same way; connections go on under the old one until they have no calls.

    On a `port` that is shared it accepts from the very sockets that others accept from, so that no connection is lost with
    whoever leaves, and who is busy accepts less.
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
        self._methods = methods
        self._limits = Limits() if limits is None else limits
        self.admission = Admission(self._limits, gate)
        self._tls = tls
        self._shared = port is not None
        self._sockets: list[socket.socket] = [] if port is None else list(port.sockets)
        self._port = 0
        self._generation: _Generation | None = None
        self._leaving: dict[asyncio.Task[None], _Generation] = {}
        self._rolling: list[asyncio.Task[None]] = []
        self._taking_over = asyncio.Lock()

    async def start(self, listen: str) -> str:
        """Bind and serve; see `Front.start`."""
        host, port = parse_listen(listen)
        loop = asyncio.get_running_loop()
        if not self._shared:
            self._sockets = await loop.run_in_executor(None, bound_to, host, port)
        try:
            self._port = self._sockets[0].getsockname()[1]
            for each in self._sockets:
                _notice_the_vanished(each, self._limits.timeout_silence)
            self._generation = await self._open()
        except BaseException:
            self._close_sockets()
            raise
        if self._limits.connection_age:
            self._rolling.append(asyncio.create_task(self._roll_by_age(), name="peerload-connection-age"))
        if self._tls is not None:
            self._rolling.append(asyncio.create_task(self._roll_by_files(self._tls), name="peerload-certificate"))
        return join_address(host, self._port)

    async def leave(self, grace: float) -> None:
        """Accept nothing more, and wait for the connections to end; see `Front.leave`."""
        if self._generation is not None:
            self._generation.close()
            await self._generation.ended(grace)

    async def stop(self, grace: float) -> None:
        """Stop; see `Front.stop`."""
        for task in self._rolling:
            task.cancel()
        await asyncio.gather(*self._rolling, return_exceptions=True)
        self._rolling.clear()
        generation, self._generation = self._generation, None
        if generation is not None:
            generation.close()
            # The sockets outlive it for a moment: h2corn takes one that is closed under it for a failure.
            await asyncio.sleep(_MOMENT_SECONDS)
            self._close_sockets()
            leaving = list(self._leaving.items())
            for task, _ in leaving:
                task.cancel()
            await asyncio.gather(*(task for task, _ in leaving), return_exceptions=True)
            generations = (generation, *(each for _, each in leaving))
            if not all(await asyncio.gather(*(each.end(grace) for each in generations))):
                await asyncio.get_running_loop().run_in_executor(None, break_connections, self._port)
                await asyncio.gather(*(each.ended(_END_SECONDS) for each in generations))

    async def roll(self, grace: float = math.inf) -> None:
        """Let another h2corn server take over the sockets; those connections go that have no calls, and after `grace`
        seconds all of them. Raises what keeps it from serving; then nothing has changed."""
        # One after the other: each takes over from the one before it.
        async with self._taking_over:
            before, self._generation = self._generation, await self._open()
        if before is not None:
            before.close()
            leaving = asyncio.create_task(_leave(before, min(grace, _NEVER)), name="peerload-leaving")
            self._leaving[leaving] = before
            leaving.add_done_callback(self._leaving.pop)

    async def _open(self) -> _Generation:
        import h2corn

        application = Application(self._methods, self.admission)
        limits = self._limits
        config = h2corn.Config(
            bind=tuple(f"fd://{each.fileno()}" for each in self._sockets),
            grpc=True,
            http1=False,
            lifespan="off",
            access_log=False,
            date_header=False,
            log_format=_log_format(),
            runtime_threads=1 if (os.cpu_count() or 1) <= _FEW_CORES else 2,
            limit_connections=limits.limit_connections,
            max_concurrent_streams=limits.limit_connection_calls,
            h2_initial_stream_window_size=_STREAM_WINDOW,
            h2_initial_connection_window_size=_CONNECTION_WINDOW,
            h2_max_header_list_size=_HEADER_BYTES,
            h2_max_header_block_size=_HEADER_BYTES,
            timeout_handshake=limits.timeout_handshake,
            timeout_keep_alive=limits.timeout_idle,
            timeout_graceful_shutdown=_NEVER,
            h2_timeout_response_stall=limits.timeout_stall,
            h2_timeout_write=limits.timeout_stall,
            **self._tls_options(),
        )
        generation = _Generation(h2corn.Server(application, config), application)
        await generation.started()
        return generation

    def _tls_options(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        files = self._tls.files
        options: dict[str, Any] = {"certfile": files.certificate, "keyfile": files.key}
        if files.client_ca is not None:
            options |= {"ca_certs": files.client_ca, "cert_reqs": "required"}
        return options

    async def _roll_by_age(self) -> None:
        while True:
            await asyncio.sleep(self._limits.connection_age)
            await self._has_rolled(self._limits.connection_age_grace)

    async def _roll_by_files(self, tls: TlsKeeper) -> None:
        loop = asyncio.get_running_loop()
        known = tls.current()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = await loop.run_in_executor(None, tls.current)
            if now is not known and await self._has_rolled(math.inf):
                known = now

    async def _has_rolled(self, grace: float) -> bool:
        try:
            await self.roll(grace)
        except (OSError, RuntimeError, ValueError, Unavailable) as error:
            # For want of descriptors, or because the TLS files have just changed again.
            _log.error("another server could not take over; the one before goes on", reason=str(error))
            return False
        return True

    def _close_sockets(self) -> None:
        for each in self._sockets:
            if not self._shared:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._sockets.clear()


async def _leave(generation: _Generation, grace: float) -> None:
    await generation.end(grace)
    await generation.ended()


def _notice_the_vanished(listener: socket.socket, silence: float) -> None:
    """Have the kernel end accepted connections whose peer has not acknowledged anything for so many seconds.

    Linux hands these settings on to what a listening socket accepts.
    """
    half = max(1, round(silence / 2))
    options: list[tuple[str, int]] = [
        ("TCP_KEEPIDLE", half),
        ("TCP_KEEPINTVL", max(1, half // _PROBES)),
        ("TCP_KEEPCNT", _PROBES),
        # What has been sent and is not acknowledged, or is not read for so long, ends it too.
        ("TCP_USER_TIMEOUT", round(silence * 1000)),
    ]
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options:
        option = getattr(socket, name, None)
        if option is not None:
            listener.setsockopt(socket.IPPROTO_TCP, option, value)


def _log_format() -> Literal["text", "json"]:
    return "text" if sys.stderr.isatty() else "json"
