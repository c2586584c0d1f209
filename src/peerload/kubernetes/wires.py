"""Connections to the API server, and what aiohttp says of them in our own words."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from peerload import __version__
from peerload.errors import MissingExtra
from peerload.kubernetes.trouble import Broken, Distrusted, Refused, connection_words

try:
    import aiohttp
except ImportError:
    raise MissingExtra("asking Kubernetes", "kubernetes") from None

__all__ = ["Wires", "open_socket", "translated"]

_IDLE_SECONDS: Final = 15.0
_FAREWELL_TURNS: Final = 20
"""Turns of the event loop that TLS takes to notice that nobody is there any more."""
_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)


class Wires:
    """Connections that are used, and given up, together."""

    def __init__(self, most: int) -> None:
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        connector = aiohttp.TCPConnector(limit=most, keepalive_timeout=_IDLE_SECONDS, socket_factory=self._connect)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(_once,),
            skip_auto_headers=("Accept-Encoding",),  # packing costs the API server more than the bytes cost the network
            headers={"User-Agent": f"peerload/{__version__}"},
        )
        self._users = 0
        self._retired = False

    @contextlib.asynccontextmanager
    async def used(self) -> AsyncIterator[aiohttp.ClientSession]:
        """The session, for one request."""
        self._users += 1
        try:
            yield self._session
        finally:
            self._users -= 1
            if self._retired and not self._users:
                await self.close()

    async def retire(self) -> None:
        """Take no new request, and close when the last one has ended."""
        self._retired = True
        if not self._users:
            await self.close()

    async def close(self) -> None:
        """Break all of them."""
        for made in self._sockets:
            # TLS would wait, half a minute, until a server says goodbye that says nothing.
            with contextlib.suppress(OSError):
                made.shutdown(socket.SHUT_RDWR)
        await self._farewell()
        # asyncio forgets what a TLS transport belonged to when it is closed twice, and aiohttp asks such a one for it. All
        # else is closed by then, and this one is about to be.
        with contextlib.suppress(AttributeError):
            await self._session.close()
        await self._farewell()

    async def _farewell(self) -> None:
        """Let the event loop notice that nobody is at the other ends any more."""
        for _ in range(_FAREWELL_TURNS):
            if all(made.fileno() < 0 for made in self._sockets):
                return
            await asyncio.sleep(0)

    def _connect(self, info: tuple[Any, ...]) -> socket.socket:
        made = open_socket(info)
        self._sockets.add(made)
        return made


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Where a connection breaks aiohttp sends some requests, DELETE among them, a second time: not if the error is ours."""
    with translated(writes=request.method not in ("GET", "HEAD")):
        return await handler(request)


def open_socket(info: tuple[Any, ...]) -> socket.socket:
    """A socket for an address as `getaddrinfo` gives it, that finds out when the host at its other end is gone."""
    family, kind, protocol, _, _ = info
    made = socket.socket(family, kind, protocol)
    for option in _KEEPALIVE:
        made.setsockopt(*option)
    made.setblocking(False)
    return made


@contextlib.contextmanager
def translated(*, writes: bool) -> Iterator[None]:
    """What aiohttp raises, as what it means."""
    try:
        yield
    # What is raised there holds the request's headers, or the proxy's password: so no error of ours has it as its cause.
    except aiohttp.ClientConnectorCertificateError as error:
        raise Distrusted(_unreached(connection_words(error.certificate_error))) from None
    except aiohttp.ClientHttpProxyError as error:
        raise Broken(_unreached(f"the proxy refuses the connection ({error.status})")) from None
    except aiohttp.ClientConnectorError as error:
        raise Broken(_unreached(connection_words(error.os_error))) from None
    except aiohttp.ConnectionTimeoutError:
        raise Broken(_unreached("no connection was made in time")) from None
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
        raise Refused(_unreached("its address is not one")) from None
    except (aiohttp.ClientError, OSError) as error:
        reason = "it closed the connection" if isinstance(error, aiohttp.ServerDisconnectedError) else ""
        reason = reason or f"the connection broke ({connection_words(error)})"
        raise Broken(_unreached(reason), ambiguous=writes) from None


def _unreached(reason: str) -> str:
    return f"the Kubernetes API server cannot be reached: {reason}"
