"""The source side of an engine with children."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from peerload.clock import Clock
from peerload.engines.base import DeviceMemory, Publication, Region
from peerload.engines.checks import host_views
from peerload.engines.child.leases import Leasing
from peerload.engines.child.memory import elsewhere, lay
from peerload.engines.child.process import Recipe, spawn
from peerload.engines.child.service import Service
from peerload.engines.child.settings import ChildSettings
from peerload.engines.tcp.exporter import bind_for, listen
from peerload.engines.tcp.listener import Listener, Served
from peerload.engines.tcp.protocol import Endpoint, Refusal, check_host
from peerload.engines.tcp.shelf import Shelf, Shelved
from peerload.engines.throttle import Throttle
from peerload.errors import InvalidArgument, TransferFailed, Unavailable

__all__ = ["ChildExporter"]


class _Offered(Shelved):
    """A publication whose memory somebody else has."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__([])
        self.sizes = tuple(sizes)


class ChildExporter:
    """Implements `Exporter`: a listening socket for leases, and a child a publication.

    Memory that lies in memfds is served where it is; of other memory `publish` makes a copy in one, once and for all: what is
    written there later is not what peers read. Raises `InvalidArgument` for a host that is none and an address that cannot be
    listened on, `Unavailable` where the port is in use.
    """

    def __init__(
        self, engine: str, host: str, recipe: Recipe, words: Mapping[str, Any], settings: ChildSettings, clock: Clock
    ) -> None:
        self._engine = engine
        self._host = check_host(host)
        self._recipe = recipe
        self._words = words
        self._settings = settings
        self._clock = clock
        self._pid = os.getpid()
        self._shelf = Shelf()
        self._services: dict[bytes, Service] = {}
        self._lock = threading.Lock()
        self._closed = False
        rate = settings.max_bytes_per_second
        self._throttle = None if rate is None else Throttle(rate, clock)
        sock = listen(settings.bind if settings.bind is not None else bind_for(self._host), settings.port)
        self.port: int = sock.getsockname()[1]
        self._listener = Listener(sock, self._welcome, settings, clock)

    def publish(self, regions: Sequence[Region]) -> Publication:
        self._check()
        service = self.prepare(regions)
        shelved = _Offered([region.nbytes for region in regions])
        if any(shelved.sizes):
            try:
                service.start()
            except TransferFailed as error:
                service.stop()
                raise Unavailable(str(error)) from None
        with self._lock:
            if self._closed:
                service.stop()
                self._check()
            self._shelf.add(shelved)
            self._services[shelved.id] = service
        endpoint = Endpoint(self._host, self.port, shelved.id, shelved.secret, shelved.sizes, self._engine)
        return Publication(endpoint.encode(), shelved.sizes)

    def copies(self, regions: Sequence[Region]) -> int:
        views = [region.buffer for region in regions if not isinstance(region.buffer, DeviceMemory)]
        # With device memory among them everything is served by this process itself.
        return elsewhere(views) if len(views) == len(regions) else 0

    def retire(self, publication: Publication, *, grace: float = 0.0) -> None:
        shelved = self._shelf.get(Endpoint.decode(publication.descriptor, self._engine).publication)
        if shelved is not None:
            self._retire(shelved, grace)

    def load(self) -> float:
        busy = sum(shelved.busy for shelved in self._shelf.all())
        return min(1.0, busy / self._settings.max_connections)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        for shelved in self._shelf.all():
            self._retire(shelved, 0.0)
        if os.getpid() == self._pid:
            self._listener.close()

    def serving(self, publication: Publication) -> int | None:
        """The process id of the child that serves it at the moment; None for none."""
        service = self._services.get(Endpoint.decode(publication.descriptor, self._engine).publication)
        return None if service is None else service.pid

    def prepare(self, regions: Sequence[Region]) -> Service:
        """Who will serve them. Raises `InvalidArgument` for memory that cannot be served."""
        views = host_views(regions)
        try:
            laid = lay(views, f"peerload-{self._engine}")
        except OSError as error:
            raise Unavailable(f"the memory cannot be made ready for {self._engine}: {error.strerror}") from None
        finally:
            for view in views:
                view.release()
        what = f"the process that serves with {self._engine}"
        return Service(lambda: spawn(self._recipe, "source", what, self._words), laid, self._settings)

    def _retire(self, shelved: Shelved, grace: float) -> None:
        service = self._services.get(shelved.id)
        if os.getpid() != self._pid:
            shelved.forget()
            if service is not None:
                service.forget()
        else:
            shelved.retire(grace, self._clock)
            if service is not None:
                service.stop()
        self._shelf.drop(shelved)
        self._services.pop(shelved.id, None)

    def _check(self) -> None:
        if self._closed:
            raise InvalidArgument("exporter", "is closed")

    def _welcome(self, sock: socket.socket, publication: bytes, secret: bytes) -> Served | Refusal:
        shelved = self._shelf.find(publication, secret)
        if isinstance(shelved, Refusal):
            return shelved
        service = self._services.get(publication)
        if service is None:
            return Refusal.RETIRED
        return Leasing(sock, shelved, service, self._settings, self._throttle, self._clock)
