"""What the faults of a trial say about time: when a server must know of what, and how old a heartbeat is."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence

from tests.support.histories.bounds import Bounds
from tests.support.histories.records import Fault

__all__ = ["Times"]

Span = tuple[float, float]


class Times:
    """Questions about a trial's time. Everything is on the safe side: a doubt excuses the servers."""

    def __init__(self, faults: Sequence[Fault], servers: int, bounds: Bounds) -> None:
        self._faults = faults
        self.bounds = bounds
        everybody = frozenset(range(servers))
        self._unwell = [
            merged(
                (fault.begun, fault.ended + (bounds.recover if fault.store else 0.0))
                for fault in faults
                if fault.store or server in fault.servers
            )
            for server in range(servers)
        ]
        self._stopped = [
            merged((fault.begun, fault.ended) for fault in faults if server in fault.servers)
            for server in range(servers)
        ]
        self._down = [
            [fault.down for fault in faults if fault.down is not None and server in fault.servers]
            for server in range(servers)
        ]
        self._kills = [
            [fault.begun for fault in faults if fault.killed and server in fault.servers] for server in range(servers)
        ]
        general = [fault for fault in faults if fault.store or fault.servers == everybody]
        self._doubtful = merged((fault.begun - bounds.alive, fault.ended + bounds.recover) for fault in general)
        self._outages = merged(outage for fault in general if (outage := _outage(fault, bounds)) is not None)
        self._unheard = [
            (fault.down[0], fault.ended + bounds.recover)
            for fault in general
            if fault.store and fault.killed and fault.down
        ]

    @functools.cache  # noqa: B019  asked of every worker that a list does not show, and as long-lived as a check
    def knows(self, server: int, at: float, *, streamed: bool = False) -> float:
        """A server's answer at `at` (or, `streamed`, what its watchers have been told by then) takes in every write
        that was acknowledged by the time returned.

        That is `agree` of time ago in which its feed was current, or the heartbeat timeout and `agree` ago in any
        case: it does not answer from what is older, and ends its watches (while it runs).
        """
        current = back(self._unwell[server], at, self.bounds.agree)
        if streamed:
            return max(current, back(self._stopped[server], at, self.bounds.timeout + self.bounds.agree))
        # One that is stopped answers when it goes on, and looks then how old is what it knows.
        answers = max([at, *(end for begun, end in self._down[server] if begun <= at < end)])
        return max(current, answers - self.bounds.timeout - self.bounds.agree)

    def told(self, server: int, at: float) -> float:
        """When a server's watchers have surely been told of what was in the store at `at`, as far as it runs."""
        heard = forth(self._unwell[server], at, self.bounds.agree)
        return min(heard, forth(self._stopped[server], at, self.bounds.timeout + self.bounds.agree))

    def lasting(self, server: int, at: float) -> float:
        """When a heartbeat that a server answered at `at` is surely in the store; infinite if it was killed before."""
        by = forth(self._unwell[server], at, self.bounds.stored)
        return math.inf if any(at <= kill <= by for kill in self._kills[server]) else by

    def counted(self, start: float, end: float) -> float:
        """By how much a heartbeat has aged at least."""
        return max(0.0, end - start - overlap(self._doubtful, start, end))

    def aged(self, start: float, end: float) -> float:
        """By how much a heartbeat has aged at most, as far as a server may know at the end."""
        # It goes by what the feed said last, until the store is back and the feed has said more.
        believed = sum(
            overlap(self._outages, max(start, begun), min(end, begun + self.bounds.breath))
            for begun, ended in self._unheard
            if begun <= end < ended
        )
        return max(0.0, end - start - overlap(self._outages, start, end) + believed)

    def calm(self, server: int, begun: float, ended: float) -> bool:
        """Whether nothing excuses a server that does not answer within that time."""
        return not any(
            fault.begun <= ended
            and begun <= fault.ended + (self.bounds.recover if fault.store else self.bounds.restart)
            for fault in self._faults
            if fault.store or server in fault.servers
        )

    def repeated(self, begun: float, ended: float) -> bool:
        """Whether a write may have been done twice: because the store was lost while its server waited for the answer."""
        return any(
            fault.store and fault.begun <= ended and begun <= fault.ended + self.bounds.recover
            for fault in self._faults
        )


def _outage(fault: Fault, bounds: Bounds) -> Span | None:
    """The part of a fault that is surely no time for anybody's heartbeat."""
    if fault.down is None:
        return None
    begun, ended = fault.down
    if not fault.store:
        # Servers that start anew, or go on after so long, say so.
        return (begun, ended) if fault.killed or ended - begun > bounds.tolerance else None
    # A sign of life from within the tolerance may lie in the connection of one that is stopped until that goes on, and
    # one that is on its way while the store returns counts from when it was sent.
    begun, ended = begun if fault.killed else begun + bounds.tolerance, ended - bounds.ridden_out
    return (begun, ended) if ended - fault.down[0] > bounds.tolerance else None


def merged(spans: Iterable[Span]) -> list[Span]:
    """The spans without overlaps, in order."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def overlap(spans: Sequence[Span], start: float, end: float) -> float:
    """How much of a time the spans cover."""
    return sum(max(0.0, min(stop, end) - max(begun, start)) for begun, stop in spans)


def back(spans: Sequence[Span], at: float, seconds: float) -> float:
    """The moment before which so many seconds outside of the spans lie until `at`."""
    for begun, ended in reversed(spans):
        if begun >= at:
            continue
        if at - ended >= seconds:
            break
        seconds -= max(0.0, at - ended)
        at = begun
    return at - seconds


def forth(spans: Sequence[Span], at: float, seconds: float) -> float:
    """The moment until which so many seconds outside of the spans lie from `at`."""
    for begun, ended in spans:
        if ended <= at:
            continue
        if begun - at >= seconds:
            break
        seconds -= max(0.0, begun - at)
        at = ended
    return at + seconds
