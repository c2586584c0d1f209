"""The changes of late, in order, for all the watches of one store."""

from __future__ import annotations

from bisect import bisect_right
from itertools import chain, islice
from typing import Final

from peerload.store.base import Change, Put

__all__ = ["LOG_LIMIT", "Log"]

LOG_LIMIT: Final = 30_000
"""Changes that a log reaches back; a large one counts as several."""

_WEIGHED_CHARACTERS: Final = 2_000
_BATCH: Final = 1_000


class Log:
    """A bounded list of changes. Each has the resourceVersion with which it came, and positions are resourceVersions.

    It holds every change later than `floor`, up to `end`.
    """

    def __init__(self, start: int, limit: int = LOG_LIMIT) -> None:
        self.floor = start
        self.end = start
        self._limit = limit
        self._weight = 0
        # Side by side; what is before _first has been dropped.
        self._versions: list[int] = []
        self._changes: list[tuple[Change, ...]] = []
        self._weights: list[int] = []
        self._first = 0

    def add(self, version: int, changes: tuple[Change, ...]) -> None:
        """Note what came with a resourceVersion later than `end`; that may be nothing."""
        assert version > self.end
        self.end = version
        if not changes:
            return
        weight = sum(map(_weigh, changes))
        self._versions.append(version)
        self._changes.append(changes)
        self._weights.append(weight)
        self._weight += weight
        # The latest stays, whatever it weighs: who waits for it is there.
        while self._weight > self._limit and self._first < len(self._versions) - 1:
            self._drop()

    def read(self, position: int) -> tuple[tuple[Change, ...], int]:
        """Some of the changes after a position, and the position after them. The position must not be below `floor`."""
        start = bisect_right(self._versions, position, lo=self._first)
        stop = start
        count = 0
        while stop < len(self._versions) and count < _BATCH:
            count += len(self._changes[stop])
            stop += 1
        changes = tuple(chain.from_iterable(islice(self._changes, start, stop)))
        return changes, self._versions[stop - 1] if stop < len(self._versions) else max(position, self.end)

    def _drop(self) -> None:
        self.floor = self._versions[self._first]
        self._changes[self._first] = ()
        self._weight -= self._weights[self._first]
        self._first += 1
        if self._first * 2 > len(self._versions):
            del self._versions[: self._first], self._changes[: self._first], self._weights[: self._first]
            self._first = 0


def _weigh(change: Change) -> int:
    if not isinstance(change, Put):
        return 1
    value = change.entry.value
    characters = len(change.entry.key) + sum(len(m) if isinstance(m, str) else 8 for m in value.values())
    return 1 + (characters + 50 * len(value)) // _WEIGHED_CHARACTERS
