"""A source's own memory, where this process can map it."""

from __future__ import annotations

from collections.abc import Sequence

from peerload.client.targets import Mapped, SourceUnusable
from peerload.engines.pieces import Pieces, sizes_of

__all__ = ["mapped_regions"]


def mapped_regions(views: Sequence[memoryview]) -> Mapped:
    """The mapped regions of a publication, to be had by range."""

    sizes = sizes_of(views)
    place = views.place if isinstance(views, Pieces) else lambda region: (views[region], 0)

    def mapped(wanted: tuple[int, int, int]) -> tuple[memoryview, int]:
        region, offset, length = wanted
        if region >= len(sizes) or offset + length > sizes[region]:
            raise SourceUnusable("has items that lie in no memory that it serves")
        memory, at = place(region)
        return memory, at + offset

    return mapped
