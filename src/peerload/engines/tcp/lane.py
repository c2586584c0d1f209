"""One connection of a read: asks for windows of ranges, one window ahead, and receives them into their final place."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import xxhash

from peerload.clock import Clock
from peerload.engines.base import Range
from peerload.engines.job import LaneJob
from peerload.engines.tcp import protocol, sockets
from peerload.engines.tcp.protocol import Kind, Refusal
from peerload.engines.tcp.sockets import ConnectionLost
from peerload.errors import Fault, TransferFailed

__all__ = ["Connector", "Lane", "Line", "SourceBusy", "Work", "read_reply"]

WINDOW: Final = 32 * 1024 * 1024
PIECE: Final = 4 * 1024 * 1024
"""Bytes received with one call and then digested. Smaller ones are in a nearer cache still, but cost more in calls and
wake-ups than that saves: the row `engines` of the bench measures 1 MiB at three quarters of raw sockets, 4 MiB at nine tenths."""
BATCH: Final = 256
"""Ranges received with one call at most."""

Segment: TypeAlias = tuple[int, int, int]
"""Of range number .., from .., so many bytes."""


class SourceBusy(TransferFailed):
    """The source takes no more connections for now."""


class Stopped(Exception):
    """The job is over."""


class Work:
    """The ranges of a read, handed out to its lanes in windows. A range belongs to one lane, so that its digest can be
    computed in the order of its bytes."""

    def __init__(self, ranges: Sequence[Range], lanes: int) -> None:
        self._ranges = ranges
        total = sum(each.length for each in ranges)
        # Several windows a lane, so that lanes end at about the same time.
        self._window = min(WINDOW, max(total // (4 * lanes), 4 * PIECE))
        self._lock = threading.Lock()
        self._next = 0

    def take(self, carry: Segment | None) -> tuple[list[Segment], Segment | None]:
        """A window for a lane, empty when nothing is left; `carry` is what this lane's last one left of a range."""
        window: list[Segment] = []
        room = self._window
        ranges = self._ranges
        with self._lock:
            while room and len(window) < protocol.MAX_RANGES:
                if carry is not None:
                    index, start, length = carry
                    carry = None
                elif self._next < len(ranges):
                    index, start, length = self._next, 0, ranges[self._next].length
                    self._next += 1
                    if not length:
                        continue  # Complete from the beginning.
                else:
                    break
                now = min(room, length)
                window.append((index, start, now))
                room -= now
                if now < length:
                    carry = (index, start + now, length - now)
        return window, carry


