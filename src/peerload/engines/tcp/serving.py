"""Serving one connection that has been greeted: its requests, one after the other, straight from published memory."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from peerload.clock import Clock
from peerload.engines.tcp import protocol, sockets
from peerload.engines.tcp.protocol import Kind, Refusal
from peerload.engines.tcp.settings import LineSettings
from peerload.engines.tcp.shelf import Reading, Shelved
from peerload.engines.tcp.sockets import ConnectionLost
from peerload.engines.throttle import Throttle

__all__ = ["Asked", "GiveUp", "Serving"]

BATCH: Final = 1024
"""Ranges handed to the kernel with one call at most, as many as it takes."""
LINGER: Final = 0.25
"""Seconds that a thread stays with a connection on which nothing is under way."""

Asked = tuple[int, int, int]


class GiveUp(Exception):
    """Nothing more is said on this connection."""


class Serving:
    """One connection and the publication that it is for."""

    def __init__(
        self, sock: socket.socket, shelved: Shelved, settings: LineSettings, throttle: Throttle | None, clock: Clock
    ) -> None:
        self.sock = sock
        self._shelved = shelved
        self._settings = settings
        self._throttle = throttle
        self._clock = clock
        self._reading = Reading(self.stop)
        self._moved = 0.0
        self._patience = 0.0
        self._greeted = False

    def stop(self) -> None:
        """Make `run` return soon, with the connection over. From any thread."""
        sockets.shut(self.sock)

    def run(self) -> bool:
        """Serve until nothing is under way any more. Whether the connection is still good, and worth watching for the
        next request."""
        kept = False
        try:
            if not self._greeted:
                self._wait_for(self._settings.progress_timeout)
                sockets.send_all(self.sock, protocol.accepted(), self._waiting)
                self._greeted = True
            while self._next_request():
                pass
            kept = True
        except (ConnectionLost, GiveUp):
            pass  # Whoever was at the other end finds out by himself; there is nobody to tell here.
        finally:
            if not kept:
                self._shelved.end(self._reading, read_over=True)
        return kept

    def _next_request(self) -> bool:
        """Serve one request; False once none has come for a while and no read is under way."""
        if not self._request_waits():
            return False
        self._wait_for(self._settings.handshake_timeout)
        head = sockets.receive_exactly(self.sock, protocol.REQUEST.size, self._waiting)
        magic, kind, count = protocol.REQUEST.unpack(head)
        if magic != protocol.REQUEST_MAGIC:
            raise GiveUp
        if kind == Kind.END and not count:
            self._shelved.end(self._reading, read_over=True)
            return True
        if self._special(kind, count):
            return True
        if kind != Kind.READ or not 1 <= count <= protocol.MAX_RANGES:
            self._refuse(Refusal.MALFORMED, f"a request of kind {kind} with {count} ranges is none of this protocol")
            raise GiveUp
        body = sockets.receive_exactly(self.sock, count * protocol.RANGE.size, self._waiting)
        self._read(list(protocol.RANGE.iter_unpack(body)))
        return True

    def _special(self, kind: int, count: int) -> bool:
        """Serve a request of a kind that this engine has beside reads, if it is one."""
        return False

    def _request_waits(self) -> bool:
        """Wait for the first byte of a request. While a read is under way that is the reader's turn, and his progress."""
        busy = self._reading.begun
        self._wait_for(self._settings.progress_timeout if busy else LINGER)
        while True:
            try:
                if not self.sock.recv(1, socket.MSG_PEEK):
                    raise GiveUp
            except BlockingIOError:
                if self._clock.monotonic() - self._moved <= self._patience:
                    continue
                if busy:
                    raise GiveUp from None
                return False
            except OSError:
                raise GiveUp from None
            return True

    def _read(self, asked: Sequence[Asked]) -> None:
        sizes = self._shelved.sizes
        total = 0
        for region, offset, length in asked:
            if region >= len(sizes) or offset + length > sizes[region]:
                self._refuse(Refusal.OUT_OF_RANGE, f"{length} bytes from {offset} of region {region} are not published")
                return
            total += length
        if total > protocol.MAX_WINDOW:
            self._refuse(Refusal.MALFORMED, f"asked for {total} bytes at once, the limit is {protocol.MAX_WINDOW}")
            return
        views = self._shelved.begin(self._reading)
        if isinstance(views, Refusal):
            self._refuse(views, "these weights are no longer offered")
            return
        try:
            self._wait_for(self._settings.progress_timeout)
            head = protocol.REPLY.pack(protocol.REPLY_MAGIC, Kind.DATA, 0, 0, total)
            self._send(head, views, asked)
        finally:
            del views
            self._shelved.end(self._reading, read_over=False)

    def _send(self, head: bytes, views: Sequence[memoryview], asked: Sequence[Asked]) -> None:
        throttle = self._throttle
        rest = [memoryview(head)]
        batch: list[memoryview] = []
        try:
            rest += [views[region][offset : offset + length] for region, offset, length in asked if length]
            while rest:
                batch = rest[:BATCH]
                del rest[:BATCH]
                size = sum(map(len, batch))
                if throttle:
                    if size > throttle.quantum:
                        rest[:0] = _cut(batch, throttle.quantum)
                        size = throttle.quantum
                    if not throttle.wait(size, self._reading.stopped):
                        raise GiveUp
                while size:
                    sent = sockets.send(self.sock, batch, self._waiting)
                    self._moved = self._clock.monotonic()
                    size -= sent
                    if size:
                        batch = _cut(batch, sent)
        finally:
            # The only references to views of this memory. Whoever retires it may unmap it as soon as this request has
            # ended, and an exception on its way out holds this frame longer than that.
            rest.clear()
            batch.clear()

    def _refuse(self, refusal: Refusal, text: str) -> None:
        self._wait_for(self._settings.progress_timeout)
        sockets.send_all(self.sock, protocol.refused(refusal, text), self._waiting)

    def _wait_for(self, patience: float) -> None:
        self._moved = self._clock.monotonic()
        self._patience = patience

    def _waiting(self) -> None:
        if self._reading.stopped.is_set() or self._clock.monotonic() - self._moved > self._patience:
            raise GiveUp


def _cut(views: list[memoryview], nbytes: int) -> list[memoryview]:
    """Leave so many bytes of the views, fewer than they have, and return the others."""
    done = 0
    while nbytes >= len(views[done]):
        nbytes -= len(views[done])
        done += 1
    rest = [views[done][nbytes:], *views[done + 1 :]]
    views[done:] = [views[done][:nbytes]] if nbytes else []
    return rest
