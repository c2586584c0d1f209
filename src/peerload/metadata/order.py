"""Which of two things that a worker said at two servers came last, as far as that can be known.

Each server knows the store's clock to within a doubt of its own (`Store.doubt_ms`). A heartbeat may be answered at once, with
the moment as that server knows it; so a *change* (a publication, another status), which the store takes before it is answered,
does two things: it is kept with the latest moment at which it may have been said, and it is answered only when that is over for
every server. Then a heartbeat that is said after the answer is surely later than the change, and one that is not surely later
was perhaps said before it.
"""

from __future__ import annotations

import math
from typing import Final

from peerload.clock import Clock
from peerload.store.base import Store

__all__ = ["Order"]

_MOST_MS: Final = 25.0
"""How much doubt is heeded: a change is answered after four times as much at the latest."""


class Order:
    """Moments, in milliseconds on the store's clock, as one server knows them."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def latest(self, now: int) -> int:
        """What the store's clock shows at most when this server's shows `now`."""
        return now + math.ceil(self._doubt_ms)

    def earliest(self, now: int) -> int:
        """What it shows at least. What is later than a change's `latest` was said after that change."""
        return math.floor(now - self._doubt_ms)

    async def over(self, latest: int) -> None:
        """Return when `latest` is over by so much that whatever any server is asked from then on is later, as long as none knows
        the time less well than this one. Most writes have taken that long already."""
        doubt_ms = self._doubt_ms
        # Moments are rounded to milliseconds, here and there. Without doubt the write itself took as long.
        left_ms = latest + 3 * doubt_ms + 2 - self._store.now()
        if doubt_ms and left_ms > 0:
            await self._clock.sleep(left_ms / 1_000)

    @property
    def _doubt_ms(self) -> float:
        return min(self._store.doubt_ms, _MOST_MS)
