"""The clock of a store that lives on this host: wall time when it was opened, plus the monotonic time since."""

from __future__ import annotations

from typing import Final

import structlog

from peerload.clock import Clock

__all__ = ["STEP_WARNED_MS", "HostTime"]

STEP_WARNED_MS: Final = 5_000
"""A wall clock that has moved this far from the store's clock is warned of."""

_log = structlog.stdlib.get_logger(__name__)


class HostTime:
    """A steady clock in milliseconds since 1970.

    A step of the host's wall clock does not move it, because everything that is judged by age would be judged wrongly;
    `check` warns of such a step, once for each.
    """

    def __init__(self, clock: Clock, ahead_ms: float | None = None) -> None:
        """`ahead_ms`: of monotonic time; if it is not given, what the wall clock is now."""
        self._clock = clock
        self.ahead_ms: Final = clock.wall_ms() - clock.monotonic() * 1_000.0 if ahead_ms is None else ahead_ms
        self._known_step_ms = 0

    def now(self) -> int:
        """Milliseconds since 1970."""
        return round(self.ahead_ms + self._clock.monotonic() * 1_000.0)

    def check(self) -> None:
        """Compare with the host's wall clock; log a warning where it has been stepped since the last warning."""
        step = self._clock.wall_ms() - self.now()
        if abs(step - self._known_step_ms) > STEP_WARNED_MS:
            self._known_step_ms = step
            _log.warning("the host's clock was stepped; the store keeps its own time", seconds=round(step / 1_000, 1))
