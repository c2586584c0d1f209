"""The source side: memory sealed in place, or files, and their descriptors for whoever may have them."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from peerload.clock import Clock
from peerload.engines.base import Descriptor
from peerload.engines.memfd.files import Files
from peerload.engines.memfd.host import Host, is_trusted
from peerload.engines.memfd.passing import send_descriptors
from peerload.engines.memfd.protocol import GRANT, MAX_ARENAS, Endpoint, Layout
from peerload.engines.memfd.settings import MemfdSettings
from peerload.engines.shared import SharedPlace, allocate_arena, is_sealable, seal
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


_ALIGNMENT: Final = 64
_SMALL_PART: Final = 16
"""What is copied is at most this part of a publication: it goes with the rest, and does not make one."""
_NOTHING: Final = memoryview(b"")


class _Placed(Shelved):
    """A publication whose memory has descriptors: sealed, or files' that are mapped here."""

    def __init__(self, views: Sequence[memoryview], copy_limit: int) -> None:
        super().__init__(views)
        self._files = Files()
        self._copies: list[memoryview] = []
        try:
            places = self._place(views, copy_limit)
            # In the order in which they first occur.
            self.fds = list(dict.fromkeys(place.fd for place in places if place is not None))
            if len(self.fds) > MAX_ARENAS:
                text = (
                    f"lie in {len(self.fds)} pieces of shared memory, the limit is {MAX_ARENAS}: put tensors together"
                )
                raise LimitExceeded("regions", text, limit=MAX_ARENAS)
        except InvalidArgument:
            # Whoever handles it may hold this frame, and the caller is to have his memory back.
            for view in views:
                view.release()
            self._files.close()
            raise
        index = {fd: number for number, fd in enumerate(self.fds)}
        self.layout = Layout(
            tuple(os.fstat(fd).st_size for fd in self.fds),
            tuple(None if place is None else (index[place.fd], place.offset) for place in places),
        )

    def retire(self, grace: float, clock: Clock) -> None:
        super().retire(grace, clock)
        self._files.close()
        self._copies = []

    def _place(self, views: Sequence[memoryview], copy_limit: int) -> list[SharedPlace | None]:
        taken = list(views)
        of_files: dict[int, SharedPlace] = {}
        ordinary: list[int] = []
        for index, view in enumerate(views):
            if not view.nbytes or is_sealable(view):
                continue
            place = self._files.place(view)
            if place is None:
                ordinary.append(index)
            else:
                of_files[index] = place
                taken[index] = _NOTHING
        total = sum(view.nbytes for view in views)
        copies = self._copy([views[index] for index in ordinary], min(copy_limit, total // _SMALL_PART))
        for index, copy in zip(ordinary, copies, strict=False):
            taken[index] = copy
        return [of_files.get(index, place) for index, place in enumerate(seal(taken))]

    def _copy(self, views: Sequence[memoryview], limit: int) -> list[memoryview]:
        """Copies that can be sealed, of a little ordinary memory; none where it is more than that."""
        starts = list(accumulate((-(-view.nbytes // _ALIGNMENT) * _ALIGNMENT for view in views), initial=0))
        if not 0 < starts[-1] <= limit:
            return []
        try:
            arena = allocate_arena(starts[-1], "peerload copies")
        except OSError as error:
            raise InvalidArgument("regions", f"there is no shared memory to be had: {error}") from None
        self._copies = [arena[start : start + view.nbytes] for start, view in zip(starts, views, strict=False)]
        for copy, view in zip(self._copies, views, strict=True):
            copy[:] = view
        return self._copies


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
        self._copy_limit = settings.copy_limit
        try:
            sock = _listen(self._name)
        except OSError as error:
            raise Unavailable(f"no unix socket to be had: {error.strerror or error}") from None
        super().__init__(sock, settings, clock)

    def _shelve(self, views: Sequence[memoryview]) -> Shelved:
        if self._host is None:
            raise InvalidArgument("host", "cannot be told from others: /proc is not readable")
        return _Placed(views, self._copy_limit)

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
