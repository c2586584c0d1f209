"""Counting at next to no cost: plain numbers beside the work that they count, read by whoever reports them.

Whoever counts knows nothing of metrics; a server's `/metrics` and a client's collector look at these when they are asked.
A tally belongs to one thread, or is changed under its owner's lock.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

__all__ = ["SECONDS", "SIZES", "Histogram"]

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds for how long calls take: from a heartbeat answered from memory to one that an outage held up."""
SIZES: Final = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0)
"""Upper bounds for how many things are done at once."""


class Histogram:
    """How often values fell between bounds, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Up to each bound and above the one before it; the last is what is beyond all of them."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, float]]:
        """How many were at most as large as each bound, as Prometheus writes it: cumulative, the last bound +Inf."""
        total, found = 0, []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            found.append(("+Inf" if bound == float("inf") else repr(bound), float(total)))
        return found
