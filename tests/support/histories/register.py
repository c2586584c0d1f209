"""One worker with one client: what may be shown of it, and when."""

from __future__ import annotations

import bisect
import math
from typing import NamedTuple

from tests.support.histories.records import STALE, State, Write
from tests.support.histories.times import Times

__all__ = ["Register", "Sight"]

ABSENT = frozenset({None})
CLOCKS = 0.3
"""Servers' clocks agree within this."""
VISIBLE = 1.5
"""A write waits so long to be known to the server that was asked, and is then answered all the same, if its feed is only
slow (`MetadataSettings.visible_within`)."""
LATE = 1.0
"""The times without a server may be known by a sign of life too late, which come once a second."""


class Sight(NamedTuple):
    """What somebody was shown of a worker."""

    shown: State | None
    server: int
    since: float
    """It was shown by then: what began later cannot be the reason."""
    until: float
    """It was still shown then (for a list: when it was asked for): what is known by then must have been heeded."""
    ready: bool
    """Whether only READY workers are shown."""
    streamed: bool = False


class Register:
    """The states that a worker went through, by its client's account, each a set where that is not certain."""

    def __init__(self, times: Times) -> None:
        self._times = times
        self._states: list[frozenset[State | None]] = [ABSENT]
        self._begun = [-math.inf]
        self._ended = [-math.inf]
        self._stored = [-math.inf]
        """When the write was surely in the store."""
        self._beats = [False]
        self._heard = [-math.inf]
        """When the latest heartbeat until then was answered; infinite if it is not known whether one was taken."""
        self._servers = [-1]
        """Who answered, where that server must know of it at once; else -1."""
        self._published: dict[int, float] = {}
        """When each publication was asked for."""
        self._open: Write | None = None

    def add(self, write: Write) -> str | None:
        """Take in the client's next write. A sentence if its answer cannot be."""
        if self._open is not None and (write.what, write.status) != ("mark", self._open.status):
            raise ValueError(f"what comes of {self._open} is not known, so nothing can be said after {write}")
        before = self._states[-1]
        after: frozenset[State | None]
        wrong = None
        sure = write.what != "mark"
        if write.what == "publish":
            self._published[write.step] = write.begun
            after = frozenset({State(write.step, write.status)})
        elif write.what == "withdraw":
            after = ABSENT
        else:
            after = frozenset({state and State(state.step, write.status) for state in before})
            known = self._possible(self._window(write.server, write.begun, write.begun))
            if write.answer is False:
                after = before
                if None not in before:
                    wrong = f"it is there, and yet unknown to {write}"
            elif write.answer and known == ABSENT:
                wrong = f"it is not there, and yet known to {write}"
            # Where the server may have had that status already, it was a mere heartbeat, stored a moment later.
            sure = write.answer is True and all(state and state.status != write.status for state in known)
        stored = math.inf
        if write.answer is not None:
            stored = write.ended if sure else self._times.lasting(write.server, write.ended)
        if math.isinf(stored):
            if write.answer is None and (write.what != "mark" or after != before):
                self._open = write
            after |= before
        self._states.append(after)
        self._begun.append(write.begun)
        self._ended.append(write.ended if write.answer is not None else math.inf)
        self._stored.append(stored)
        beat = write.what == "publish" or (write.what == "mark" and write.answer is not False)
        self._beats.append(beat)
        self._heard.append(max(self._heard[-1], self._ended[-1]) if beat else self._heard[-1])
        known_there = sure and write.answer is not None and write.ended - write.begun < VISIBLE
        self._servers.append(write.server if known_there else -1)
        return wrong

    def place(self, sight: Sight, floor: int) -> int | None:
        """The first state, from `floor` on, that explains what was shown at first; None if none does, or if what stood
        in its place later could not explain that it was still shown."""
        known = self._times.knows(sight.server, sight.until, streamed=sight.streamed)
        low, _ = self._window(sight.server, sight.until, sight.since, streamed=sight.streamed)
        first = self._window(sight.server, sight.since, sight.since, streamed=True)[0] if sight.streamed else low
        place = self._explained(sight, known, max(first, floor), sight.since)
        if place is None:
            return None
        # A stream says nothing where a write changes nothing, and need not say what was undone at once: when it must
        # have heard of one, that or a later one explains what it shows.
        for index in range(place + 1, low + 1):
            if self._stored[index] <= known:
                told = min(sight.until, self._times.told(sight.server, self._stored[index]))
                if self._explained(sight, known, index, told) is None:
                    return None
        return place

    def _explained(self, sight: Sight, known: float, low: int, by: float) -> int | None:
        """The first state from `low` on, begun by then, that explains what was shown."""
        for index in range(low, len(self._states)):
            if self._begun[index] > by:
                return None
            if any(self._explains(state, sight, known) for state in self._states[index]):
                return index
        return None

    def expected(self, sight: Sight) -> str:
        """In words, what could have been shown."""
        low, high = self._window(sight.server, sight.until, sight.since, streamed=sight.streamed)
        possible = self._possible((min(low, high), max(low, high)))
        known = self._times.knows(sight.server, sight.until, streamed=sight.streamed)
        alive, expired = self._alive(sight, known), self._expired(max(sight.since, sight.until), known)
        return f"{sorted(map(str, possible))}{', alive' if alive else ''}{', run out' if expired else ''}"

    def _explains(self, state: State | None, sight: Sight, known: float) -> bool:
        shown = sight.shown
        if state is None:
            return shown is None
        if shown is None:
            # A worker that is not READY, or no longer, is not shown to those who ask for the others.
            return sight.ready and (state.status != 2 or not self._alive(sight, known))
        if shown.status == STALE and not sight.ready:
            return shown.step == state.step and not self._alive(sight, known) and not self._new(state, sight.since)
        return shown == state and not self._expired(max(sight.since, sight.until), known)

    def _window(self, server: int, until: float, since: float, *, streamed: bool = False) -> tuple[int, int]:
        """The first and the last write that may be the latest one that is known."""
        known = self._times.knows(server, until, streamed=streamed)
        low = self._latest(until)
        while not (
            self._stored[low] <= known or (self._servers[low] == server and self._ended[low] <= until and not streamed)
        ):
            low -= 1
        return low, self._latest(since)

    def _latest(self, at: float) -> int:
        """The last write that had begun by then."""
        return bisect.bisect_right(self._begun, at) - 1

    def _possible(self, window: tuple[int, int]) -> frozenset[State | None]:
        low, high = window
        return frozenset().union(*self._states[low : high + 1])

    def _alive(self, sight: Sight, known: float) -> bool:
        """Whether the server knew of a heartbeat that had not run out: when this was shown, or while it stood."""
        if not sight.streamed:
            return self._fresh(sight.since, known)
        first = self._times.knows(sight.server, sight.since, streamed=True)
        return self._fresh(sight.since, first) or self._fresh(sight.until, known)

    def _fresh(self, at: float, known: float) -> bool:
        for index in range(self._latest(at), 0, -1):
            if self._beats[index] and self._stored[index] <= known:
                return self._times.aged(self._begun[index], at) < self._times.bounds.timeout - CLOCKS
        return False

    def _new(self, state: State, at: float) -> bool:
        """Whether a publication is so new that whoever knows of it knows that it lives."""
        return self._times.aged(self._published[state.step], at) < self._times.bounds.timeout - CLOCKS

    def _expired(self, until: float, known: float) -> bool:
        """Whether the last heartbeat has run out for sure, as far as the server knows the time."""
        last = self._heard[self._latest(until)]
        return last > -math.inf and self._times.counted(last, known) > self._times.bounds.timeout + LATE
