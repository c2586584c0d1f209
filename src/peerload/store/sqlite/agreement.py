"""The clock of a file: all who have it open go by that of whoever opened it first.

Each process has a wall clock as of the moment when it opened the file, and monotonic time since. Where the host's clock was
stepped in between, these would differ by the step for as long as both live, and what is stamped by one be judged by the other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final

from peerload.errors import Unavailable

__all__ = ["Agreement"]

_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 0.005
_WIDTH: Final = 32
"""Bytes of the number: it is written at once, whole."""


class Agreement:
    """By how many milliseconds the clock of a file is ahead of this host's monotonic time (CLOCK_MONOTONIC, which all processes
    see alike), kept in another file beside it. `ahead_ms` is what this process would say: it counts if nobody else has the file
    open. Blocks, for a moment. Raises `Unavailable`.

    Who has the file open holds a shared lock on the other; who finds none makes a new agreement under an exclusive one. Locks end
    with their processes, however those end.
    """

    def __init__(self, path: Path, ahead_ms: float) -> None:
        self._path = path.with_name(path.name + "-clock")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise Unavailable(f"cannot use {self._path}: {error.strerror}") from error
        # A file object, which is closed even if nobody waits any more for what is being made here.
        self._file = os.fdopen(fd, "r+b", buffering=0)
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            try:
                self._begin(ahead_ms)
                self.ahead_ms = float(os.pread(fd, _WIDTH, 0))
                """What is agreed on."""
            except OSError as error:
                raise Unavailable(f"cannot use {self._path}: {error.strerror}") from error
            except ValueError as error:
                raise Unavailable(f"{self._path} holds no number; remove it while no server runs") from error
            undo.pop_all()

    def close(self) -> None:
        """The file is no longer open here."""
        self._file.close()

    def _begin(self, ahead_ms: float) -> None:
        """Return with a shared lock, under which nobody writes."""
        fd = self._file.fileno()
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.pwrite(fd, f"{ahead_ms:<{_WIDTH}.3f}".encode(), 0)
            # The one lock is given up before the other is had: in between, somebody else may find nobody and agree anew.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            time.sleep(_PAUSE_SECONDS)
        raise Unavailable(f"{self._path} is locked by another process")
