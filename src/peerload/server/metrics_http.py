"""The port for Prometheus, over HTTP/1.1: `/metrics`; and for probes that cannot speak gRPC over TLS, `/livez` and `/readyz`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest

from peerload.errors import Unavailable
from peerload.server.addresses import join_address
from peerload.server.readiness import Readiness
from peerload.server.settings import Settings

__all__ = ["MetricsPort", "start_metrics"]

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_MAX_HEAD: Final = 16 * 1024
_MAX_CONNECTIONS: Final = 64
_SECONDS: Final = 10.0
"""For a whole request and its answer: who is slower is cut off."""


class MetricsPort:
    """Answers each connection once: `/livez` with 200 for as long as the server answers at all, `/readyz` while it is ready,
    and with 503 and a reason while it is not. `gather` is awaited before the registry is asked. Belongs to one event loop."""

    def __init__(
        self,
        registry: CollectorRegistry,
        readiness: Readiness,
        gather: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._registry = registry
        self._gather = gather
        self._readiness = readiness
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> str:
        """Listen; the address that was bound. Raises `Unavailable`, naming the address, where it cannot be had."""
        try:
            if host == "::" and socket.has_dualstack_ipv6():
                listening = socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
                self._server = await asyncio.start_server(self._connected, sock=listening, limit=_MAX_HEAD)
            else:
                self._server = await asyncio.start_server(self._connected, host, port, limit=_MAX_HEAD)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise Unavailable(f"metrics: {join_address(host, port)} cannot be listened on: {reason}") from error
        return join_address(host, self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close the port and what is open on it. Twice is allowed."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)
        await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if len(self._open) <= _MAX_CONNECTIONS:
                with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                    async with asyncio.timeout(_SECONDS):
                        head = await reader.readuntil(b"\r\n\r\n")
                        writer.write(await self._answer(head.decode("latin-1")))
                        await writer.drain()
        except asyncio.CancelledError:
            writer.transport.abort()  # the port is being closed, and nobody awaits this task's end but `stop`
        finally:
            self._open.discard(task)
            writer.close()

    async def _answer(self, head: str) -> bytes:
        words = head.partition("\r\n")[0].split(" ")
        if len(words) != 3:
            return _page(HTTPStatus.BAD_REQUEST)
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return _page(HTTPStatus.METHOD_NOT_ALLOWED)
        head_only = method == "HEAD"
        match target.partition("?")[0]:
            case "/" | "/metrics":
                if self._gather is not None:
                    await self._gather()
                return _page(HTTPStatus.OK, generate_latest(self._registry), head_only=head_only)
            case "/livez":
                return _page(HTTPStatus.OK, head_only=head_only)
            case "/readyz" if self._readiness.serving:
                return _page(HTTPStatus.OK, head_only=head_only)
            case "/readyz":
                reason = f"{self._readiness.reason}\n".encode(errors="replace")
                return _page(HTTPStatus.SERVICE_UNAVAILABLE, reason, head_only=head_only)
        return _page(HTTPStatus.NOT_FOUND)


async def start_metrics(port: MetricsPort, settings: Settings) -> tuple[str, str]:
    """Open the port where the settings want it: the address, empty where there is none; and why it could not be opened,
    where nobody has asked for one, so that a second server on one machine starts all the same. Raises `Unavailable`."""
    where = settings.metrics_address
    if where is None:
        return "", ""
    try:
        return await port.start(*where), ""
    except Unavailable as error:
        if not settings.metrics_is_default:
            raise
        return "", str(error)


def _page(status: HTTPStatus, body: bytes = b"", *, head_only: bool = False) -> bytes:
    text = body or f"{status.phrase}\n".encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {_TEXT}\r\nContent-Length: {len(text)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (b"" if head_only else text)
