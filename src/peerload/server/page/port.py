"""The page's port: HTTP/1.1 on uvicorn, in this event loop."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from peerload.errors import InvalidArgument, Unavailable
from peerload.server.addresses import join_address
from peerload.server.listening import listen
from peerload.server.page.stream import ABORT
from peerload.server.page.visitor import CERTIFICATE
from peerload.server.tls import Tls, TlsKeeper

__all__ = ["PagePort"]

_MOST_CONNECTIONS: Final = 256
_HEAD_SECONDS: Final = 10.0
"""In which a connection must have asked for something."""
_IDLE_SECONDS: Final = 30
_END_SECONDS: Final = 1
"""For answers that are on their way when the server stops."""


class _Connection(H11Protocol):
    """A connection whose requests know its client certificate, and can break it."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()
            return
        self._late = self.loop.call_later(_HEAD_SECONDS, self._look)
        state: dict[str, Any] = {ABORT: transport.abort}
        secured = transport.get_extra_info("ssl_object")
        shown = None if secured is None else secured.getpeercert(True)
        if shown is not None:
            state[CERTIFICATE] = ssl.DER_cert_to_PEM_cert(shown).encode()
        self.app_state = {**self.app_state, **state}

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        if getattr(self, "cycle", None) is None:  # nothing was asked for yet
            self.transport.abort()


class _Server(uvicorn.Server):
    """One that leaves signals to whoever runs the program."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class PagePort:
    """Serves an application, in plaintext or by what `tls` keeps. `ending` is set when it stops. Belongs to one event loop."""

    def __init__(self, app: ASGIApp, tls: TlsKeeper | None, ending: asyncio.Event) -> None:
        self._app = app
        self._ending = ending
        self._tls = tls
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> str:
        """Listen; the address that was bound. Raises `Unavailable`, naming the address, where it cannot be had."""
        loop = asyncio.get_running_loop()
        try:
            sockets = await loop.run_in_executor(None, listen, host, port)
        except Unavailable as error:
            raise Unavailable(f"ui: {error}") from None
        address = join_address(host, sockets[0].getsockname()[1])
        config = uvicorn.Config(
            self._app,
            http=_Connection,
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=_END_SECONDS,
        )
        config.load()
        if self._tls is not None:
            config.ssl = _context(self._tls)
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets), name="peerload-ui")
        return address

    async def stop(self) -> None:
        """Close the port, and end what is open on it. Twice is allowed."""
        server, self._server = self._server, None
        if server is None or self._serving is None:
            return
        server.should_exit = True
        self._ending.set()
        await self._serving


def _context(tls: TlsKeeper) -> ssl.SSLContext:
    """The context of new connections. When the files have changed, it hands a connection on to one of what they hold now."""
    held = tls.current()
    made = _context_of(held)

    def exchange(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        nonlocal held, made
        now = tls.current()
        if now is not held:
            with contextlib.suppress(InvalidArgument, ssl.SSLError):
                held, made = now, _context_of(now)
        connection.context = made

    made.sni_callback = exchange
    return made


def _context_of(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.pair.load(context)
    if tls.client_ca is not None:
        context.load_verify_locations(cadata=tls.client_ca.decode("ascii"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context
