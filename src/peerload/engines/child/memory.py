"""Where published regions lie for a child that is to serve them: in memfds, copied into one where they are not in any."""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from peerload.engines.child.message import MAX_FDS
from peerload.engines.child.process import Child
from peerload.engines.shared import is_current, shared_places

__all__ = ["Arena", "Laid", "Place", "Reach", "elsewhere", "lay"]

_PIECE: Final = 64 * 1024 * 1024
"""Bytes copied at a time, between which other threads get their turn."""


@dataclass(slots=True)
class Arena:
    """A memfd (the descriptor is ours), its size, and the part of it that is published."""

    fd: int
    nbytes: int
    begin: int
    end: int = 0


class Place(NamedTuple):
    """A region: in which arena, and from where."""

    arena: int
    offset: int


_NOWHERE: Final = Place(0, 0)
"""Of no bytes; and until there is a copy."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How to read from whoever serves a publication: what its library says, and where each region is."""

    said: bytes
    addresses: bytes
    """64 bits each, in this machine's byte order."""
    devices: bytes
    """16 bits each: an accelerator's index plus 1, 0 for host memory."""


@dataclass(slots=True)
class Laid:
    """The regions of a publication, and the arenas that they lie in."""

    places: list[Place] = field(default_factory=list)
    arenas: list[Arena] = field(default_factory=list)

    def introduce(self, child: Child, patience: float) -> Reach:
        """Have a child serve them. Raises `TransferFailed`."""
        for at in range(0, len(self.arenas), MAX_FDS):
            some = self.arenas[at : at + MAX_FDS]
            child.ask("map", fds=[each.fd for each in some], sizes=[each.nbytes for each in some], patience=patience)
        told = child.ask("offer", spans=[[each.begin, each.end] for each in self.arenas], patience=patience)
        bases: Sequence[int] = told.words["bases"]
        addresses = array("Q", (bases[place.arena] + place.offset if bases else 0 for place in self.places))
        return Reach(told.payload, addresses.tobytes(), bytes(2 * len(self.places)))

    def close(self) -> None:
        """Let go of the memory."""
        for arena in self.arenas:
            os.close(arena.fd)
        self.arenas = []


def elsewhere(views: Sequence[memoryview]) -> int:
    """Bytes of these that are in no memfd, and would be copied."""
    places = shared_places(views)
    return sum(view.nbytes for view, place in zip(views, places, strict=True) if place is None)


def lay(views: Sequence[memoryview], name: str) -> Laid:
    """Find the regions in memfds, or copy them to one. The views are not needed any more afterwards.

    Raises OSError where there is no memory or descriptor to be had.
    """
    laid = Laid()
    numbers: dict[int, int | None] = {}
    foreign: list[int] = []
    try:
        for index, (view, found) in enumerate(zip(views, shared_places(views), strict=True)):
            number = None
            if found is not None:
                # While there are views of it, the number of a descriptor means the same memfd.
                if found.fd not in numbers:
                    numbers[found.fd] = len(laid.arenas) if is_current(view) else None
                    if numbers[found.fd] is not None:
                        size = os.fstat(found.fd).st_size
                        laid.arenas.append(Arena(os.dup(found.fd), size, found.offset))
                number = numbers[found.fd]
            if found is None or number is None:
                foreign.append(index)
                laid.places.append(_NOWHERE)
                continue
            arena = laid.arenas[number]
            arena.begin = min(arena.begin, found.offset)
            arena.end = max(arena.end, found.offset + view.nbytes)
            laid.places.append(Place(number, found.offset))
        _copy(views, foreign, laid, name)
    except OSError:
        laid.close()
        raise
    return laid


def _copy(views: Sequence[memoryview], foreign: Sequence[int], laid: Laid, name: str) -> None:
    """Copy those regions, one after the other without gaps, so that neighbours are read as one."""
    total = sum(views[index].nbytes for index in foreign)
    if not total:
        return
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    number = len(laid.arenas)
    laid.arenas.append(Arena(fd, total, 0, total))
    os.posix_fallocate(fd, 0, total)  # Where there is not so much memory, it is to be known now.
    with mmap.mmap(fd, total) as mapping, memoryview(mapping) as copy:
        at = 0
        for index in foreign:
            view = views[index]
            laid.places[index] = Place(number, at)
            for start in range(0, view.nbytes, _PIECE):
                with view[start : start + _PIECE] as piece:
                    copy[at + start : at + start + piece.nbytes] = piece
            at += view.nbytes
