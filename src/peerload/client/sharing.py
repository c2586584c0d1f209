"""Weights in memory that other processes of this host can map, for those who publish them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from peerload.client.buffers import memories
from peerload.client.offering import regions_of
from peerload.client.tensor import Tensor
from peerload.engines.shared import allocate_arena
from peerload.errors import InvalidArgument, Unavailable

__all__ = ["shared_copy", "shared_memory"]

_ALIGNMENT: Final = 64


def shared_memory(nbytes: int) -> memoryview:
    """Zero-filled memory that other processes of this host can map once it is published; freed with its last reference.

    For a runtime that lays out its weights itself (`numpy.frombuffer`, `torch.frombuffer`); the engine memfd serves it without a
    copy. What is written there after it was published is no longer shared, and takes memory of its own: memory that goes on
    changing belongs elsewhere, and each version of it in a `shared_copy`. Raises `Unavailable` where there is none to be had.
    """
    if nbytes < 1:
        raise InvalidArgument("nbytes", f"{nbytes} is not a size of memory")
    try:
        return allocate_arena(nbytes, "peerload weights")
    except OSError as error:
        raise Unavailable(f"no shared memory of {nbytes:,} bytes to be had: {error}") from error


def shared_copy(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors, copied into one piece of `shared_memory`; of the kinds that they are.

    numpy arrays and torch tensors are given as such, with the same dtype, shape and strides (those with holes in their memory
    contiguous), everything else as bytes. What shares memory shares it again. Raises `InvalidArgument` naming the tensor.
    """
    found = memories(tensors, copy=True)
    regions, places = regions_of(found)
    for name, memory in found.items():
        if memory.device is not None:
            raise InvalidArgument(f"tensors[{name!r}]", "is in the memory of an accelerator")
    views = [region for region in regions if isinstance(region, memoryview)]
    starts = []
    end = 0
    for view in views:
        starts.append(end)
        end += -(-view.nbytes // _ALIGNMENT) * _ALIGNMENT
    arena = shared_memory(max(1, end))
    for start, view in zip(starts, views, strict=True):
        arena[start : start + view.nbytes] = view
    copies: dict[str, Any] = {}
    for name, memory in found.items():
        region_index, offset = places[name]
        start = starts[region_index] + offset
        view = arena[start : start + memory.nbytes]
        tensor = Tensor(name, memory.dtype, memory.shape, view, memory.stride)
        if hasattr(memory.owner, "data_ptr"):
            copies[name] = tensor.torch()
        elif hasattr(memory.owner, "__array_interface__"):
            copies[name] = tensor.numpy()
        else:
            copies[name] = view
    return copies
