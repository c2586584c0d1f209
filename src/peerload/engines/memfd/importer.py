"""The target side: the source's memory mapped where it may be shared, copied from there where it may not."""

from __future__ import annotations

import os
import socket
import stat
import threading
import weakref
from collections.abc import Callable, Sequence

from peerload.clock import Clock
from peerload.engines.base import Descriptor
from peerload.engines.job import LaneJob
from peerload.engines.memfd.host import Host, is_trusted
from peerload.engines.memfd.passing import receive_descriptors
from peerload.engines.memfd.protocol import GRANT, Endpoint, Layout
from peerload.engines.memfd.settings import MemfdSettings
from peerload.engines.pieces import Pieces
from peerload.engines.shared import is_sealed, map_sealed
from peerload.engines.tcp import protocol, sockets
from peerload.engines.tcp.importer import LineImporter, LineReader
from peerload.engines.tcp.lane import Lane, read_reply
from peerload.engines.tcp.protocol import Kind
from peerload.engines.tcp.sockets import ConnectionLost
from peerload.engines.tcp.work import Window, Work
from peerload.errors import Fault, InvalidArgument, TransferFailed

__all__ = ["MemfdImporter", "MemfdReader"]

PIECE = 1024 * 1024
"""Bytes copied and then digested while they are in the cache."""
NEWS = 256
"""Small ranges that are told of together."""


class _Pages:
    """A publication's memfds, and where in them its regions lie."""

    def __init__(self, fds: Sequence[int], layout: Layout) -> None:
        self._fds = tuple(fds)
        self._layout = layout
        self.close = weakref.finalize(self, _close, self._fds)

    def place(self, region: int) -> tuple[int, int]:
        """The descriptor to read a region from, and where it begins there."""
        place = self._layout.places[region]
        assert place is not None
        return self._fds[place[0]], place[1]

    def map(self, sizes: Sequence[int]) -> Pieces | None:
        """The regions, mapped; None where that would not be safe. Raises OSError."""
        if not all(is_sealed(fd, size) for fd, size in zip(self._fds, self._layout.arenas, strict=True)):
            return None
        return Pieces([map_sealed(os.dup(fd)) for fd in self._fds], self._layout.places, sizes)


class MemfdReader(LineReader):
    """Implements `MappingReader`."""

    def __init__(self, endpoint: Endpoint, settings: MemfdSettings, clock: Clock) -> None:
        super().__init__(f"@{endpoint.socket}", endpoint.publication, endpoint.secret, endpoint.sizes, settings, clock)
        self._name = endpoint.socket
        self._allow = settings.allow_uids
        self._passing = threading.Lock()
        self._pages: _Pages | None = None

    def map(self, *, deadline: float) -> Pieces | None:
        """`MappingReader.map`."""
        if not deadline > 0:
            raise InvalidArgument("deadline", f"{deadline} s is not a time from now")
        until = self._clock.monotonic() + deadline
        moved = self._clock.monotonic()

        def waiting() -> None:
            now = self._clock.monotonic()
            if self._closed:
                raise TransferFailed("abandoned", fault=Fault.OURS)
            if now > until:
                raise TransferFailed(f"not mapped within its deadline of {deadline:g} s", fault=Fault.OURS)
            if now > moved + self._settings.progress_timeout:
                raise TransferFailed(f"{self.address} did not answer", fault=Fault.STALLED)

        with self._lock:
            if self._closed:
                raise InvalidArgument("reader", "is closed")
        line = self.take_line(deadline, fresh=True)
        try:
            pages = self.pages(line.sock, waiting)
        except ConnectionLost as error:
            line.sock.close()
            raise TransferFailed(f"lost the connection to {self.address}: {error}", fault=Fault.LOST) from None
        except TransferFailed:
            line.sock.close()
            raise
        self.keep_line(line)
        try:
            return pages.map(self._sizes)
        except OSError as error:
            raise TransferFailed(f"the source's memory: {error}", fault=Fault.OURS) from error

    def pages(self, sock: socket.socket, waiting: Callable[[], None]) -> _Pages:
        """The memfds, asked for on this connection if they are not here yet. Raises `TransferFailed` and `ConnectionLost`."""
        with self._passing:
            if self._pages is None:
                self._pages = self._ask(sock, waiting)
            return self._pages

    def close(self) -> None:
        super().close()
        with self._passing:
            if self._pages is not None:
                self._pages.close()

    def _ask(self, sock: socket.socket, waiting: Callable[[], None]) -> _Pages:
        sockets.send_all(sock, protocol.REQUEST.pack(protocol.REQUEST_MAGIC, Kind.PAGES, 0), waiting)
        length = read_reply(sock, Kind.ACCEPTED, self.address, waiting)
        if not 0 < length <= Layout.limit(len(self._sizes)):
            raise TransferFailed(f"{self.address} does not speak this engine's protocol", retryable=False)
        try:
            layout = Layout.decode(sockets.receive_exactly(sock, length, waiting), self._sizes)
        except ValueError as error:
            raise TransferFailed(f"what {self.address} says of its memory {error}", retryable=False) from None
        fds = receive_descriptors(sock, len(layout.arenas), waiting)
        pages = _Pages(fds, layout)
        if not all(stat.S_ISREG(os.fstat(fd).st_mode) for fd in fds):
            raise TransferFailed(f"{self.address} gives what is no memory", retryable=False)
        return pages

    def _lane(self, job: LaneJob, work: Work) -> Lane:
        return _CopyLane(self, job, work, self._clock, self._settings.progress_timeout)

    def _dial(self, timeout: float) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.connect(f"\0{self._name}")
            sockets.adopt(sock)
        except OSError as error:
            sock.close()
            # Nothing that counts against the source: a copy of this very host may be running elsewhere.
            text = f"cannot connect to {self.address}: {error.strerror or error}"
            raise TransferFailed(text, fault=Fault.OURS) from None
        if not is_trusted(sock, self._allow):
            sock.close()
            raise TransferFailed(f"{self.address} is another user's", retryable=False, fault=Fault.OURS)
        return sock


