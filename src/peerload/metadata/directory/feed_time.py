"""The time as far as the feed has told it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from peerload.store.base import Beaten, Change, Put, Store

__all__ = ["FeedTime"]

_BREATH_MS: Final = 1_000
"""A feed that is there speaks once in this time: beyond that nobody can know whether heartbeats could arrive."""
_SILENCE_MS: Final = 2_500
"""Without a word for so long, a feed is lost."""
_CATCH_UP_MS: Final = 10_000
"""How long after a silence the feed is given to catch up."""


class FeedTime:
    """When the feed last spoke, and the moment as of which heartbeats may be judged. Milliseconds, store's clock."""

    def __init__(self, store: Store, tolerance_ms: int) -> None:
        self._store = store
        self._tolerance = tolerance_ms
        self._contact: int | None = None
        self._current = 0
        self._asked = 0
        self._told = 0
        self._stopped_at: int | None = None
        self.since = 0
        """Since when the feed has spoken without a long pause."""

    def now(self) -> int:
        """The store's clock, held back while the feed says nothing. Asked several times a second."""
        now = self._store.now()
        if self._asked and now - self._asked > _SILENCE_MS:
            # This process was stopped, perhaps every server was: the feed has to tell first whether that time counts.
            self._stopped_at = self._told
        self._asked = now
        self._told = min(now, self._current + _BREATH_MS if self._stopped_at is None else self._stopped_at)
        return self._told

    @property
    def silent_ms(self) -> int:
        """How long ago the feed last spoke."""
        return self._store.now() - (self._contact or 0)

    @property
    def lost(self) -> bool:
        """Whether the feed has fallen silent: what is known may be out of date."""
        return self.lost_at(self._store.now())

    def lost_at(self, now: int) -> bool:
        """The same for who knows the store's clock already."""
        return self._contact is None or now - self._contact > _SILENCE_MS

    def hear(self, changes: Sequence[Change]) -> None:
        """The feed has spoken; without changes: there are no more."""
        now = self._store.now()
        if self._contact is None or now - self._contact > self._tolerance:
            self.since = now
        self._contact = now
        # After a silence (a suspended process, a slow store) the first changes are old ones, and those that prove that
        # sources are alive may yet be on their way: time does not go on before the feed has caught up.
        if (
            not changes
            or now - self._current <= _SILENCE_MS
            or now - self.since > _CATCH_UP_MS
            or any(_stamp(change) >= now - _SILENCE_MS for change in changes)
        ):
            self._current = now
            self._stopped_at = None


def _stamp(change: Change) -> int:
    beat = change.entry.beat if isinstance(change, Put) else change.beat if isinstance(change, Beaten) else None
    return 0 if beat is None else beat.stamp
