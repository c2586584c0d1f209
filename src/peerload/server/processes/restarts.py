"""How long to wait before a process that ended by itself is started again."""

from __future__ import annotations

from typing import Final

__all__ = ["Restarts"]

_HEALTHY_SECONDS: Final = 60.0
"""Who lived so long did not end for a reason that will end the next one at once."""
_FIRST_SECONDS: Final = 0.5
_MOST_SECONDS: Final = 30.0


class Restarts:
    """The ends of one place's processes: at once after the first, twice as long after each that lived no minute."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def after(self, lived: float) -> float:
        """Seconds to wait, now that a process has ended that lived so long."""
        self._in_a_row = 0 if lived >= _HEALTHY_SECONDS else self._in_a_row + 1
        doubled = self._in_a_row - 2
        return 0.0 if doubled < 0 else min(_MOST_SECONDS, _FIRST_SECONDS * 2.0 ** min(doubled, 16))
