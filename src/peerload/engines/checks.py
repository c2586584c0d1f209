"""What every engine checks of its callers, in one place: regions at the source, ranges and destinations at the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from peerload.engines.base import DeviceMemory, Range, Region
from peerload.engines.pieces import Pieces
from peerload.errors import InvalidArgument, LimitExceeded

__all__ = ["MAX_REGIONS", "as_bytes", "check_ranges", "destination_views", "host_views"]

MAX_REGIONS: Final = 1_000_000
"""Regions in one publication at most."""


def as_bytes(view: memoryview) -> memoryview:
    """A view of the same memory as plain bytes, to be released by whoever asked for it.

    The views of zero bytes are all alike: casting some shapes that hold nothing is refused by Python.
    """
    if view.format == "B" and view.ndim == 1:
        return view[:]
    return view.cast("B") if view.nbytes else memoryview(b"")


def host_views(regions: Sequence[Region]) -> list[memoryview]:
    """The regions as bytes, for an engine that reads host memory; `InvalidArgument` for anything else."""
    if len(regions) > MAX_REGIONS:
        raise LimitExceeded("regions", f"{len(regions)} regions, the limit is {MAX_REGIONS}", limit=MAX_REGIONS)
    views = []
    for index, region in enumerate(regions):
        if isinstance(region.buffer, DeviceMemory):
            raise InvalidArgument(f"regions[{index}].device", "this engine reads host memory only")
        if not region.buffer.c_contiguous:
            raise InvalidArgument(f"regions[{index}].buffer", "the memory must be contiguous, in C order")
        views.append(region.buffer)
    return [as_bytes(view) for view in views]


def check_ranges(ranges: Sequence[Range], sizes: Sequence[int]) -> None:
    """Raise `InvalidArgument` unless every range lies within a region of those sizes."""
    count = len(sizes)
    for index, (region, offset, length) in enumerate(ranges):
        if not 0 <= region < count:
            raise InvalidArgument(f"ranges[{index}].region", f"{region} is not one of {count} regions")
        if offset < 0 or length < 0 or offset + length > sizes[region]:
            raise InvalidArgument(
                f"ranges[{index}]",
                f"{length} bytes from {offset} do not lie within a region of {sizes[region]} bytes",
            )


def destination_views(
    ranges: Sequence[Range], destinations: Sequence[memoryview | DeviceMemory]
) -> list[memoryview] | Pieces:
    """The destinations as bytes of host memory, one a range, each writable and of the range's size; else `InvalidArgument`. They are
    the caller's own to release."""
    if len(ranges) != len(destinations):
        raise InvalidArgument("destinations", f"{len(destinations)} destinations for {len(ranges)} ranges")
    if isinstance(destinations, Pieces):
        return _pieces(ranges, destinations)
    views: list[memoryview] = []
    for wanted, view in zip(ranges, destinations, strict=True):
        if view.nbytes != wanted.length:
            field = f"destinations[{len(views)}]"
            raise InvalidArgument(field, f"holds {view.nbytes} bytes, its range has {wanted.length}")
        if isinstance(view, DeviceMemory):
            raise InvalidArgument(f"destinations[{len(views)}].device", "this read can go to host memory only")
        if view.readonly or not view.c_contiguous:
            raise InvalidArgument(f"destinations[{len(views)}]", "must be writable and contiguous")
        views.append(view[:] if view.format == "B" and view.ndim == 1 else as_bytes(view))
    return views


def _pieces(ranges: Sequence[Range], destinations: Pieces) -> Pieces:
    extents = [memory.nbytes for memory in destinations.memories]
    each = zip(ranges, destinations.sizes, destinations.places, strict=True)
    for index, ((_, _, length), size, place) in enumerate(each):
        if size != length:
            raise InvalidArgument(f"destinations[{index}]", f"holds {size} bytes, its range has {length}")
        if size and (place is None or place[1] + size > extents[place[0]]):
            raise InvalidArgument(f"destinations[{index}]", "does not lie within its memory")
    if any(memory.readonly or not memory.c_contiguous for memory in destinations.memories):
        raise InvalidArgument("destinations", "must be writable and contiguous")
    return destinations.over([as_bytes(memory) for memory in destinations.memories])