@dataclass(slots=True)
class Line:
    """A greeted connection to a source."""

    sock: socket.socket
    kept: bool = False
    """Whether it has waited since its last read: its source may have hung up without this side knowing yet."""
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

    def take_line(self, seconds_left: float, *, fresh: bool = False) -> Line:
        """A connection, kept or (always, if it is to be `fresh`) new. Raises `TransferFailed`."""
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
        self._ahead: deque[list[Segment]] = deque()
        self._carry: Segment | None = None
        self._answered = False

    def run(self) -> None:
        """Work until nothing is left or the job is over. Raises nothing: what fails, fails the job."""
        reason = ""
        try:
            line = self._connector.take_line(self._job.seconds_left)
            if not self._use(line):
                self._use(self._connector.take_line(self._job.seconds_left, fresh=True))
        except SourceBusy as error:
            # Other lanes of this job may have got through; the last one to go says why the job failed.
            reason = str(error)
        except TransferFailed as error:
            self._job.fail(str(error), retryable=error.retryable, fault=error.fault)
        finally:
            self._job.lane_ended(reason, busy=bool(reason))

    def _use(self, line: Line) -> bool:
        """Do the work on this connection. False if it had been kept and turned out to be dead: nothing is lost then, and
        a new connection takes over what was asked for."""
        destinations = self._job.enter(line.stop)
        if destinations is None:
            self._connector.keep_line(line)
            return True
        whole = stale = False
        try:
            self._transfer(line.sock, destinations)
            whole = True
        except Stopped:
            pass
        except ConnectionLost as error:
            stale = line.kept and not self._answered
            if not stale:
                self._job.fail(f"lost the connection to {self._connector.address}: {error}", fault=Fault.LOST)
        except TransferFailed as error:
            self._job.fail(str(error), retryable=error.retryable, fault=error.fault)
        finally:
            # The views that were made in there went with its frames, and the exceptions that held these are gone too.
            del destinations
            self._job.leave(line.stop)
            # Not earlier: until then the job may shut the connection down, and the number of a closed descriptor may be
            # another's by then.
            if whole:
                self._connector.keep_line(line)
            else:
                line.sock.close()
        return not stale

    def _transfer(self, sock: socket.socket, destinations: Sequence[memoryview]) -> None:
        self._moved = self._clock.monotonic()
        for window in self._ahead:
            self._ask(sock, window)
        while True:
            while len(self._ahead) < protocol.MAX_AHEAD:
                window, self._carry = self._work.take(self._carry)
                if not window:
                    break
                self._ahead.append(window)
                self._ask(sock, window)
            if not self._ahead:
                break
            window = self._ahead[0]
            expected = sum(length for _, _, length in window)
            length = read_reply(sock, Kind.DATA, self._connector.address, self._waiting)
            self._answered = True
            if length != expected:
                raise TransferFailed(
                    f"{self._connector.address} answered {expected} bytes with {length}", retryable=False
                )
            self._receive(sock, window, destinations)
            self._ahead.popleft()
        if self._answered:
            end = protocol.REQUEST.pack(protocol.REQUEST_MAGIC, Kind.END, 0)
            sockets.send_all(sock, end, self._patient)

    def _ask(self, sock: socket.socket, window: Sequence[Segment]) -> None:
        asked = [protocol.range_of(self._ranges[index], start, length) for index, start, length in window]
        sockets.send_all(sock, protocol.read_request(asked), self._waiting)

    def _receive(self, sock: socket.socket, window: Sequence[Segment], destinations: Sequence[memoryview]) -> None:
        views: list[memoryview] = []
        marks: list[tuple[int, bool]] = []  # Of each view: its range, and whether the range ends there.
        for index, start, length in window:
            view = destinations[index]
            end = start + length
            if length <= PIECE:
                views.append(view if length == len(view) else view[start:end])
                marks.append((index, end == len(view)))
                continue
            for at in range(start, end, PIECE):
                until = min(at + PIECE, end)
                views.append(view[at:until])
                marks.append((index, until == len(view)))
        first = 0
        while first < len(views):
            last, size = first + 1, len(views[first])
            while last < len(views) and last - first < BATCH and (more := size + len(views[last])) <= PIECE:
                last, size = last + 1, more
            batch = views[first:last]
            count = sockets.receive(sock, batch, self._waiting)
            self._moved = self._clock.monotonic()
            if count < size:
                last = first
                rest = count
                while rest >= len(views[last]):
                    rest -= len(views[last])
                    last += 1
                if rest:
                    # The part that came is digested as a piece of its own; the rest takes its place in the line.
                    self._hasher(marks[last][0]).update(views[last][:rest])
                    views[last] = views[last][rest:]
            whole: list[tuple[int, bytes | None]] = []
            for (index, ends), view in zip(marks[first:last], batch, strict=False):
                if not ends:
                    self._hasher(index).update(view)
                elif index in self._hashers:
                    whole.append((index, self._last(index, view)))
                else:
                    whole.append((index, xxhash.xxh3_128_digest(view)))
            self._job.arrived(count, whole)
            first = last

    def _last(self, index: int, view: memoryview) -> bytes:
        """The digest of a range that came in parts, of which this is the last."""
        hasher = self._hashers.pop(index)
        hasher.update(view)
        return bytes(hasher.digest())

    def _hasher(self, index: int) -> Any:
        """The digest under way of a range of which more is to come."""
        hasher = self._hashers.get(index)
        if hasher is None:
            hasher = self._hashers[index] = xxhash.xxh3_128()
        return hasher

    def _waiting(self) -> None:
        if self._job.over:
            raise Stopped
        self._patient()

    def _patient(self) -> None:
        if self._job.seconds_left <= 0:
            self._job.poll()  # Finds the deadline passed and fails the job.
        if self._clock.monotonic() - self._moved > self._patience:
            text = f"{self._connector.address} sent nothing for {self._patience:g} s"
            raise TransferFailed(text, fault=Fault.STALLED)


def read_reply(sock: socket.socket, expected: int, address: str, waiting: Callable[[], None]) -> int:
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
    fault = Fault.OURS if refusal == Refusal.FORBIDDEN else Fault.OTHER
    raise failure(f"{address} refused: {words}", retryable=bool(retryable), fault=fault)
