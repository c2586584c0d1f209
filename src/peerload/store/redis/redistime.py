"""The store's clock: Redis's, kept as this host's monotonic time plus a measured offset."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import structlog

from peerload.clock import Clock

__all__ = ["SKEW_WARNED_MS", "Measured", "RedisTime"]

SKEW_WARNED_MS: Final = 5_000
"""A difference beyond this is warned of."""
_SLEW: Final = 0.0005
"""By how much faster or slower than monotonic time the clock may run to come closer to Redis's."""

_log = structlog.stdlib.get_logger(__name__)


class Measured(NamedTuple):
    """Redis's clock, milliseconds since 1970: by how much it may be off is half of the time that it took to ask."""

    now_ms: float
    doubt_ms: float = 0.0


class RedisTime:
    """Milliseconds since 1970, which never go back.

    A small difference from Redis's clock is made up little by little. If Redis's clock is far ahead (this host was
    suspended, or another process with another clock has become the primary) it is followed at once, as after a silence;
    if it is far behind, it is not.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._base_ms = clock.wall_ms() - clock.monotonic() * 1_000.0
        self._measured_at = clock.monotonic()
        self._known = False
        self._told_ms = 0.0

    def now(self) -> int:
        """Milliseconds since 1970."""
        return round(self._base_ms + self._clock.monotonic() * 1_000.0)

    def begin(self, measured: Measured) -> None:
        """Take Redis's time for the first time; warn where the host's is another."""
        if not self._known:
            self._known = True
            self._base_ms = measured.now_ms - self._clock.monotonic() * 1_000.0
            self._measured_at = self._clock.monotonic()
            skew = self._clock.wall_ms() - measured.now_ms
            if abs(skew) > SKEW_WARNED_MS:
                _log.warning(
                    "this host's clock and Redis's differ; Redis's counts", seconds_ahead=round(skew / 1_000, 1)
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
            _log.warning("Redis's clock has jumped", seconds=round(behind / 1_000, 1), followed=behind > 0)
            self._told_ms = behind
        if behind > 0:
            self._base_ms += behind
            self._told_ms = 0.0
