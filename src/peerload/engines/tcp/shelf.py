"""The publications of one exporter: who may read what, who is reading it now, and how that ends."""

from __future__ import annotations

import enum
import hmac
import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from peerload.clock import Clock
from peerload.engines.tcp.protocol import PUBLICATION_BYTES, SECRET_BYTES, Refusal

__all__ = ["Reading", "Shelf", "Shelved"]

_REMEMBERED: Final = 4096
"""Retired publications that are still told apart from those that never were."""


class _State(enum.Enum):
    LIVE = "live"
    ENDING = "ending"
    """Only reads that had begun may go on."""
    CUT = "cut"
    """Nobody may touch the memory any more; those who do are being stopped."""
    GONE = "gone"


class Reading:
    """A connection, as its publication sees it. Its fields belong to the publication's lock."""

    __slots__ = ("begun", "inside", "stop", "stopped")

    def __init__(self, stop: Callable[[], None]) -> None:
        self.stop = stop
        self.stopped = threading.Event()
        self.begun = False
        self.inside = False


class Shelved:
    """One publication: its memory, and the readings of it."""

    def __init__(self, views: Sequence[memoryview]) -> None:
        self.id = secrets.token_bytes(PUBLICATION_BYTES)
        self.secret = secrets.token_bytes(SECRET_BYTES)
        self.sizes = tuple(view.nbytes for view in views)
        self._views = list(views)
        self._state = _State.LIVE
        self._cut_at = 0.0
        self._changed = threading.Condition()
        self._busy: set[Reading] = set()

    @property
    def busy(self) -> int:
        """Connections with a read under way."""
        return len(self._busy)

    def begin(self, reading: Reading) -> list[memoryview] | Refusal:
        """The memory, for one request of a read, until `end`. Views made from it must be gone by then."""
        with self._changed:
            if self._state is not _State.LIVE and not (self._state is _State.ENDING and reading.begun):
                return Refusal.RETIRED
            reading.begun = reading.inside = True
            self._busy.add(reading)
            return self._views

    def end(self, reading: Reading, *, read_over: bool) -> None:
        """One request is served, or its connection is gone; `read_over` if its read needs nothing more."""
        with self._changed:
            reading.inside = False
            if read_over:
                reading.begun = False
                self._busy.discard(reading)
            self._changed.notify_all()

    def retire(self, grace: float, clock: Clock) -> None:
        """`Exporter.retire`. Of several calls at a time, the shortest grace counts, and all return at the end."""
        cut_at = clock.monotonic() + max(0.0, grace)
        with self._changed:
            if self._state is _State.LIVE:
                self._state, self._cut_at = _State.ENDING, cut_at
            elif cut_at < self._cut_at:
                self._cut_at = cut_at
            self._changed.notify_all()
            while self._state is _State.ENDING and self._busy:
                left = self._cut_at - clock.monotonic()
                if left <= 0:
                    self._state = _State.CUT
                    for reading in self._busy:
                        reading.stopped.set()
                        reading.stop()
                    self._changed.notify_all()
                else:
                    self._changed.wait(left)
            if self._state is _State.ENDING:
                self._state = _State.CUT
            # Without a time limit on purpose: whoever is inside has had his connection shut down, which ends any
            # call he is blocked in, and to return while he still reads the memory would be a lie.
            while any(reading.inside for reading in self._busy):
                self._changed.wait()
            if self._state is not _State.GONE:
                self._state = _State.GONE
                for view in self._views:
                    view.release()
                self._views = []
                self._changed.notify_all()

    def forget(self) -> None:
        """What is left of `retire` in a forked child, where nobody serves and nobody waits."""
        self._views = []
        self._state = _State.GONE


class Shelf:
    """Publications by their id. The secret is compared in constant time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: dict[bytes, Shelved] = {}
        self._retired: deque[bytes] = deque(maxlen=_REMEMBERED)

    def add(self, shelved: Shelved) -> None:
        """Publish."""
        with self._lock:
            self._live[shelved.id] = shelved

    def find(self, publication: bytes, secret: bytes) -> Shelved | Refusal:
        """The publication, for who holds its secret."""
        with self._lock:
            shelved = self._live.get(publication)
            retired = publication in self._retired
        expected = shelved.secret if shelved else bytes(SECRET_BYTES)
        if hmac.compare_digest(expected, secret) and shelved:
            return shelved
        return Refusal.RETIRED if retired else Refusal.UNKNOWN

    def get(self, publication: bytes) -> Shelved | None:
        """By id alone: for its owner."""
        with self._lock:
            return self._live.get(publication)

    def drop(self, shelved: Shelved) -> None:
        """It has been retired."""
        with self._lock:
            if self._live.pop(shelved.id, None):
                self._retired.append(shelved.id)

    def all(self) -> list[Shelved]:
        """Every publication that has not been dropped."""
        with self._lock:
            return list(self._live.values())