class _CopyLane(Lane):
    """A thread that copies what it is granted, and computes digests on the way."""

    def __init__(self, reader: MemfdReader, job: LaneJob, work: Work, clock: Clock, patience: float) -> None:
        super().__init__(job, work, reader, clock, patience)
        self._reader = reader
        self._pages: _Pages | None = None

    def _transfer(self, sock: socket.socket, destinations: Sequence[memoryview]) -> None:
        self._moved = self._clock.monotonic()
        self._pages = self._reader.pages(sock, self._waiting)
        super()._transfer(sock, destinations)

    def _receive(self, sock: socket.socket, window: Window, destinations: Sequence[memoryview]) -> None:
        assert self._pages is not None
        left = window.size
        granted = copied = 0
        whole: list[tuple[int, bytes | None]] = []
        for index, start, length in self._work.parts(window):
            view, wanted = destinations[index], self._work.ranges[index]
            fd, begin = self._pages.place(wanted.region)
            at, end = start, start + length
            while at < end:
                if not granted:
                    self._job.arrived(copied, whole)
                    copied, whole = 0, []
                    (granted,) = GRANT.unpack(sockets.receive_exactly(sock, GRANT.size, self._waiting))
                    if not 0 < granted <= left:
                        raise TransferFailed(f"{self._reader.address} granted what nobody asked for", retryable=False)
                    left -= granted
                size = min(end - at, granted, PIECE)
                if copied + size > PIECE or len(whole) == NEWS:
                    self._job.arrived(copied, whole)
                    copied, whole = 0, []
                    self._waiting()
                with view[at : at + size] as part:
                    _copy(fd, begin + wanted.offset + at, part)
                    self._moved = self._clock.monotonic()
                    if (found := self._digest(part, at + size == len(view))) is not None:
                        whole.append((index, found))
                at += size
                granted -= size
                copied += size
        self._job.arrived(copied, whole)


class MemfdImporter(LineImporter):
    """Implements `Importer`."""

    def __init__(self, settings: MemfdSettings, clock: Clock) -> None:
        super().__init__(settings, clock)
        self._own = settings

    def open(self, descriptor: Descriptor) -> MemfdReader:
        endpoint = Endpoint.decode(descriptor)
        if endpoint.host != Host.here():
            text = f"{descriptor.address} is on another host, or in another network namespace of this one"
            raise TransferFailed(text, retryable=False, fault=Fault.OURS)
        return self._opened(MemfdReader(endpoint, self._own, self._clock))


def _copy(fd: int, offset: int, into: memoryview) -> None:
    # Rather than from a mapping: it costs no faults, lets other threads run meanwhile, and of a file that was truncated it is
    # told by an answer rather than by a signal.
    done = 0
    while done < len(into):
        try:
            with into[done:] as rest:
                more = os.preadv(fd, [rest], offset + done)
        except OSError as error:
            raise TransferFailed(f"cannot read the source's memory: {error.strerror}", fault=Fault.OURS) from None
        if not more:
            raise TransferFailed("the source's memory ends too early", retryable=False)
        done += more


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
