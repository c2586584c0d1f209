"""A read as a child does it: runs of bytes from the source's memory to a place in a memfd, cut into windows."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from peerload.engines.base import Range
from peerload.engines.shared import shared_place
from peerload.errors import InvalidArgument

__all__ = ["WINDOW", "WINDOW_ROWS", "Arena", "Plan"]

WINDOW: Final = 16 * 1024 * 1024
"""Bytes that a child reads at a time: what arrives, is digested, and counts as progress together."""
WINDOW_ROWS: Final = 1024
"""Runs in one window at most."""


class Arena(NamedTuple):
    """A memfd that is to be written to."""

    name: str
    fd: int
    nbytes: int


class Plan:
    """Where the bytes of each range go. Raises `InvalidArgument` for destinations that are in no memfd.

    Ranges that follow each other at the source, and whose destinations do so here, are one run.
    """

    def __init__(self, ranges: Sequence[Range], views: Sequence[memoryview], regions: int) -> None:
        self._ranges = ranges
        self.regions = regions
        """How many there are at the source."""
        self.arenas: list[Arena] = []
        self._places: list[tuple[int, int]] = []
        numbers: dict[int, int] = {}
        for index, view in enumerate(views):
            if not view.nbytes:
                self._places.append((0, 0))
                continue
            found = shared_place(view)
            if found is None:
                raise InvalidArgument(f"destinations[{index}]", "is not memory that this engine's `allocate` returned")
            number = numbers.get(found.fd)
            if number is None:
                status = os.fstat(found.fd)
                number = numbers[found.fd] = len(self.arenas)
                self.arenas.append(Arena(f"{status.st_dev}:{status.st_ino}", found.fd, status.st_size))
            self._places.append((number, found.offset))
        self.total = sum(each.length for each in ranges)

    def windows(self, addresses: Sequence[int]) -> Windows:
        """The read from a source whose regions begin at these addresses."""
        return Windows(self._runs(addresses))

    def _runs(self, addresses: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
        """(the source's address, number of the arena, place in it, length), one after the other."""
        source = arena = place = length = 0
        for wanted, (number, offset) in zip(self._ranges, self._places, strict=True):
            if not wanted.length:
                continue
            at = addresses[wanted.region] + wanted.offset
            if length and at == source + length and number == arena and offset == place + length:
                length += wanted.length
                continue
            if length:
                yield source, arena, place, length
            source, arena, place, length = at, number, offset, wanted.length
        if length:
            yield source, arena, place, length


class Windows:
    """Hands out a read piece by piece, in order."""

    def __init__(self, runs: Iterator[tuple[int, int, int, int]]) -> None:
        self._runs = runs
        self._rest: tuple[int, int, int, int] | None = None

    def take(self, room: int) -> tuple[bytes, int]:
        """The next rows of at most `room` bytes together, four numbers of 64 bits each, and how many bytes they are."""
        room = left = min(room, WINDOW)
        rows = array("Q")
        while left and len(rows) < 4 * WINDOW_ROWS:
            run = self._rest or next(self._runs, None)
            if run is None:
                break
            source, arena, place, length = run
            now = min(length, left)
            rows.extend((source, arena, place, now))
            self._rest = (source + now, arena, place + now, length - now) if now < length else None
            left -= now
        return rows.tobytes(), room - left
