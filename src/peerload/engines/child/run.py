"""The life of a child: it does what it is told on its socket, and ends when that does.

Its standard output is its standard error from the beginning, and it leaves by `os._exit`, since libraries crash on their way out. Orders are
answered in their turn, "serve" and "rest" not at all; after an answer with an "error" the child is gone.
"""

from __future__ import annotations

import mmap
import os
import resource
import select
import socket
import sys
import traceback
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from peerload.engines.child import message
from peerload.engines.child.driver import ChildError, Driver, SourceSide, Span, TargetSide
from peerload.engines.child.message import Message
from peerload.engines.shared import address_of

__all__ = ["Mapped", "SourceLoop", "TargetLoop", "complain", "run"]

_AT_A_TIME: Final = 8
_PAUSE_MS: Final = 0.5
_HOT: Final = 200
"""Calls of `progress` that did nothing before there are pauses."""


def run(driver: Driver, role: str, settings: Mapping[str, Any], sock: socket.socket) -> None:
    """Be a source or a target until the owner hangs up. Never returns."""
    status = 1
    try:
        _raise_limits()
        if role == "source":
            SourceLoop(driver.source(settings), sock).run()
        else:
            TargetLoop(driver.target(settings), sock).run()
        status = 0
    except ChildError as error:
        complain(sock, error)
    except ConnectionError:
        pass  # The owner is gone.
    except BaseException as error:
        traceback.print_exc()
        complain(sock, ChildError(f"{type(error).__name__}: {error}"))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def complain(sock: socket.socket, error: ChildError) -> None:
    """Tell the owner, whatever he is waiting for."""
    words = " ".join(str(error).split())[:1000] or type(error).__name__
    try:
        message.send(sock, {"error": words, "retryable": error.retryable})
    except OSError:
        pass


def _raise_limits() -> None:
    # Libraries leak descriptors; and a crash must not write the weights to a file.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Mapped:
    """A memfd of the owner's, mapped here."""

    def __init__(self, fd: int, nbytes: int, *, writable: bool) -> None:
        try:
            prot = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
            self._mapping = mmap.mmap(fd, nbytes, prot=prot)
        finally:
            os.close(fd)
        with memoryview(self._mapping) as view:
            self.span = Span(address_of(view), nbytes)

    def close(self) -> None:
        """Unmap."""
        self._mapping.close()


class SourceLoop:
    """Maps what it is given, serves it, and lets its library progress while there are readers."""

    def __init__(self, side: SourceSide, sock: socket.socket) -> None:
        self.side = side
        self.sock = sock
        self._mapped: list[Mapped] = []
        self._serving = False

    def run(self) -> None:
        """Until the owner hangs up."""
        waiting = select.poll()
        waiting.register(self.sock, select.POLLIN)
        idle = 0
        while True:
            timeout: float | None = None
            if self._serving:
                done = self.side.progress()
                idle = 0 if done else idle + 1
                timeout = None if done is None else 0 if idle < _HOT else _PAUSE_MS
            if waiting.poll(timeout):
                order = message.receive(self.sock)
                if order is None:
                    return
                idle = 0
                self._obey(order)

    def _obey(self, order: Message) -> None:
        match order.words["do"]:
            case "serve":
                self._serving = True
            case "rest":
                self._serving = False
            case "map":
                self._mapped += self._map(order.fds, order.words["sizes"])
                message.send(self.sock, {})
            case "offer":
                spans, bases = self.spans(order)
                message.send(self.sock, {"bases": bases}, self.side.offer(spans))
            case _:
                message.send(self.sock, {})  # Asked for a sign of life.

    def _map(self, fds: Sequence[int], sizes: Sequence[int]) -> list[Mapped]:
        try:
            return [Mapped(fd, size, writable=self.side.writes) for fd, size in zip(fds, sizes, strict=True)]
        except PermissionError:
            # Sealed, so nobody writes there; if the library wants it nevertheless, that is its own affair.
            raise ChildError("memory that was sealed cannot be registered for this network") from None

    def spans(self, order: Message) -> tuple[list[Span], list[int]]:
        """What of the mapped memory is published, and where each mapping begins."""
        bases = [each.span.address for each in self._mapped]
        parts = zip(bases, order.words["spans"], strict=True)
        return [Span(base + begin, end - begin) for base, (begin, end) in parts], bases


class TargetLoop:
    """Holds the destinations of one read at a time, and fills them.

    Windows that the owner has asked for are all begun before the first is waited for, `at_a_time` at most: the connection is never
    empty in between. More than one only where the end of the process is the end of all.
    """

    def __init__(self, side: TargetSide, sock: socket.socket, *, at_a_time: int = _AT_A_TIME) -> None:
        self.side = side
        self.sock = sock
        self._at_a_time = at_a_time
        self._begun: deque[Callable[[], None] | None] = deque()
        self._mapped: dict[str, Mapped] = {}
        self._spans: dict[str, Span] = {}

    def run(self) -> None:
        """Until the owner hangs up."""
        waiting = select.poll()
        waiting.register(self.sock, select.POLLIN)
        while True:
            while self._begun and (len(self._begun) >= self._at_a_time or not waiting.poll(0)):
                self._end()
            order = message.receive(self.sock)
            if order is None:
                return
            match order.words["do"]:
                case "connect":
                    self.side.connect(order.payload)
                    message.send(self.sock, {})
                case "hold":
                    self._hold(order)
                    message.send(self.sock, {})
                case _:
                    self._begun.append(self._begin(order))
                    # Some libraries have copied everything before they return.
                    while self._begun and self._begun[0] is None:
                        self._end()

    def _end(self) -> None:
        """See the oldest window through, and say so."""
        end = self._begun.popleft()
        if end is not None:
            end()
        message.send(self.sock, {})

    def _hold(self, order: Message) -> None:
        """Take the new ones; with "keep", the others than those named are let go of. They are numbered in the order of being told."""
        if (keep := order.words.get("keep")) is not None:
            for name in self._spans.keys() - set(keep):
                self.side.drop(self._spans.pop(name))
                if name in self._mapped:
                    self._mapped.pop(name).close()
            self._spans = {name: self._spans[name] for name in keep}
        for number, (name, address, nbytes, device) in enumerate(order.words["new"]):
            if order.fds:
                mapped = self._mapped[name] = Mapped(order.fds[number], nbytes, writable=True)
                span = mapped.span
            else:
                span = Span(address, nbytes, device)  # Of this very process.
            self._spans[name] = span
            self.side.hold(span)

    def _begin(self, order: Message) -> Callable[[], None] | None:
        spans = list(self._spans.values())
        # Of each row: the source's address and device, the number of the arena, the place in it, the length.
        rows, flat = array("Q", order.payload), array("Q")
        for at in range(0, len(rows), 5):
            span = spans[rows[at + 2]]
            device = 0 if span.device is None else span.device + 1
            flat.extend((rows[at], rows[at + 1], span.address + rows[at + 3], device, rows[at + 4]))
        with memoryview(flat) as view:
            return self.side.begin(view)
