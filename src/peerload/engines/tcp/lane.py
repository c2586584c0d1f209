"""One connection of a read: asks for windows of ranges, one window ahead, and receives them into their final place."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import xxhash

from peerload.clock import Clock
from peerload.engines.base import Range
from peerload.engines.job import LaneJob
from peerload.engines.tcp import protocol, sockets
from peerload.engines.tcp.protocol import Kind, Refusal
from peerload.engines.tcp.sockets import ConnectionLost
from peerload.errors import TransferFailed

__all__ = ["Connector", "Lane", "Line", "SourceBusy", "Work", "read_reply"]

WINDOW: Final = 32 * 1024 * 1024
PIECE: Final = 1024 * 1024
"""Bytes received with one call and then digested: small enough to be in the cache still."""
BATCH: Final = 256
"""Ranges received with one call at most."""

Segment: TypeAlias = tuple[int, int, int]
"""Of range number .., from .., so many bytes."""


class SourceBusy(TransferFailed):
    """The source takes no more connections for now."""


class _Stopped(Exception):
    """The job is over."""


class Work:
    """The ranges of a read, handed out to its lanes in windows. A range belongs to one lane, so that its digest can be
    computed in the order of its bytes."""

    def __init__(self, ranges: Sequence[Range], lanes: int) -> None:
        self.ranges = [each for each in enumerate(ranges) if each[1].length]
        total = sum(each.length for _, each in self.ranges)
        # Several windows a lane, so that lanes end at about the same time.
        self._window = min(WINDOW, max(total // (4 * lanes), 4 * PIECE))
        self._lock = threading.Lock()
        self._next = 0

    def take(self, carry: Segment | None) -> tuple[list[Segment], Segment | None]:
        """A window for a lane, empty when nothing is left; `carry` is what this lane's last one left of a range."""
        window: list[Segment] = []
        room = self._window
        with self._lock:
            while room and len(window) < protocol.MAX_RANGES:
                if carry is None:
                    if self._next == len(self.ranges):
                        break
                    index, wanted = self.ranges[self._next]
                    self._next += 1
                    carry = (index, 0, wanted.length)
                index, start, length = carry
                now = min(room, length)
                window.append((index, start, now))
                room -= now
                carry = (index, start + now, length - now) if now < length else None
        return window, carry


@dataclass(slots=True)
class Line:
    """A greeted connection to a source."""

    sock: socket.socket
    idle_since: float = 0.0

    def stop(self) -> None:
        """Wake whoever is blocked on it."""
        sockets.shut(self.sock)


class Connector(Protocol):
    """Where a lane gets its connection and returns it to. The reader."""

    @property
    def address(self) -> str:
        """The source's, for people."""
        ...

    def take_line(self, seconds_left: float) -> Line:
        """A connection, kept or new. Raises `TransferFailed`."""
        ...

    def keep_line(self, line: Line) -> None:
        """Keep a connection on which nothing is under way for the next read, or close it."""
        ...


