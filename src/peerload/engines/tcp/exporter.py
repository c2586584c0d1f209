"""The source side of the TCP engine, and what it shares with engines that speak over its connections."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence

from peerload.clock import Clock
from peerload.engines.base import Descriptor, Publication, Region
from peerload.engines.checks import host_views
from peerload.engines.tcp import sockets
from peerload.engines.tcp.listener import Listener, Served
from peerload.engines.tcp.protocol import Endpoint, Refusal, check_host
from peerload.engines.tcp.serving import Serving
from peerload.engines.tcp.settings import LineSettings, TcpSettings
from peerload.engines.tcp.shelf import Shelf, Shelved
from peerload.engines.throttle import Throttle
from peerload.errors import InvalidArgument, Unavailable

__all__ = ["LineExporter", "TcpExporter", "bind_for", "listen"]


class LineExporter(ABC):
    """Implements `Exporter`: one listening socket, one thread for it, and one for each connection with a read under way."""

    def __init__(self, sock: socket.socket, settings: LineSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._pid = os.getpid()
        self._shelf = Shelf()
        self._lock = threading.Lock()
        self._closed = False
        rate = settings.max_bytes_per_second
        self._throttle = None if rate is None else Throttle(rate, clock)
        self._listener = Listener(sock, self._welcome, settings, clock)

    def publish(self, regions: Sequence[Region]) -> Publication:
        shelved = self._shelve(host_views(regions))
        with self._lock:
            if self._closed:
                raise InvalidArgument("exporter", "is closed")
            self._shelf.add(shelved)
        return Publication(self._describe(shelved), shelved.sizes)

    def copies(self, regions: Sequence[Region]) -> int:
        return 0

    def retire(self, publication: Publication, *, grace: float = 0.0) -> None:
        shelved = self._shelf.get(self._id_of(publication.descriptor))
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

    @abstractmethod
    def _shelve(self, views: Sequence[memoryview]) -> Shelved:
        """A publication of that memory. Raises `InvalidArgument`."""

    @abstractmethod
    def _describe(self, shelved: Shelved) -> Descriptor:
        """How targets reach it."""

    @abstractmethod
    def _id_of(self, descriptor: Descriptor) -> bytes:
        """The id of the publication that a descriptor of this engine names."""

    @abstractmethod
    def _welcome(self, sock: socket.socket, publication: bytes, secret: bytes) -> Served | Refusal:
        """What serves a connection that was greeted so."""


class TcpExporter(LineExporter):
    """Implements `Exporter`.

    Raises `InvalidArgument` for a host that is none and an address that cannot be listened on, `Unavailable` where the
    port is in use.
    """

    def __init__(self, host: str, settings: TcpSettings, clock: Clock) -> None:
        self._host = check_host(host)
        sock = listen(settings.bind if settings.bind is not None else bind_for(self._host), settings.port)
        self.port: int = sock.getsockname()[1]
        super().__init__(sock, settings, clock)

    @property
    def address(self) -> str:
        """Where peers reach this, as in its descriptors."""
        return Endpoint(self._host, self.port, b"", b"", ()).address

    def _shelve(self, views: Sequence[memoryview]) -> Shelved:
        return Shelved(views)

    def _describe(self, shelved: Shelved) -> Descriptor:
        return Endpoint(self._host, self.port, shelved.id, shelved.secret, shelved.sizes).encode()

    def _id_of(self, descriptor: Descriptor) -> bytes:
        return Endpoint.decode(descriptor).publication

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
