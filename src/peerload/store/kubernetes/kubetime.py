"""The store's clock: the API server's, read from the `Date` headers of its answers.

A header has whole seconds, so one answer tells the time to within a second. What is between this host's monotonic time
and the API server's clock changes hardly at all, and each answer gives bounds for it: what all of them allow soon is a
few milliseconds wide.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
from collections.abc import Awaitable, Callable
from typing import Final

from peerload.clock import Clock
from peerload.store.servertime import DRIFT, Measured, ServerTime

__all__ = ["KubeTime"]

_KNOWN_MS: Final = 30.0
_EXACT_MS: Final = 12.0
_COMMON_DOUBT_MS: Final = 10.0
_OFTEN_SECONDS: Final = 0.5
_SELDOM_SECONDS: Final = 4.0
"""How soon to ask again at least: where the bounds are further apart than `_EXACT_MS`, and where they are not."""
_PAUSE_SECONDS: Final = 0.01
_QUESTIONS: Final = 120


class KubeTime:
    """Milliseconds since 1970, which never go back, by the API server's clock (see `ServerTime`).

    Several API servers may answer in turn. Where their clocks differ by more than the bounds allow, these begin anew with
    whoever answered last.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._time = ServerTime(clock, "the API server", common_doubt_ms=_COMMON_DOUBT_MS)
        self._low_ms, self._high_ms = -math.inf, math.inf
        self._heard_at = -math.inf
        self._learning = False

    @property
    def bounds_ms(self) -> tuple[float, float]:
        """Between what the API server's clock is ahead of our monotonic time, as of the last answer; infinite before."""
        return self._low_ms, self._high_ms

    def now(self) -> int:
        """Milliseconds since 1970."""
        return self._time.now()

    @property
    def doubt_ms(self) -> float:
        """By how much `now` may be off."""
        return self._time.doubt_ms

    async def learn(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Before the clock is used: ask until a second of the API server's ends, so that servers agree on the time from the
        start. Whoever began with half a second of doubt would make it up within the hour.

        Takes up to a second. `ask` has an answer's header taken in by `heard`.
        """
        if not math.isinf(self._heard_at):
            return
        self._learning = True
        try:
            for _ in range(_QUESTIONS):
                await ask()
                if self._high_ms - self._low_ms <= _KNOWN_MS:
                    return
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            self._learning = False
            if not math.isinf(self._heard_at):
                self._time.begin(self._measured())

    async def keep(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Until cancelled, ask whenever an answer tells most: when a second of the API server's ends, as far as is known. Each
        halves what was open, and so does away with what drift has opened meanwhile."""
        while True:
            low, high = self.bounds_ms
            if math.isinf(high - low):
                await self._clock.sleep(_OFTEN_SECONDS)
            else:
                theirs = self._clock.monotonic() + (low + high) / 2_000.0
                soonest = theirs + (_SELDOM_SECONDS if high - low <= _EXACT_MS else _OFTEN_SECONDS)
                await self._clock.sleep(math.ceil(soonest) - theirs)
            await ask()

    def heard(self, before: float, after: float, date: str) -> None:
        """Take in an answer whose header `date` was written between two monotonic times, in seconds."""
        try:
            written_ms = email.utils.parsedate_to_datetime(date).timestamp() * 1_000.0
        except (ValueError, OverflowError):  # a gateway that has its own ideas
            return
        low, high = written_ms - after * 1_000.0, written_ms + 1_000.0 - before * 1_000.0
        first = math.isinf(self._heard_at)
        slack = 0.0 if first else max(0.0, after - self._heard_at) * 1_000.0 * DRIFT
        self._heard_at = max(self._heard_at, after)
        narrowed = max(low, self._low_ms - slack), min(high, self._high_ms + slack)
        self._low_ms, self._high_ms = narrowed if narrowed[0] <= narrowed[1] else (low, high)
        if self._learning:
            return
        if first:
            self._time.begin(self._measured())
        else:
            self._time.compare(self._measured())

    def _measured(self) -> Measured:
        middle = (self._low_ms + self._high_ms) / 2 + self._clock.monotonic() * 1_000.0
        return Measured(middle, (self._high_ms - self._low_ms) / 2)
