"""The target side of the TCP engine, and what it shares with engines that speak over its connections."""

from __future__ import annotations

import socket
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

from peerload.clock import Clock
from peerload.engines.allocate import allocate
from peerload.engines.base import Descriptor, DeviceMemory, Range
from peerload.engines.checks import check_ranges, destination_views
from peerload.engines.job import LaneJob
from peerload.engines.tcp import protocol
from peerload.engines.tcp.greet import dial, greet
from peerload.engines.tcp.lane import Lane, Line
from peerload.engines.tcp.protocol import Endpoint
from peerload.engines.tcp.settings import LineSettings
from peerload.engines.tcp.work import Work
from peerload.errors import InvalidArgument

__all__ = ["LineImporter", "LineReader", "TcpImporter", "TcpReader"]

R = TypeVar("R", bound="LineReader")


class LineReader(ABC):
    """Implements `Reader`. Connects when it first reads, and keeps its connections for a while."""

    def __init__(
        self,
        address: str,
        publication: bytes,
        secret: bytes,
        sizes: Sequence[int],
        settings: LineSettings,
        clock: Clock,
    ) -> None:
        self.address = address
        """The source's, for people."""
        self._greeting = protocol.greeting(publication, secret)
        self._sizes = sizes
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = False
        self._kept: list[Line] = []
        self._jobs: weakref.WeakSet[LaneJob] = weakref.WeakSet()
        # A reader that is dropped without being closed takes its connections with it.
        weakref.finalize(self, _close_all, self._kept)

    def read(
        self, ranges: Sequence[Range], destinations: Sequence[memoryview | DeviceMemory], *, deadline: float
    ) -> LaneJob:
        ranges = tuple(ranges)
        check_ranges(ranges, self._sizes)
        job = LaneJob(destination_views(ranges, destinations), deadline=deadline, clock=self._clock)
        if job.over:
            return job
        lengths = [length for _, _, length in ranges]
        wide = sum(lengths) >= self._settings.large_read
        count = min(self._settings.connections, len(lengths) - lengths.count(0)) if wide else 1
        work = Work(ranges, count)
        with self._lock:
            if self._closed:
                raise InvalidArgument("reader", "is closed")
            self._jobs.add(job)
        for _ in range(count):
            job.lane_started()
        for _ in range(count):
            try:
                threading.Thread(target=self._lane(job, work).run, name="peerload-read", daemon=True).start()
            except RuntimeError as error:
                job.lane_ended(f"this process can start no more threads: {error}")
        return job

    def close(self) -> None:
        with self._lock:
            self._closed = True
            jobs = list(self._jobs)
        for job in jobs:
            job.abandon()
        with self._lock:
            _close_all(self._kept)

    def take_line(self, seconds_left: float, *, fresh: bool = False) -> Line:
        """A connection, kept or (always, if it is to be `fresh`) new. Raises `TransferFailed`."""
        while True:
            with self._lock:
                line = self._kept.pop() if self._kept and not fresh else None
            if line is None:
                return self._connect(seconds_left)
            if self._usable(line):
                return line
            line.sock.close()

    def keep_line(self, line: Line) -> None:
        """Keep a connection on which nothing is under way for the next read, or close it."""
        line.kept = True
        line.idle_since = self._clock.monotonic()
        with self._lock:
            stale = [each for each in self._kept if not self._fresh(each)]
            self._kept[:] = [each for each in self._kept if self._fresh(each)]
            if self._closed or len(self._kept) >= self._settings.connections:
                stale.append(line)
            else:
                self._kept.append(line)
        _close_all(stale)

    def _fresh(self, line: Line) -> bool:
        return self._clock.monotonic() - line.idle_since < self._settings.idle_timeout / 2

    def _usable(self, line: Line) -> bool:
        if not self._fresh(line):
            return False
        try:
            line.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # Closed by the source, or it said something that nobody asked for.

    def _lane(self, job: LaneJob, work: Work) -> Lane:
        """A thread's work on a job."""
        return Lane(job, work, self, self._clock, self._settings.progress_timeout)

    @abstractmethod
    def _dial(self, timeout: float) -> socket.socket:
        """A connected socket. Raises `TransferFailed`."""

    def _connect(self, seconds_left: float) -> Line:
        timeout = max(0.05, min(self._settings.connect_timeout, seconds_left))
        return Line(
            greet(self._dial(timeout), self._greeting, self.address, timeout, self._clock, lambda: self._closed)
        )


class TcpReader(LineReader):
    """Implements `Reader`."""

    def __init__(self, endpoint: Endpoint, settings: LineSettings, clock: Clock) -> None:
        super().__init__(endpoint.address, endpoint.publication, endpoint.secret, endpoint.sizes, settings, clock)
        self._where = endpoint.host, endpoint.port

    def _dial(self, timeout: float) -> socket.socket:
        return dial(*self._where, self.address, timeout)


def _close_all(lines: list[Line]) -> None:
    while lines:
        lines.pop().sock.close()


class LineImporter(ABC):
    """Implements `Importer`, with readers that can read into any memory."""

    def __init__(self, settings: LineSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = False
        self._readers: weakref.WeakSet[LineReader] = weakref.WeakSet()

    def takes(self, memory: memoryview) -> bool:
        return True

    def allocate(self, nbytes: int) -> memoryview:
        return allocate(nbytes)

    @abstractmethod
    def open(self, descriptor: Descriptor) -> LineReader:
        """`Importer.open`."""

    def close(self) -> None:
        with self._lock:
            self._closed = True
            readers = list(self._readers)
        for reader in readers:
            reader.close()

    def _opened(self, reader: R) -> R:
        with self._lock:
            if self._closed:
                raise InvalidArgument("importer", "is closed")
            self._readers.add(reader)
        return reader


class TcpImporter(LineImporter):
    """Implements `Importer`."""

    def open(self, descriptor: Descriptor) -> TcpReader:
        return self._opened(TcpReader(Endpoint.decode(descriptor), self._settings, self._clock))
