"""From tensors in this process's memory to what is published: regions that engines serve, and items that lie in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from peerload.checkpoint import Progress
from peerload.client.buffers import Memory, host_view, memories
from peerload.client.device import digest_device
from peerload.client.digests import digest_all
from peerload.client.identity import Identity
from peerload.client.manifest import Item, Manifest
from peerload.client.source import Offer
from peerload.engines.base import DeviceMemory
from peerload.errors import InvalidArgument
from peerload.metadata.records import Form

__all__ = ["offer_tensors", "regions_of"]

_Place: TypeAlias = tuple[int, int]
"""A region, and an offset in it."""


def offer_tensors(
    tensors: Mapping[str, Any],
    identity: Identity,
    rank: int,
    *,
    copy: bool,
    digests: bool | None,
    check: Callable[[Mapping[str, Memory]], None],
    progress: Progress,
) -> Offer:
    """What is to be published of the tensors. `check` may refuse where they are. `digests` None: of host memory."""
    if not tensors:
        raise InvalidArgument("tensors", "there is none")
    found = memories(tensors, copy=copy)
    check(found)
    regions, places = regions_of(found)
    known = _digests(found, places, digests, progress)
    items = tuple(
        Item(
            name,
            memory.nbytes,
            memory.dtype,
            memory.shape,
            known.get((places[name], memory.nbytes), b""),
            *places[name],
            stride=memory.stride,
            device=None if memory.device is None else memory.device.device,
        )
        for name, memory in found.items()
    )
    return Offer(identity.to_wire(), rank, Manifest(Form.RUNTIME, items, ()), regions, owner=found)


def regions_of(found: Mapping[str, Memory]) -> tuple[list[memoryview | DeviceMemory], dict[str, _Place]]:
    """The distinct memory of tensors, and where in it each is.

    Tensors that are the same bytes share them, and what overlaps (views of one storage) is one region: engines register
    memory once, and some refuse to do it twice.
    """
    wholes = _merged(found.values())
    regions: list[memoryview | DeviceMemory] = []
    index: dict[object, int] = {}
    places: dict[str, _Place] = {}
    for name, memory in found.items():
        offset = 0
        key: object = memory.key
        region = memory.device if memory.device is not None else memory.view
        assert region is not None
        if memory.address is not None:
            start, end = key = wholes[memory.address, memory.nbytes]
            offset = memory.address - start
            if end - start != memory.nbytes:
                region = host_view(start, end - start).toreadonly()
        if key not in index:
            index[key] = len(regions)
            regions.append(region)
        places[name] = index[key], offset
    return regions, places


def _merged(found: Iterable[Memory]) -> dict[tuple[int, int], tuple[int, int]]:
    """For each extent in host memory (address and bytes) the run of overlapping ones that it is in: start and end."""
    extents = sorted({(memory.address, memory.nbytes) for memory in found if memory.address is not None})
    runs: list[tuple[int, int]] = []
    of: dict[tuple[int, int], int] = {}
    for address, nbytes in extents:
        if runs and address < runs[-1][1]:
            runs[-1] = runs[-1][0], max(runs[-1][1], address + nbytes)
        else:
            runs.append((address, address + nbytes))
        of[address, nbytes] = len(runs) - 1
    return {extent: runs[run] for extent, run in of.items()}


def _digests(
    found: Mapping[str, Memory], places: Mapping[str, _Place], wanted: bool | None, progress: Progress
) -> dict[tuple[_Place, int], bytes]:
    """The digests by place and size: each distinct run of bytes is read once."""
    if wanted is False:
        return {}
    distinct = {(places[name], memory.nbytes): memory for name, memory in found.items()}
    host = {key: memory.view for key, memory in distinct.items() if memory.view is not None}
    known = dict(zip(host, digest_all(list(host.values()), progress), strict=True))
    for key, memory in distinct.items():
        if wanted and memory.device is not None:
            known[key] = digest_device(memory.device)
    return known
