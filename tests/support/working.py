"""Seconds in which the machine let its processes work: to hold promises of time on one that others use too."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Final, Self

__all__ = ["WorkingTime"]

_TICK: Final = 0.02
_MOST: Final = 2 * _TICK


class WorkingTime:
    """A clock that stands still while nobody gets to work: a thread wants to go on every 20 ms, and each time that counts
    for no more than 40, however late it comes.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self._worked = 0.0
        self._thread = threading.Thread(target=self._run, name="working time", daemon=True)

    def seconds(self) -> float:
        """Seconds of work since the block was entered."""
        return self._worked

    def _run(self) -> None:
        last = time.monotonic()
        while not self._over.wait(_TICK):
            now = time.monotonic()
            self._worked += min(now - last, _MOST)
            last = now

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
