"""The clock of a store that lives elsewhere: its server's, kept as this host's monotonic time plus a measured offset."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import structlog

from peerload.clock import Clock

__all__ = ["DRIFT", "SKEW_WARNED_MS", "Measured", "ServerTime"]

SKEW_WARNED_MS: Final = 5_000
"""A difference beyond this is warned of."""
_SLEW: Final = 0.0005
"""By how much faster or slower than monotonic time the clock may run to come closer to the server's."""
DRIFT: Final = 0.0002
"""By how much faster or slower than monotonic time the server's own clock runs at most, where both are kept right."""

_log = structlog.stdlib.get_logger(__name__)


class Measured(NamedTuple):
    """The server's clock, milliseconds since 1970, and by how much that may be off."""

    now_ms: float
    doubt_ms: float = 0.0


class ServerTime:
    """Milliseconds since 1970, which never go back. `server` is what people call it ("Redis"). No doubt is told that is smaller
    than `common_doubt_ms`, which is what most who ask that server have: they are to know the time alike.

    A small difference from the server's clock is made up little by little. If the server's clock is far ahead (this host was
    suspended, or another process with another clock has taken over) it is followed at once, as after a silence; if it is
    far behind, it is not.
    """

    def __init__(self, clock: Clock, server: str, *, common_doubt_ms: float = 0.0) -> None:
        self._clock = clock
        self._server = server
        self._common_doubt_ms = common_doubt_ms
        self._base_ms = clock.wall_ms() - clock.monotonic() * 1_000.0
        self._measured_at = clock.monotonic()
        # What it has shown: it stands still where it is set back.
        self._shown = 0
        self._known = False
        self._told_ms = 0.0
        self._doubt_ms = 0.0

    @property
    def doubt_ms(self) -> float:
        """By how much `now` may be off from the server's clock."""
        return max(self._common_doubt_ms, self._known_to_ms())

    def _known_to_ms(self) -> float:
        return self._doubt_ms + (self._clock.monotonic() - self._measured_at) * 1_000.0 * DRIFT

    def now(self) -> int:
        """Milliseconds since 1970."""
        return max(self._shown, round(self._base_ms + self._clock.monotonic() * 1_000.0))

    def begin(self, measured: Measured) -> None:
        """Take the server's time for the first time; warn where the host's is another."""
        if not self._known:
            self._known = True
            self._base_ms = measured.now_ms - self._clock.monotonic() * 1_000.0
            self._measured_at = self._clock.monotonic()
            self._doubt_ms = measured.doubt_ms
            skew = self._clock.wall_ms() - measured.now_ms
            if abs(skew) > SKEW_WARNED_MS:
                _log.warning(
                    f"this host's clock and {self._server}'s differ; {self._server}'s counts",
                    seconds_ahead=round(skew / 1_000, 1),
                )

    def compare(self, measured: Measured) -> None:
        """Take in a later measurement: what it leaves in doubt changes nothing."""
        elapsed = self._clock.monotonic() - self._measured_at
        doubt_ms = self._known_to_ms()
        self._measured_at = self._clock.monotonic()
        own_ms = self._base_ms + self._clock.monotonic() * 1_000.0
        self._shown = self.now()
        behind = measured.now_ms - own_ms
        behind = math.copysign(max(0.0, abs(behind) - measured.doubt_ms), behind)
        step = 0.0
        if abs(behind) <= SKEW_WARNED_MS:
            most = elapsed * 1_000.0 * _SLEW
            step = max(-most, min(most, behind))
            self._told_ms = 0.0
        else:
            if abs(behind - self._told_ms) > SKEW_WARNED_MS:
                _log.warning(
                    f"{self._server}'s clock has jumped", seconds=round(behind / 1_000, 1), followed=behind > 0
                )
                self._told_ms = behind
            if behind > 0:
                step = behind
                self._told_ms = 0.0
        self._base_ms += step
        self._doubt_ms = abs(measured.now_ms - own_ms - step) + measured.doubt_ms
        if abs(measured.now_ms - own_ms) <= doubt_ms + measured.doubt_ms:
            # They bear each other out, and what was known before may be the more exact.
            self._doubt_ms = min(self._doubt_ms, doubt_ms + abs(step))
