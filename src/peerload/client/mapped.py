"""A source's own memory, where this process can map it."""

from __future__ import annotations

from collections.abc import Sequence

from peerload.client.targets import Mapped, SourceUnusable
from peerload.engines.base import Range

__all__ = ["mapped_regions"]


def mapped_regions(views: Sequence[memoryview]) -> Mapped:
    """The mapped regions of a publication, to be had by range."""

    sizes = [view.nbytes for view in views]

    def mapped(wanted: Range) -> tuple[memoryview, int]:
        region, offset, length = wanted
        if region >= len(sizes) or offset + length > sizes[region]:
            raise SourceUnusable("has items that lie in no memory that it serves")
        return views[region], offset

    return mapped
