"""How long a row may take: it ends within the time that was announced, hung or not."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Final

__all__ = ["Overdue", "limited"]

_AGAIN_SECONDS: Final = 30.0
"""For what is put away afterwards, should that hang too."""


class Overdue(KeyboardInterrupt):
    """The time is over. It is an interrupt, since asyncio hands on nothing else from wherever it is raised."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `Overdue` in what is done here once the seconds are over. Only in the main thread."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Overdue(f"not done within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
