"""One connection of a read: asks for windows of ranges, one window ahead, and receives them into their final place."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import xxhash

from peerload.clock import Clock
from peerload.engines.job import LaneJob
from peerload.engines.tcp import protocol, sockets
from peerload.engines.tcp.protocol import Kind, Refusal
from peerload.engines.tcp.sockets import ConnectionLost
from peerload.engines.tcp.work import Window, Work
from peerload.errors import Fault, TransferFailed

__all__ = ["Connector", "Lane", "Line", "SourceBusy", "read_reply"]

PIECE: Final = 4 * 1024 * 1024
"""Bytes received with one call and then digested. Smaller ones are in a nearer cache still, but cost more in calls and
wake-ups than that saves: the row `engines` of the bench measures 1 MiB at three quarters of raw sockets, 4 MiB at nine tenths."""
BATCH: Final = 1024
"""Ranges received with one call at most, as many as the kernel takes."""


class SourceBusy(TransferFailed):
    """The source takes no more connections for now."""


class Stopped(Exception):
    """The job is over."""


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

    def __init__(self, job: LaneJob, work: Work, connector: Connector, clock: Clock, patience: float) -> None:
        self._job = job
        self._work = work
        self._connector = connector
        self._clock = clock
        self._patience = patience
        self._moved = 0.0
        self._hasher: Any = None
        """Of the range that has come in part."""
        self._ahead: deque[Window] = deque()
        self._last: Window | None = None
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
                following = self._work.take(self._last)
                if following is None:
                    break
                self._last = following
                self._ahead.append(following)
                self._ask(sock, following)
            if not self._ahead:
                break
            window = self._ahead[0]
            length = read_reply(sock, Kind.DATA, self._connector.address, self._waiting)
            self._answered = True
            if length != window.size:
                raise TransferFailed(
                    f"{self._connector.address} answered {window.size} bytes with {length}", retryable=False
                )
            self._receive(sock, window, destinations)
            self._ahead.popleft()
        if self._answered:
            end = protocol.REQUEST.pack(protocol.REQUEST_MAGIC, Kind.END, 0)
            sockets.send_all(sock, end, self._patient)

    def _ask(self, sock: socket.socket, window: Window) -> None:
        sockets.send_all(sock, protocol.read_request(self._work.wanted(window)), self._waiting)

    def _receive(self, sock: socket.socket, window: Window, destinations: Sequence[memoryview]) -> None:
        first, until, start, size = window
        if until == first + 1:
            self._receive_part(sock, first, start, size, destinations)
            return
        while first < until:
            last = self._work.fitting(first, min(until, first + BATCH), PIECE)
            if last == first:
                self._receive_part(sock, first, 0, self._work.size(first, first + 1), destinations)
                first += 1
                continue
            views = destinations[first:last]
            size = self._work.size(first, last)
            count = sockets.receive(sock, views, self._waiting) if size else 0
            self._moved = self._clock.monotonic()
            if count < size:
                last = self._work.fitting(first, last, count)
            whole = zip(range(first, last), views, strict=False)
            self._job.arrived(count, [(index, xxhash.xxh3_128_digest(view)) for index, view in whole if view])
            if begun := count - self._work.size(first, last):
                # The part that came of the next is digested as a piece of its own.
                view = views[last - first]
                self._digest(view[:begun], False)
                self._receive_part(sock, last, begun, len(view) - begun, destinations)
                last += 1
            first = last

    def _receive_part(
        self, sock: socket.socket, index: int, start: int, size: int, destinations: Sequence[memoryview]
    ) -> None:
        """So many bytes of a range, from that one on."""
        view = destinations[index]
        end = start + size
        while start < end:
            piece = view[start : min(start + PIECE, end)]
            count = sockets.receive(sock, (piece,), self._waiting)
            self._moved = self._clock.monotonic()
            start += count
            found = self._digest(piece[:count], start == len(view))
            self._job.arrived(count, [] if found is None else [(index, found)])

    def _digest(self, piece: memoryview, ends: bool) -> bytes | None:
        """The digest of a range, of which this piece comes next, if it ends there."""
        if ends and self._hasher is None:
            return xxhash.xxh3_128_digest(piece)
        hasher = self._hasher or xxhash.xxh3_128()
        hasher.update(piece)
        self._hasher = None if ends else hasher
        return bytes(hasher.digest()) if ends else None

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
