"""A source's own memory, where this process can map it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from peerload.client.targets import Mapped, SourceUnusable
from peerload.engines.pieces import Pieces, sizes_of

__all__ = ["mapped_regions"]

_NOTHING: Final = memoryview(bytearray())


def mapped_regions(views: Sequence[memoryview]) -> Mapped:
    """The mapped regions of a publication, to be had by range."""

    pieces = (
        views
        if isinstance(views, Pieces)
        else Pieces(views, [(number, 0) for number in range(len(views))], sizes_of(views))
    )
    memories, places, sizes = pieces.memories, pieces.places, pieces.sizes
    count = len(sizes)

    def mapped(wanted: tuple[int, int, int]) -> tuple[memoryview, int]:
        region, offset, length = wanted
        if region >= count or offset + length > sizes[region]:
            raise SourceUnusable("has items that lie in no memory that it serves")
        place = places[region]
        return (_NOTHING, 0) if place is None else (memories[place[0]], place[1] + offset)

    return mapped
