"""The source side: memory sealed in place, or files, and their descriptors for whoever may have them."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence

from peerload.clock import Clock
from peerload.engines.base import Descriptor
from peerload.engines.memfd.files import Files
from peerload.engines.memfd.host import Host, is_trusted
from peerload.engines.memfd.passing import send_descriptors
from peerload.engines.memfd.protocol import GRANT, MAX_ARENAS, Endpoint, Layout
from peerload.engines.memfd.settings import MemfdSettings
from peerload.engines.shared import seal, shared_place
from peerload.engines.tcp import protocol, sockets
from peerload.engines.tcp.exporter import LineExporter
from peerload.engines.tcp.listener import Served
from peerload.engines.tcp.protocol import Kind, Refusal
from peerload.engines.tcp.serving import Asked, GiveUp, Serving
from peerload.engines.tcp.settings import LineSettings
from peerload.engines.tcp.shelf import Shelved
from peerload.engines.throttle import Throttle
from peerload.errors import InvalidArgument, LimitExceeded, Unavailable

__all__ = ["MemfdExporter"]


class _Placed(Shelved):
    """A publication whose memory has descriptors: sealed, or files' that are mapped here."""

    def __init__(self, views: Sequence[memoryview]) -> None:
        super().__init__(views)
        self._files = Files()
        try:
            of_files = [
                self._files.place(view) if view.nbytes and shared_place(view) is None else None for view in views
            ]
            sealed = seal([view[:0] if place else view for view, place in zip(views, of_files, strict=True)])
        except InvalidArgument:
            # Whoever handles it may hold this frame, and the caller is to have his memory back.
            for view in views:
                view.release()
            self._files.close()
            raise
        places = [one or other for one, other in zip(of_files, sealed, strict=True)]
        # In the order in which they first occur.
        self.fds = list(dict.fromkeys(place.fd for place in places if place is not None))
        if len(self.fds) > MAX_ARENAS:
            text = f"lie in {len(self.fds)} pieces of shared memory, the limit is {MAX_ARENAS}: put tensors together"
            raise LimitExceeded("regions", text, limit=MAX_ARENAS)
        index = {fd: number for number, fd in enumerate(self.fds)}
        self.layout = Layout(
            tuple(os.fstat(fd).st_size for fd in self.fds),
            tuple(None if place is None else (index[place.fd], place.offset) for place in places),
        )

    def retire(self, grace: float, clock: Clock) -> None:
        super().retire(grace, clock)
        self._files.close()


class _Serving(Serving):
    """One connection: its reader is told where the memory is, and when to copy from there."""

    def __init__(
        self, sock: socket.socket, shelved: _Placed, settings: LineSettings, throttle: Throttle | None, clock: Clock
    ) -> None:
        super().__init__(sock, shelved, settings, throttle, clock)
        self._placed = shelved

    def _special(self, kind: int, count: int) -> bool:
        if kind != Kind.PAGES or count:
            return False
        views = self._shelved.begin(self._reading)
        if isinstance(views, Refusal):
            self._refuse(views, "these weights are no longer offered")
            return True
        # Their descriptors are good as long as the memory is.
        try:
            self._wait_for(self._settings.progress_timeout)
            layout = self._placed.layout.encode()
            head = protocol.REPLY.pack(protocol.REPLY_MAGIC, Kind.ACCEPTED, 0, 0, len(layout))
            sockets.send_all(self.sock, head + layout, self._waiting)
            send_descriptors(self.sock, self._placed.fds, self._waiting)
        finally:
            del views
            self._shelved.end(self._reading, read_over=True)
        return True

    def _send(self, head: bytes, views: Sequence[memoryview], asked: Sequence[Asked]) -> None:
        left = sum(length for _, _, length in asked)
        throttle = self._throttle
        if throttle is None:
            sockets.send_all(self.sock, head + GRANT.pack(left) if left else head, self._waiting)
            return
        sockets.send_all(self.sock, head, self._waiting)
        while left:
            now = min(left, throttle.quantum)
            if not throttle.wait(now, self._reading.stopped):
                raise GiveUp
            self._wait_for(self._settings.progress_timeout)
            sockets.send_all(self.sock, GRANT.pack(now), self._waiting)
            left -= now


class MemfdExporter(LineExporter):
    """Implements `Exporter`. What peers mapped stays theirs after `retire`: it is sealed, and nobody's writes are seen there.

    It listens on an abstract socket: one that belongs to no folder which containers would have to share, and that is gone with
    the process. The name is no secret and no permission; those are the descriptor's secret and the peer's user.
    Raises `Unavailable` where there can be no such socket.
    """

    def __init__(self, host: str, settings: MemfdSettings, clock: Clock) -> None:
        if not host:
            raise InvalidArgument("host", "is empty")
        self._host = Host.here()
        self._name = f"peerload-{os.getpid()}-{secrets.token_hex(8)}"
        self._allow = settings.allow_uids
        try:
            sock = _listen(self._name)
        except OSError as error:
            raise Unavailable(f"no unix socket to be had: {error.strerror or error}") from None
        super().__init__(sock, settings, clock)

    def _shelve(self, views: Sequence[memoryview]) -> Shelved:
        if self._host is None:
            raise InvalidArgument("host", "cannot be told from others: /proc is not readable")
        return _Placed(views)

    def _describe(self, shelved: Shelved) -> Descriptor:
        assert self._host is not None
        return Endpoint(self._host, self._name, shelved.id, shelved.secret, shelved.sizes).encode()

    def _id_of(self, descriptor: Descriptor) -> bytes:
        return Endpoint.decode(descriptor).publication

    def _welcome(self, sock: socket.socket, publication: bytes, secret: bytes) -> Served | Refusal:
        if not is_trusted(sock, self._allow):
            return Refusal.FORBIDDEN
        shelved = self._shelf.find(publication, secret)
        if isinstance(shelved, Refusal):
            return shelved
        assert isinstance(shelved, _Placed)
        return _Serving(sock, shelved, self._settings, self._throttle, self._clock)


def _listen(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(f"\0{name}")
        sock.listen(1024)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    sockets.track(sock)
    return sock
