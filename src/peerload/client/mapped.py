"""A source's own memory, where this process can map it."""

from __future__ import annotations

from collections.abc import Sequence

from peerload.client.targets import Mapped, SourceUnusable
from peerload.engines.base import Range

__all__ = ["mapped_regions"]


def mapped_regions(views: Sequence[memoryview]) -> Mapped:
    """The mapped regions of a publication, to be had by range."""

    def mapped(wanted: Range) -> memoryview:
        end = wanted.offset + wanted.length
        if wanted.region >= len(views) or end > views[wanted.region].nbytes:
            raise SourceUnusable("has items that lie in no memory that it serves")
        return views[wanted.region][wanted.offset : end]

    return mapped
