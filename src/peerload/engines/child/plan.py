"""A read as a child does it: runs of bytes from the source's memory to a place in a memfd, cut into windows."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

from peerload.engines.base import DeviceMemory, Range
from peerload.engines.pieces import Pieces
from peerload.engines.shared import is_writable, shared_places
from peerload.errors import InvalidArgument

__all__ = ["WINDOW", "WINDOW_ROWS", "Arena", "Plan"]

WINDOW: Final = 16 * 1024 * 1024
"""Bytes that a child reads at a time: what arrives, is digested, and counts as progress together."""
WINDOW_ROWS: Final = 1024
"""Runs in one window at most."""


Run: TypeAlias = tuple[int, int, int, int, int]
"""The source's address and device, the number of the arena, the place in it, and the length."""


class Arena(NamedTuple):
    """Memory that is to be written to: a memfd, or (`fd` is -1) an accelerator's."""

    name: str
    fd: int
    nbytes: int
    address: int = 0
    device: int | None = None


class Plan:
    """Where the bytes of each range go. Raises `InvalidArgument` for destinations that are in no memfd.

    Ranges that follow each other at the source, and whose destinations do so here, are one run.
    """

    def __init__(self, ranges: Sequence[Range], views: Sequence[memoryview | DeviceMemory], regions: int) -> None:
        self._ranges = ranges
        self.regions = regions
        """How many there are at the source."""
        self.arenas: list[Arena] = []
        self._places: list[tuple[int, int]] = []
        self.on_device = False
        if isinstance(views, Pieces):
            # However many they are, their memories are few.
            lie = self._lie(views.memories)
            self._places = [
                (0, 0) if place is None else (lie[place[0]][0], lie[place[0]][1] + place[1]) for place in views.places
            ]
        else:
            for memory in views:
                if isinstance(memory, DeviceMemory):
                    self.on_device = True
                    self._places.append((len(self.arenas), 0))
                    name = f"{memory.device}:{memory.address}:{memory.nbytes}"
                    self.arenas.append(Arena(name, -1, memory.nbytes, memory.address, memory.device))
            self._places += self._lie([view for view in views if isinstance(view, memoryview)])
        self.total = sum([length for _, _, length in ranges])

    def _lie(self, views: Sequence[memoryview]) -> list[tuple[int, int]]:
        """In which arena each lies, and where in it."""
        places: list[tuple[int, int]] = []
        numbers: dict[int, int] = {}
        for index, (view, found) in enumerate(zip(views, shared_places(views), strict=True)):
            if not view.nbytes:
                places.append((0, 0))
                continue
            number = None if found is None else numbers.get(found.fd)
            if number is None:
                # Memory that was sealed is this process's own from then on, and of no use to a child.
                if found is None or not is_writable(view):
                    text = "is not memory that this engine's `allocate` returned, or it was sealed since"
                    raise InvalidArgument(f"destinations[{index}]", text)
                status = os.fstat(found.fd)
                number = numbers[found.fd] = len(self.arenas)
                self.arenas.append(Arena(f"{status.st_dev}:{status.st_ino}", found.fd, status.st_size))
            assert found is not None
            places.append((number, found.offset))
        return places

    def windows(self, addresses: Sequence[int], devices: Sequence[int], numbers: Sequence[int]) -> Windows:
        """The read from a source whose regions begin at these addresses of these devices (numbers plus 1, 0 for the host).

        `numbers` are those by which the child knows the arenas.
        """
        return Windows(self._runs(addresses, devices, numbers))

    def _runs(self, addresses: Sequence[int], devices: Sequence[int], numbers: Sequence[int]) -> Iterator[Run]:
        source = device = arena = place = length = 0
        for wanted, (arena_index, offset) in zip(self._ranges, self._places, strict=True):
            if not wanted.length:
                continue
            number = numbers[arena_index]
            at = addresses[wanted.region] + wanted.offset
            here = devices[wanted.region]
            if length and (at, here, number, offset) == (source + length, device, arena, place + length):
                length += wanted.length
                continue
            if length:
                yield source, device, arena, place, length
            source, device, arena, place, length = at, here, number, offset, wanted.length
        if length:
            yield source, device, arena, place, length


class Windows:
    """Hands out a read piece by piece, in order."""

    def __init__(self, runs: Iterator[Run]) -> None:
        self._runs = runs
        self._rest: Run | None = None

    def take(self, room: int) -> tuple[bytes, int]:
        """The next rows of at most `room` bytes together, five numbers of 64 bits each, and how many bytes they are.

        They are all from host memory, or all from devices.
        """
        room = left = min(room, WINDOW)
        rows = array("Q")
        while left and len(rows) < 5 * WINDOW_ROWS:
            run = self._rest or next(self._runs, None)
            if run is None:
                break
            source, device, arena, place, length = run
            if rows and bool(device) != bool(rows[1]):
                self._rest = run
                break
            now = min(length, left)
            rows.extend((source, device, arena, place, now))
            self._rest = (source + now, device, arena, place + now, length - now) if now < length else None
            left -= now
        return rows.tobytes(), room - left
