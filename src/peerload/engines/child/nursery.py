"""Children that read: those that have nothing to do at the moment are kept for a while."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from peerload.engines.child.process import Child, Recipe, spawn
from peerload.engines.child.settings import ChildSettings
from peerload.errors import TransferFailed

__all__ = ["Nursery", "Reading"]

_SPARES: Final = 2
"""Children without work that are kept for one publication at most."""


@dataclass(slots=True, eq=False)
class Reading:
    """A child that reads from one publication, and what it was told already."""

    child: Child
    reach: bytes | None = None
    held: frozenset[str] = frozenset()


class Nursery:
    """The children of one importer that have nothing to do at the moment, by publication."""

    def __init__(self, engine: str, words: Mapping[str, Any], settings: ChildSettings) -> None:
        self._what = f"the process that reads with {engine}"
        self._words = words
        self._settings = settings
        self._lock = threading.Lock()
        self._closed = False
        self._idle: dict[bytes, list[tuple[Reading, threading.Timer]]] = {}

    def take(self, recipe: Recipe, publication: bytes) -> Reading:
        """One that has read from this publication before, or a new one. Raises `ChildDied`."""
        while True:
            with self._lock:
                idle = self._idle.get(publication)
                if not idle:
                    break
                reading, timer = idle.pop()
            timer.cancel()
            if reading.child.alive:
                return reading
            reading.child.end()
        return Reading(spawn(recipe, "target", self._what, self._words))

    def give(self, publication: bytes, reading: Reading) -> None:
        """Take back one whose read ended well; it is kept for a while."""
        timer = threading.Timer(self._settings.idle_timeout, self._expire, (publication, reading))
        timer.daemon = True
        with self._lock:
            idle = self._idle.setdefault(publication, [])
            if not self._closed and len(idle) < _SPARES:
                idle.append((reading, timer))
                timer.start()
                return
        reading.child.end()

    def rest(self, publication: bytes) -> None:
        """A reader of this publication was closed: its children let go of the memory that they wrote to."""
        with self._lock:
            idle = self._idle.pop(publication, [])
        for reading, timer in idle:
            timer.cancel()
            try:
                reading.child.ask("hold", keep=[], new=[], patience=self._settings.answer_timeout)
            except TransferFailed:
                reading.child.end()
            else:
                reading.held = frozenset()
                self.give(publication, reading)

    def close(self) -> None:
        """End them all."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, {}
        for each in idle.values():
            for reading, timer in each:
                timer.cancel()
                reading.child.end()

    def _expire(self, publication: bytes, reading: Reading) -> None:
        with self._lock:
            idle = self._idle.get(publication, [])
            left = [each for each in idle if each[0] is not reading]
            if len(left) == len(idle):
                return  # Taken in the meantime.
            if left:
                self._idle[publication] = left
            else:
                del self._idle[publication]
        reading.child.end()
