"""The source side of the TCP engine."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import threading
from collections.abc import Sequence

from peerload.clock import Clock
from peerload.engines.base import Publication, Region
from peerload.engines.checks import host_views
from peerload.engines.tcp import sockets
from peerload.engines.tcp.listener import Listener, Served
from peerload.engines.tcp.protocol import Endpoint, Refusal, check_host
from peerload.engines.tcp.serving import Serving
from peerload.engines.tcp.settings import TcpSettings
from peerload.engines.tcp.shelf import Shelf
from peerload.engines.throttle import Throttle
from peerload.errors import InvalidArgument, Unavailable

__all__ = ["TcpExporter", "bind_for", "listen"]


class TcpExporter:
    """Implements `Exporter`: one listening socket, one thread for it, and one for each connection with a read under way.

    Raises `InvalidArgument` for a host that is none and an address that cannot be listened on, `Unavailable` where the
    port is in use.
    """

    def __init__(self, host: str, settings: TcpSettings, clock: Clock) -> None:
        self._host = check_host(host)
        self._settings = settings
        self._clock = clock
        self._pid = os.getpid()
        self._shelf: Shelf[memoryview] = Shelf()
        self._lock = threading.Lock()
        self._closed = False
        rate = settings.max_bytes_per_second
        self._throttle = None if rate is None else Throttle(rate, clock)
        bind = settings.bind if settings.bind is not None else bind_for(self._host)
        sock = listen(bind, settings.port)
        self.port: int = sock.getsockname()[1]
        self._listener = Listener(sock, self._welcome, settings, clock)

    @property
    def address(self) -> str:
        """Where peers reach this, as in its descriptors."""
        return Endpoint(self._host, self.port, b"", b"", ()).address

    def publish(self, regions: Sequence[Region]) -> Publication:
        views = host_views(regions)
        with self._lock:
            if self._closed:
                raise InvalidArgument("exporter", "is closed")
            shelved = self._shelf.add(views)
        endpoint = Endpoint(self._host, self.port, shelved.id, shelved.secret, shelved.sizes)
        return Publication(endpoint.encode(), shelved.sizes)

    def retire(self, publication: Publication, *, grace: float = 0.0) -> None:
        shelved = self._shelf.get(Endpoint.decode(publication.descriptor).publication)
        if shelved is None:
            return
        if os.getpid() != self._pid:
            shelved.forget()
        else:
            shelved.retire(grace, self._clock)
        self._shelf.drop(shelved)

    def load(self) -> float:
        busy = sum(shelved.busy for shelved in self._shelf.all())
        return min(1.0, busy / self._settings.max_connections)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        for shelved in self._shelf.all():
            if os.getpid() != self._pid:
                shelved.forget()
            else:
                shelved.retire(0.0, self._clock)
            self._shelf.drop(shelved)
        if os.getpid() == self._pid:
            self._listener.close()

    def _welcome(self, sock: socket.socket, publication: bytes, secret: bytes) -> Served | Refusal:
        shelved = self._shelf.find(publication, secret)
        if isinstance(shelved, Refusal):
            return shelved
        return Serving(sock, shelved, self._settings, self._throttle, self._clock)


def bind_for(host: str) -> str:
    """The address to listen on for a source that is reached as `host`; "" for all."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""  # A name may stand for addresses of either family.
    if address.is_loopback:
        return host
    return "" if address.version == 6 else "0.0.0.0"


def listen(bind: str, port: int) -> socket.socket:
    """Listen. Raises `InvalidArgument` for an address that is none here, `Unavailable` where the port is in use."""
    where = f"{bind or '*'}:{port}"
    try:
        return sockets.listen(bind, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Unavailable(f"{where} is in use by another process") from None
        raise InvalidArgument("bind", f"cannot listen on {where}: {error.strerror or error}") from None
