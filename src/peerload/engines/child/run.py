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
from collections.abc import Mapping
from typing import Any, Final

from peerload.engines.child import message
from peerload.engines.child.driver import ChildError, Driver, SourceSide, TargetSide
from peerload.engines.child.message import Message
from peerload.engines.shared import address_of

__all__ = ["run"]

_PAUSE_MS: Final = 0.5
_HOT: Final = 200
"""Calls of `progress` that did nothing before there are pauses."""


def run(driver: Driver, role: str, settings: Mapping[str, Any], sock: socket.socket) -> None:
    """Be a source or a target until the owner hangs up. Never returns."""
    status = 1
    try:
        _raise_limits()
        if role == "source":
            _Source(driver.source(settings), sock).run()
        else:
            _Target(driver.target(settings), sock).run()
        status = 0
    except ChildError as error:
        _complain(sock, error)
    except ConnectionError:
        pass  # The owner is gone.
    except BaseException as error:
        traceback.print_exc()
        _complain(sock, ChildError(f"{type(error).__name__}: {error}"))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _complain(sock: socket.socket, error: ChildError) -> None:
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


class _Mapped:
    """A memfd of the owner's, mapped here."""

    def __init__(self, fd: int, nbytes: int) -> None:
        try:
            self._mapping = mmap.mmap(fd, nbytes)
        except PermissionError:
            # Sealed against writing: it is served from here and written to by nobody.
            self._mapping = mmap.mmap(fd, nbytes, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        self.nbytes = nbytes
        with memoryview(self._mapping) as view:
            self.address = address_of(view)

    def close(self) -> None:
        self._mapping.close()


class _Source:
    """Maps what it is given, serves it, and lets its library progress while there are readers."""

    def __init__(self, side: SourceSide, sock: socket.socket) -> None:
        self._side = side
        self._sock = sock
        self._mapped: list[_Mapped] = []
        self._serving = False

    def run(self) -> None:
        waiting = select.poll()
        waiting.register(self._sock, select.POLLIN)
        idle = 0
        while True:
            if self._serving:
                idle = 0 if self._side.progress() else idle + 1
                timeout: float | None = 0 if idle < _HOT else _PAUSE_MS
            else:
                timeout = None
            if waiting.poll(timeout):
                order = message.receive(self._sock)
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
                self._mapped += [_Mapped(*each) for each in zip(order.fds, order.words["sizes"], strict=True)]
                message.send(self._sock, {})
            case "offer":
                spans = zip(self._mapped, order.words["spans"], strict=True)
                reach = self._side.offer([(each.address + begin, end - begin) for each, (begin, end) in spans])
                message.send(self._sock, {"bases": [each.address for each in self._mapped]}, reach)
            case _:
                message.send(self._sock, {})  # Asked for a sign of life.


class _Target:
    """Holds the destinations of one read at a time, and fills them."""

    def __init__(self, side: TargetSide, sock: socket.socket) -> None:
        self._side = side
        self._sock = sock
        self._held: dict[str, _Mapped] = {}

    def run(self) -> None:
        while (order := message.receive(self._sock)) is not None:
            match order.words["do"]:
                case "connect":
                    self._side.connect(order.payload)
                case "hold":
                    self._hold(order)
                case _:
                    self._read(order)
            message.send(self._sock, {})

    def _hold(self, order: Message) -> None:
        """Map the new ones; with "keep", the others than those named are let go of."""
        if (keep := order.words.get("keep")) is not None:
            for name in self._held.keys() - set(keep):
                mapped = self._held.pop(name)
                self._side.drop(mapped.address, mapped.nbytes)
                mapped.close()
        for fd, (name, nbytes) in zip(order.fds, order.words["new"], strict=True):
            mapped = self._held[name] = _Mapped(fd, nbytes)
            self._side.hold(mapped.address, mapped.nbytes)

    def _read(self, order: Message) -> None:
        rows = array("Q", order.payload)
        bases = [self._held[name].address for name in order.words["arenas"]]
        # Of each row: the source's address, the number of the arena, the place in it, the length.
        flat = array("Q")
        for at in range(0, len(rows), 4):
            flat.extend((rows[at], bases[rows[at + 1]] + rows[at + 2], rows[at + 3]))
        with memoryview(flat) as view:
            self._side.read(view)