class Lane:
    """A thread's work on a job, from getting a connection to returning it."""

    def __init__(
        self, job: LaneJob, ranges: Sequence[Range], work: Work, connector: Connector, clock: Clock, patience: float
    ) -> None:
        self._job = job
        self._ranges = ranges
        self._work = work
        self._connector = connector
        self._clock = clock
        self._patience = patience
        self._moved = 0.0
        self._hashers: dict[int, Any] = {}

    def run(self) -> None:
        """Work until nothing is left or the job is over. Raises nothing: what fails, fails the job."""
        reason = ""
        try:
            line = self._connector.take_line(self._job.seconds_left)
            self._use(line)
        except SourceBusy as error:
            # Other lanes of this job may have got through; the last one to go says why the job failed.
            reason = str(error)
        except TransferFailed as error:
            self._job.fail(str(error), retryable=error.retryable)
        finally:
            self._job.lane_ended(reason)

    def _use(self, line: Line) -> None:
        destinations = self._job.enter(line.stop)
        if destinations is None:
            self._connector.keep_line(line)
            return
        whole = False
        try:
            self._transfer(line.sock, destinations)
            whole = True
        except _Stopped:
            pass
        except ConnectionLost as error:
            self._job.fail(f"lost the connection to {self._connector.address}: {error}")
        except TransferFailed as error:
            self._job.fail(str(error), retryable=error.retryable)
        finally:
            if not whole:
                line.sock.close()
            # The views that were made in there went with its frames, and the exceptions that held these are gone too.
            del destinations
            self._job.leave(line.stop)
        if whole:
            self._connector.keep_line(line)

    def _transfer(self, sock: socket.socket, destinations: Sequence[memoryview]) -> None:
        self._moved = self._clock.monotonic()
        ahead: deque[list[Segment]] = deque()
        carry: Segment | None = None
        asked = False
        while True:
            while len(ahead) < protocol.MAX_AHEAD:
                window, carry = self._work.take(carry)
                if not window:
                    break
                request = [protocol.range_of(self._ranges[index], start, length) for index, start, length in window]
                sockets.send_all(sock, protocol.read_request(request), self._waiting)
                ahead.append(window)
                asked = True
            if not ahead:
                break
            window = ahead.popleft()
            expected = sum(length for _, _, length in window)
            length = read_reply(sock, Kind.DATA, self._connector.address, self._waiting)
            if length != expected:
                raise TransferFailed(
                    f"{self._connector.address} answered {expected} bytes with {length}", retryable=False
                )
            self._receive(sock, window, destinations)
        if asked:
            end = protocol.REQUEST.pack(protocol.REQUEST_MAGIC, Kind.END, 0)
            sockets.send_all(sock, end, self._patient)

    def _receive(self, sock: socket.socket, window: Sequence[Segment], destinations: Sequence[memoryview]) -> None:
        pieces: deque[tuple[int, memoryview]] = deque()
        for index, start, length in window:
            view = destinations[index]
            for at in range(start, start + length, PIECE):
                pieces.append((index, view[at : min(at + PIECE, start + length)]))
        ends = {index for index, start, length in window if start + length == self._ranges[index].length}
        while pieces:
            batch: list[memoryview] = []
            size = 0
            for _, view in pieces:
                size += len(view)
                if batch and (size > PIECE or len(batch) == BATCH):
                    break
                batch.append(view)
            count = sockets.receive(sock, batch, self._waiting)
            self._moved = self._clock.monotonic()
            whole: list[tuple[int, bytes | None]] = []
            rest = count
            while rest:
                index, view = pieces.popleft()
                if rest < len(view):
                    pieces.appendleft((index, view[rest:]))
                    view = view[:rest]
                rest -= len(view)
                last = index in ends and not (pieces and pieces[0][0] == index)
                self._digest(index, view, last=last, whole=whole)
            self._job.arrived(count, whole)

    def _digest(self, index: int, view: memoryview, *, last: bool, whole: list[tuple[int, bytes | None]]) -> None:
        hasher = self._hashers.get(index)
        if hasher is None:
            if last:
                whole.append((index, xxhash.xxh3_128_digest(view)))
                return
            hasher = self._hashers[index] = xxhash.xxh3_128()
        hasher.update(view)
        if last:
            whole.append((index, hasher.digest()))
            del self._hashers[index]

    def _waiting(self) -> None:
        if self._job.over:
            raise _Stopped
        self._patient()

    def _patient(self) -> None:
        if self._job.seconds_left <= 0:
            self._job.poll()  # Finds the deadline passed and fails the job.
        if self._clock.monotonic() - self._moved > self._patience:
            raise TransferFailed(f"{self._connector.address} sent nothing for {self._patience:g} s")


def read_reply(sock: socket.socket, expected: Kind, address: str, waiting: Any) -> int:
    """The length of what follows a reply of the `expected` kind. Raises `TransferFailed` for a refusal and for anything
    that no source says."""
    head = sockets.receive_exactly(sock, protocol.REPLY.size, waiting)
    magic, kind, refusal, retryable, length = protocol.REPLY.unpack(head)
    if magic == protocol.REPLY_MAGIC and kind == expected:
        return int(length)
    if magic != protocol.REPLY_MAGIC or kind != Kind.REFUSED or length > protocol.MAX_TEXT:
        raise TransferFailed(f"{address} does not speak this engine's protocol", retryable=False)
    text = sockets.receive_exactly(sock, length, waiting).decode("utf-8", "replace") if length else "refused"
    # The text is a peer's: it is shown to people, so it is kept to one printable line.
    words = "".join(c if c.isprintable() else "?" for c in text)
    failure = SourceBusy if refusal == Refusal.BUSY else TransferFailed
    raise failure(f"{address} refused: {words}", retryable=bool(retryable))
