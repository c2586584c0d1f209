"""How long ago sources were heard from: fresh, quiet, run out.

A record is *fresh* while its heartbeat is young, *quiet* once it is overdue, and *expired* once it has run out. Only what
becomes quiet costs anything beyond a place in a queue, and a fleet that heartbeats in time has none of those.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Final

from peerload.metadata.directory.held import NOT_QUEUED, Held
from peerload.metadata.directory.liveness import Liveness
from peerload.metadata.records import Status

__all__ = ["Expiry"]

_MOST_REMOVED: Final = 1_024
"""Removed records that may wait for their moment beside as many as there are others."""


class Expiry:
    """Where each record of a directory stands. `sweep` lets time have its effect; `judge` takes in a change of one record.
    `now` is the moment as of which heartbeats are judged, `on_expired` is told of each status that time has changed: the
    record and the status that was shown before."""

    def __init__(
        self,
        liveness: Liveness,
        now: Callable[[], int],
        *,
        quiet_ms: int,
        on_expired: Callable[[Held, Status], None],
    ) -> None:
        self._liveness = liveness
        self._now = now
        self._quiet_ms = quiet_ms
        self._on_expired = on_expired
        self._order = itertools.count()
        # Every fresh record once, at its heartbeat or an earlier one (`Held.due`); it is put right when that moment has come.
        self._fresh: list[Held] = []
        # Every quiet record at its heartbeat; places of records that were heard since count no more.
        self._overdue: list[tuple[int, int, Held]] = []
        self._cutoff = 0
        self.quiet: dict[str, Held] = {}
        """Records whose heartbeat is overdue and has not run out, by key."""
        self.expired: dict[str, Held] = {}
        """Records whose heartbeat has run out, by key."""
        self.on_quiet: Callable[[str], None] | None = None
        """Called with the key of each record that becomes quiet as time passes."""

    def add(self, key: str, held: Held) -> None:
        """Take in a record that was not there."""
        if held.heard < self._cutoff:
            self._expire(key, held)
        else:
            self._refresh(held)

    def judge(self, key: str, held: Held) -> None:
        """Put a record that changed where it belongs."""
        if held.expired:
            if held.heard >= self._cutoff:
                self._unexpire(key, held)
        elif held.heard < self._cutoff:
            self.quiet.pop(key, None)
            self._expire(key, held)
        elif self.quiet and key in self.quiet:
            # Fresh or not, the next sweep sees.
            del self.quiet[key]
            self._refresh(held)

    def forget(self, key: str, left: int) -> None:
        """A record was removed; so many are left."""
        self.quiet.pop(key, None)
        self.expired.pop(key, None)
        if len(self._fresh) + len(self._overdue) > 2 * left + _MOST_REMOVED:
            # What comes and goes fast must not be kept for a heartbeat timeout, in an outage for longer.
            self._fresh = [held for held in self._fresh if not held.removed]
            self._overdue = [item for item in self._overdue if self._counts(*item)]
            heapq.heapify(self._fresh)
            heapq.heapify(self._overdue)

    def sweep(self) -> None:
        """Let run out what has run out by now. Cheap where nothing has; called often."""
        now = self._now()
        cutoff, quiet_cutoff = self._liveness.cutoff(now), self._liveness.cutoff(now, self._quiet_ms)
        if cutoff < self._cutoff:
            # More time turned out to be an outage than was known: some were judged too early.
            for key, held in list(self.expired.items()):
                if held.heard >= cutoff:
                    was = held.shown
                    self._unexpire(key, held)
                    if held.shown is not was:
                        self._on_expired(held, was)
        self._cutoff = cutoff
        while self._fresh and self._fresh[0].due < quiet_cutoff:
            held = heapq.heappop(self._fresh)
            held.due = NOT_QUEUED
            if held.removed or held.expired:
                continue
            if held.heard >= quiet_cutoff:
                self._refresh(held)
                continue
            key = held.record.key.encode()
            self.quiet[key] = held
            heapq.heappush(self._overdue, (held.heard, next(self._order), held))
            if self.on_quiet is not None and held.heard >= cutoff:
                self.on_quiet(key)
        while self._overdue and self._overdue[0][0] < cutoff:
            item = heapq.heappop(self._overdue)
            held = item[2]
            if not self._counts(*item):
                continue
            key = held.record.key.encode()
            del self.quiet[key]
            was = held.shown
            self._expire(key, held)
            if held.shown is not was:
                self._on_expired(held, was)

    def next_ms(self) -> int | None:
        """How long until a heartbeat may run out; None where nothing waits."""
        moments = [held.due for held in self._fresh[:1]] + [heard for heard, _, _ in self._overdue[:1]]
        if not moments:
            return None
        return max(0, min(moments) - self._liveness.cutoff(self._now()) + 1)

    def _counts(self, heard: int, order: int, held: Held) -> bool:
        """Whether a place among the quiet is that of a record which still is, and has not been heard since."""
        return not held.removed and held.heard == heard and self.quiet.get(held.record.key.encode()) is held

    def _refresh(self, held: Held) -> None:
        if held.due == NOT_QUEUED:
            held.due = held.heard
            heapq.heappush(self._fresh, held)

    def _expire(self, key: str, held: Held) -> None:
        held.expired = True
        held.refresh()
        self.expired[key] = held

    def _unexpire(self, key: str, held: Held) -> None:
        held.expired = False
        held.refresh()
        del self.expired[key]
        self._refresh(held)
