"""The child that serves one publication: started when it is published, replaced when it dies, hangs or has leaked enough."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Final, Protocol

from peerload.engines.child.memory import Reach
from peerload.engines.child.process import Child, ChildDied
from peerload.engines.child.settings import ChildSettings
from peerload.errors import TransferFailed

__all__ = ["Served", "Service"]

_log: Final = logging.getLogger("peerload.engines")


class Served(Protocol):
    """The memory of a publication. `peerload.engines.child.memory.Laid` is one."""

    def introduce(self, child: Child, patience: float) -> Reach:
        """Have a child serve it. Raises `TransferFailed`."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Service:
    """Thread-safe. `served` is the memory, which stays as it is whatever becomes of the child that `make` makes for it."""

    def __init__(self, make: Callable[[], Child], served: Served, settings: ChildSettings) -> None:
        self._make = make
        self._served = served
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
            self._served.close()

    def forget(self) -> None:
        """In a forked child, whose all this is not."""
        self._served.close()

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
        self._child = child = self._make()
        try:
            if self._stopped:
                child.kill()
            return self._served.introduce(child, self._settings.start_timeout)
        except TransferFailed:
            self._end()
            raise

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
        self._child = self._reach = None
