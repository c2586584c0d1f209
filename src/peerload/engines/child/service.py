"""The child that serves one publication: started when it is published, replaced when it dies, hangs or has leaked enough."""

from __future__ import annotations

import contextlib
import logging
import threading
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from peerload.engines.child.memory import Laid
from peerload.engines.child.message import MAX_FDS
from peerload.engines.child.process import Child, ChildDied, Recipe, spawn
from peerload.engines.child.settings import ChildSettings
from peerload.errors import TransferFailed

__all__ = ["Reach", "Service"]

_log: Final = logging.getLogger("peerload.engines")


@dataclass(frozen=True, slots=True)
class Reach:
    """How to read from a serving child: what its library says, and the address of each region."""

    said: bytes
    addresses: bytes
    """64 bits each, in this machine's byte order."""


class Service:
    """Thread-safe. `laid` is the memory that the child serves; it stays as it is whatever becomes of the child."""

    def __init__(
        self, recipe: Recipe, engine: str, words: Mapping[str, Any], laid: Laid, settings: ChildSettings
    ) -> None:
        self._recipe = recipe
        self._engine = engine
        self._words = words
        self._laid = laid
        self._settings = settings
        self._lock = threading.Lock()
        self._stopped = False
        self._child: Child | None = None
        self._reach: Reach | None = None
        self._readers = 0
        self._visits = 0

    @property
    def pid(self) -> int | None:
        """The child's, while there is one."""
        child = self._child
        return None if child is None else child.pid

    def start(self) -> None:
        """Have the child ready. Raises `TransferFailed` where it cannot be."""
        with self._lock:
            self._ensure()

    def enter(self) -> Reach:
        """A reader comes, until `leave`: the child is there, answers, and makes progress. Raises `TransferFailed`."""
        with self._lock:
            if self._visits >= self._settings.recycle_after and not self._readers:
                self._end()
            reach = self._ensure()
            assert self._child is not None
            self._child.order("serve")
            self._visits += 1
            self._readers += 1
            return reach

    def leave(self) -> None:
        """A reader is gone."""
        with self._lock:
            self._readers -= 1
            if not self._readers and self._child is not None:
                with contextlib.suppress(ChildDied):
                    self._child.order("rest")

    def stop(self) -> None:
        """Nobody can read any more when this returns. Twice is allowed."""
        self._stopped = True
        if (child := self._child) is not None:
            child.kill()  # Whoever holds the lock may be waiting for an answer of its.
        with self._lock:
            self._end()
            self._laid.close()

    def forget(self) -> None:
        """In a forked child, whose all this is not."""
        self._laid.close()

    def _ensure(self) -> Reach:
        if self._child is not None:
            try:
                self._child.ask("ping", patience=self._settings.answer_timeout)
            except TransferFailed as error:
                _log.warning("%s; starting another", error)
                self._end()
        if self._stopped:
            raise TransferFailed("these weights are no longer offered", retryable=False)
        if self._reach is None:
            self._reach = self._begin()
        return self._reach

    def _begin(self) -> Reach:
        self._visits = 0
        self._child = child = spawn(self._recipe, "source", f"the process that serves {self._engine}", self._words)
        try:
            if self._stopped:
                child.kill()
            arenas, patience = self._laid.arenas, self._settings.start_timeout
            for at in range(0, len(arenas), MAX_FDS):
                some = arenas[at : at + MAX_FDS]
                child.ask(
                    "map", fds=[each.fd for each in some], sizes=[each.nbytes for each in some], patience=patience
                )
            spans = [[each.begin, each.end] for each in arenas]
            told = child.ask("offer", spans=spans, patience=patience)
        except TransferFailed:
            self._end()
            raise
        bases: Sequence[int] = told.words["bases"]
        addresses = array("Q", (bases[place.arena] + place.offset for place in self._laid.places))
        return Reach(told.payload, addresses.tobytes())

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
        self._child = self._reach = None
