"""The clock of a store that lives elsewhere: its server's, kept as this host's monotonic time plus a measured offset."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import structlog

from peerload.clock import Clock

__all__ = ["SKEW_WARNED_MS", "Measured", "ServerTime"]

SKEW_WARNED_MS: Final = 5_000
"""A difference beyond this is warned of."""
_SLEW: Final = 0.0005
"""By how much faster or slower than monotonic time the clock may run to come closer to the server's."""

_log = structlog.stdlib.get_logger(__name__)


class Measured(NamedTuple):
    """The server's clock, milliseconds since 1970, and by how much that may be off."""

    now_ms: float
    doubt_ms: float = 0.0


class ServerTime:
    """Milliseconds since 1970, which never go back. `server` is what people call it ("Redis").

    A small difference from the server's clock is made up little by little. If the server's clock is far ahead (this host was
    suspended, or another process with another clock has taken over) it is followed at once, as after a silence; if it is
    far behind, it is not.
    """

    def __init__(self, clock: Clock, server: str) -> None:
        self._clock = clock
        self._server = server
        self._base_ms = clock.wall_ms() - clock.monotonic() * 1_000.0
        self._measured_at = clock.monotonic()
        self._known = False
        self._told_ms = 0.0

    def now(self) -> int:
        """Milliseconds since 1970."""
        return round(self._base_ms + self._clock.monotonic() * 1_000.0)

    def begin(self, measured: Measured) -> None:
        """Take the server's time for the first time; warn where the host's is another."""
        if not self._known:
            self._known = True
            self._base_ms = measured.now_ms - self._clock.monotonic() * 1_000.0
            self._measured_at = self._clock.monotonic()
            skew = self._clock.wall_ms() - measured.now_ms
            if abs(skew) > SKEW_WARNED_MS:
                _log.warning(
                    f"this host's clock and {self._server}'s differ; {self._server}'s counts",
                    seconds_ahead=round(skew / 1_000, 1),
                )

    def compare(self, measured: Measured) -> None:
        """Take in a later measurement: what it leaves in doubt changes nothing."""
        elapsed = self._clock.monotonic() - self._measured_at
        self._measured_at = self._clock.monotonic()
        behind = measured.now_ms - (self._base_ms + self._clock.monotonic() * 1_000.0)
        behind = math.copysign(max(0.0, abs(behind) - measured.doubt_ms), behind)
        if abs(behind) <= SKEW_WARNED_MS:
            most = elapsed * 1_000.0 * _SLEW
            self._base_ms += max(-most, min(most, behind))
            self._told_ms = 0.0
            return
        if abs(behind - self._told_ms) > SKEW_WARNED_MS:
            _log.warning(f"{self._server}'s clock has jumped", seconds=round(behind / 1_000, 1), followed=behind > 0)
            self._told_ms = behind
        if behind > 0:
            self._base_ms += behind
            self._told_ms = 0.0
