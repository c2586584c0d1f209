"""One key that several clients publish under at the same time: everybody sees one order."""

from __future__ import annotations

import bisect
import graphlib
import itertools
import math
from collections.abc import Hashable, Iterable, Sequence

from tests.support.histories.records import Write
from tests.support.histories.register import Sight
from tests.support.histories.times import Times

__all__ = ["Rivals"]


class Rivals:
    """Publications of which each has a step of its own. The order of those that overlap is the store's to choose; it is
    one order, in which what ended before another began comes first, and every stream of sights goes forward in it."""

    def __init__(self, writes: Iterable[Write], times: Times) -> None:
        self._times = times
        self._writes = {write.step: write for write in writes}
        self._certain = [
            write
            for write in self._writes.values()
            if write.answer is not None and not times.repeated(write.begun, write.ended)
        ]
        done = sorted(self._certain, key=lambda write: write.ended)
        self._ended = [write.ended for write in done]
        self._latest = [-math.inf]
        for write in done:
            self._latest.append(max(self._latest[-1], write.begun))
        # One that may have been done twice, or will yet be done, has no place of its own in the order.
        self._once = {write.step for write in self._certain}
        self._after: dict[Hashable, set[Hashable]] = {}

    def see(self, sight: Sight) -> str | None:
        """A sentence if that cannot have been shown."""
        known = self._times.knows(sight.server, sight.until, streamed=sight.streamed)
        if sight.shown is None:
            begun = self._latest[bisect.bisect_right(self._ended, known)]
            return "it is not there" if begun > -math.inf and not sight.ready else None
        write = self._writes.get(sight.shown.step)
        if write is None or write.begun > sight.since:
            return "it was not published by then"
        ended = write.ended if write.step in self._once else math.inf
        if self._latest[bisect.bisect_right(self._ended, known)] > ended:
            return "a later publication was known"
        return None

    def follow(self, seen: Sequence[Sight]) -> None:
        """Somebody saw these, in this order where they do not overlap."""
        last: Sight | None = None
        for sight in seen:
            if sight.shown is None or sight.shown.step not in self._once or (last and sight.until < last.since):
                continue
            if last and last.shown and last.shown.step != sight.shown.step:
                self._after.setdefault(sight.shown.step, set()).add(last.shown.step)
            last = sight

    def contradiction(self) -> str | None:
        """A sentence if there is no one order of everything."""
        # Time is a chain of moments: what has ended is before the next moment, and what begins is after it.
        moments = sorted({moment for write in self._certain for moment in (write.begun, write.ended)})
        after = {node: set(earlier) for node, earlier in self._after.items()}
        for earlier, later in itertools.pairwise(moments):
            after.setdefault(("at", later), set()).add(("at", earlier))
        for write in self._certain:
            after.setdefault(("before", write.begun), set())
            after.setdefault(write.step, set()).add(("at", write.begun))
            # Only what begins after the moment is later than what ended with it.
            index = bisect.bisect_right(moments, write.ended)
            if index < len(moments):
                after.setdefault(("at", moments[index]), set()).add(write.step)
        try:
            graphlib.TopologicalSorter(after).prepare()
        except graphlib.CycleError as error:
            steps = [node for node in error.args[1] if isinstance(node, int)]
            return f"publications are seen in different orders: {steps}"
        return None
