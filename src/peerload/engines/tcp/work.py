"""The ranges of a read, handed out to its lanes in windows."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from peerload.engines.base import Range
from peerload.engines.tcp import protocol

__all__ = ["Window", "Work"]

WINDOW: Final = 32 * 1024 * 1024
SMALLEST: Final = 16 * 1024 * 1024
"""Bytes of a window of a read that is small."""


class Window(NamedTuple):
    """What a lane asks for at a time: `size` bytes, which are the whole ranges from number `first` to before number `until`. Where that
    is one range, they are those from `start`, of a range that may be longer than a window."""

    first: int
    until: int
    start: int
    size: int


class Work:
    """Thread-safe. A range belongs to one lane, so that its digest can be computed in the order of its bytes.

    Windows of whole ranges are found by where those end in the read, without a look at each: there are tens of thousands.
    """

    def __init__(self, ranges: Sequence[Range], lanes: int) -> None:
        self.ranges = ranges
        self._ends = list(accumulate([length for _, _, length in ranges], initial=0))
        """Bytes of the read before each range, and of all."""
        # Several windows a lane, so that lanes end at about the same time.
        self._window = min(WINDOW, max(self._ends[-1] // (4 * lanes), SMALLEST))
        self._lock = threading.Lock()
        self._next = 0

    def take(self, last: Window | None) -> Window | None:
        """The next window for a lane, of which `last` was the one before; None when nothing is left."""
        if last is not None and last.until == last.first + 1:
            start = last.start + last.size
            if start < self.ranges[last.first].length:
                return self._part(last.first, start)
        with self._lock:
            first = self._next
            # Ranges of no bytes are complete from the beginning; those in between do no harm.
            first = bisect_right(self._ends, self._ends[first], first) - 1
            if first == len(self.ranges):
                return None
            until = self.fitting(first, first + protocol.MAX_RANGES, self._window)
            self._next = max(until, first + 1)
        if until <= first + 1:
            return self._part(first, 0)
        return Window(first, until, 0, self.size(first, until))

    def fitting(self, first: int, until: int, room: int) -> int:
        """Before which number the ranges from `first` end of which `room` bytes hold all, `until` at most."""
        most = min(until, len(self.ranges)) + 1
        return bisect_right(self._ends, self._ends[first] + room, first, most) - 1

    def size(self, first: int, until: int) -> int:
        """The bytes of some ranges."""
        return self._ends[until] - self._ends[first]

    def wanted(self, window: Window) -> Sequence[Range]:
        """What to ask the source for."""
        first, until, start, size = window
        if until > first + 1:
            return self.ranges[first:until]
        region, offset, _ = self.ranges[first]
        return (Range(region, offset + start, size),)

    def parts(self, window: Window) -> Iterator[tuple[int, int, int]]:
        """Of each of its ranges that has bytes: its number, from where, and how many bytes."""
        first, until, start, size = window
        if until == first + 1:
            yield first, start, size
            return
        for index in range(first, until):
            if length := self.ranges[index].length:
                yield index, 0, length

    def _part(self, index: int, start: int) -> Window:
        """The next of a range's windows, which are about as large as each other."""
        left = self.ranges[index].length - start
        return Window(index, index + 1, start, -(-left // -(-left // self._window)))
