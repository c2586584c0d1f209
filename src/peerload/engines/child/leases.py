"""How a target learns what it may read at the moment, and from where: on a connection that lasts as long as its read.

The source's owner listens, not the child that serves: descriptors lead here, and stay good when the child is replaced. The
connection begins with the greeting of `peerload.engines.tcp.protocol`, and its requests and replies look like those:

    LOOK    → LOOKED and a body: how the serving child is reached (length u32, bytes), of each region the
                 address (u64 each), then the device (u16 each: its index plus 1, 0 for host memory)
    WANT n  → GRANTED m: so many of the next n bytes may be read now (all, unless the source is capped)
    STILL   the reader is still at it; no reply
    END     it has read all it came for; no reply

From LOOK to END, or the end of the connection, the reader holds a *lease*: until then the memory is not taken away from under it,
unless the grace of a retirement has run out. Then the connection is shut down, and the serving child killed.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from peerload.clock import Clock
from peerload.engines.child.service import Service
from peerload.engines.child.settings import ChildSettings
from peerload.engines.tcp import protocol, sockets
from peerload.engines.tcp.protocol import Refusal
from peerload.engines.tcp.shelf import Reading, Shelved
from peerload.engines.tcp.sockets import ConnectionLost
from peerload.engines.throttle import Throttle
from peerload.errors import TransferFailed

__all__ = ["END", "GRANTED", "LENGTH", "LOOK", "LOOKED", "MAX_LOOKED", "STILL", "WANT", "Leasing", "request"]

END: Final = 2
LOOK: Final = 4
WANT: Final = 5
STILL: Final = 6
LOOKED: Final = 32
GRANTED: Final = 33
AMOUNT: Final = struct.Struct("<Q")
LENGTH: Final = struct.Struct("<I")
MAX_LOOKED: Final = 64 * 1024 * 1024
"""Bytes of the body that a target takes at most."""


def request(kind: int, amount: int = 0) -> bytes:
    """A reader's request."""
    head = protocol.REQUEST.pack(protocol.REQUEST_MAGIC, kind, 0)
    return head + AMOUNT.pack(amount) if kind == WANT else head


class _GiveUp(Exception):
    """Nothing more is said on this connection."""


class Leasing:
    """Implements `Served`: one reader's connection."""

    def __init__(
        self,
        sock: socket.socket,
        shelved: Shelved,
        service: Service,
        settings: ChildSettings,
        throttle: Throttle | None,
        clock: Clock,
    ) -> None:
        self.sock = sock
        self._shelved = shelved
        self._service = service
        self._settings = settings
        self._throttle = throttle
        self._clock = clock
        self._reading = Reading(self.stop)
        self._leased = False
        self._heard = 0.0

    def stop(self) -> None:
        """Make `run` return soon. From any thread."""
        sockets.shut(self.sock)

    def run(self) -> bool:
        """Answer until the reader has what it came for, or is gone. The connection is then over."""
        try:
            self._say(protocol.accepted())
            while self._next():
                pass
        except (ConnectionLost, _GiveUp):
            pass
        finally:
            self._shelved.end(self._reading, read_over=True)
            if self._leased:
                self._service.leave()
        return False

    def _next(self) -> bool:
        self._heard = self._clock.monotonic()
        magic, kind, count = protocol.REQUEST.unpack(self._hear(protocol.REQUEST.size))
        if magic != protocol.REQUEST_MAGIC or count:
            raise _GiveUp
        if kind == LOOK:
            return self._look()
        if kind == WANT:
            (amount,) = AMOUNT.unpack(self._hear(AMOUNT.size))
            return self._grant(amount)
        if kind == STILL:
            return True
        if kind != END:
            self._refuse(Refusal.MALFORMED, f"a request of kind {kind} is none of this protocol")
        return False

    def _look(self) -> bool:
        if self._leased or not self._begin():
            return False
        try:
            reach = self._service.enter()
        except TransferFailed as error:
            self._refuse(Refusal.UNAVAILABLE if error.retryable else Refusal.RETIRED, str(error))
            return False
        self._leased = True
        body = LENGTH.pack(len(reach.said)) + reach.said + reach.addresses + reach.devices
        self._say(protocol.REPLY.pack(protocol.REPLY_MAGIC, LOOKED, 0, 0, len(body)) + body)
        return True

    def _grant(self, amount: int) -> bool:
        if not self._leased or not self._begin():
            return False
        if self._throttle is not None:
            amount = min(amount, self._throttle.quantum)
            if not self._throttle.wait(amount, self._reading.stopped):
                return False
            if not self._begin():
                return False
        self._say(protocol.REPLY.pack(protocol.REPLY_MAGIC, GRANTED, 0, 0, amount))
        return True

    def _begin(self) -> bool:
        """Whether the reader may go on, or begin."""
        found = self._shelved.begin(self._reading)
        if isinstance(found, Refusal):
            self._refuse(found, "these weights are no longer offered")
            return False
        # Nothing of this process's is held in between: what the reader reads is the child's, which `stop` of it ends.
        self._shelved.end(self._reading, read_over=False)
        return True

    def _refuse(self, refusal: Refusal, text: str) -> None:
        self._say(protocol.refused(refusal, text))

    def _hear(self, length: int) -> bytes:
        return sockets.receive_exactly(self.sock, length, self._waiting)

    def _say(self, said: bytes) -> None:
        self._heard = self._clock.monotonic()
        sockets.send_all(self.sock, said, self._waiting)

    def _waiting(self) -> None:
        if self._reading.stopped.is_set() or self._clock.monotonic() - self._heard > self._settings.progress_timeout:
            raise _GiveUp
