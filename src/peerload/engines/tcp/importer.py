"""The target side of the TCP engine."""

from __future__ import annotations

import socket
import threading
import weakref
from collections.abc import Sequence

from peerload.clock import Clock
from peerload.engines.allocate import allocate
from peerload.engines.base import Descriptor, DeviceMemory, Range
from peerload.engines.checks import check_ranges, destination_views
from peerload.engines.job import LaneJob
from peerload.engines.tcp.greet import greet
from peerload.engines.tcp.lane import Lane, Line, Work
from peerload.engines.tcp.protocol import Endpoint
from peerload.engines.tcp.settings import TcpSettings
from peerload.errors import InvalidArgument

__all__ = ["TcpImporter", "TcpReader"]


class TcpReader:
    """Implements `Reader`. Connects when it first reads, and keeps its connections for a while."""

    def __init__(self, endpoint: Endpoint, settings: TcpSettings, clock: Clock) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = False
        self._kept: list[Line] = []
        self._jobs: weakref.WeakSet[LaneJob] = weakref.WeakSet()
        # A reader that is dropped without being closed takes its connections with it.
        weakref.finalize(self, _close_all, self._kept)

    @property
    def address(self) -> str:
        """The source's, for people."""
        return self._endpoint.address

    def read(
        self, ranges: Sequence[Range], destinations: Sequence[memoryview | DeviceMemory], *, deadline: float
    ) -> LaneJob:
        ranges = tuple(ranges)
        check_ranges(ranges, self._endpoint.sizes)
        job = LaneJob(destination_views(ranges, destinations), deadline=deadline, clock=self._clock)
        if job.over:
            return job
        total = sum(each.length for each in ranges)
        wide = total >= self._settings.large_read
        count = min(self._settings.connections, sum(1 for each in ranges if each.length)) if wide else 1
        work = Work(ranges, count)
        with self._lock:
            if self._closed:
                raise InvalidArgument("reader", "is closed")
            self._jobs.add(job)
        for _ in range(count):
            job.lane_started()
        for _ in range(count):
            lane = Lane(job, ranges, work, self, self._clock, self._settings.progress_timeout)
            try:
                threading.Thread(target=lane.run, name="peerload-tcp-read", daemon=True).start()
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

    def _connect(self, seconds_left: float) -> Line:
        timeout = max(0.05, min(self._settings.connect_timeout, seconds_left))
        return Line(greet(self._endpoint, timeout, self._clock, lambda: self._closed))


def _close_all(lines: list[Line]) -> None:
    while lines:
        lines.pop().sock.close()


class TcpImporter:
    """Implements `Importer`."""

    def __init__(self, settings: TcpSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = False
        self._readers: weakref.WeakSet[TcpReader] = weakref.WeakSet()

    @property
    def any_memory(self) -> bool:
        return True

    def allocate(self, nbytes: int) -> memoryview:
        return allocate(nbytes)

    def open(self, descriptor: Descriptor) -> TcpReader:
        reader = TcpReader(Endpoint.decode(descriptor), self._settings, self._clock)
        with self._lock:
            if self._closed:
                raise InvalidArgument("importer", "is closed")
            self._readers.add(reader)
        return reader

    def close(self) -> None:
        with self._lock:
            self._closed = True
            readers = list(self._readers)
        for reader in readers:
            reader.close()
