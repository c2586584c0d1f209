"""Accelerators' memory, by what arrays say of themselves: `__cuda_array_interface__`."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import xxhash

from peerload.checkpoint.dtypes import from_numpy, torch_name
from peerload.client.frameworks import torch_module
from peerload.client.strides import contiguous
from peerload.engines.base import DeviceMemory
from peerload.errors import InvalidArgument

__all__ = ["device_memory", "digest_device"]

_KINDS: Final = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex"}
_TYPESTR: Final = re.compile(r"[<|=]([biufc])([0-9]{1,2})")
_ROOM: Final = 2**63
_CHUNK: Final = 64 << 20
"""Bytes that are copied to host memory at a time."""


def device_memory(field: str, array: Any) -> tuple[str, tuple[int, ...], DeviceMemory]:
    """Torch's dtype name, the shape and the memory of an array that offers the CUDA array interface, version 2 or 3
    (https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html). Nothing is read from the device.

    The index of the device is what `array.device` says (`.id` or `.index` of it, or a number), else 0: the interface
    itself does not tell. Raises `InvalidArgument` naming `field` for what does not describe contiguous memory.
    """
    told = array.__cuda_array_interface__
    if not isinstance(told, Mapping) or not {"shape", "typestr", "data"} <= told.keys():
        raise InvalidArgument(field, "__cuda_array_interface__ has no shape, typestr or data")
    found = _TYPESTR.fullmatch(str(told["typestr"]))
    if found is None:
        raise InvalidArgument(field, f"typestr {told['typestr']!r} is not a dtype that weights have")
    kind, size = _KINDS[found[1]], int(found[2])
    try:
        dtype = torch_name(from_numpy(kind if kind == "bool" else f"{kind}{8 * size}"))
    except InvalidArgument as error:
        raise InvalidArgument(field, f"typestr {told['typestr']!r} is not a dtype that weights have") from error
    shape = tuple(told["shape"])
    if not all(isinstance(length, int) and 0 <= length < _ROOM for length in shape):
        raise InvalidArgument(field, f"shape {shape!r} is not one")
    if told.get("mask") is not None:
        raise InvalidArgument(field, "has a mask, which weights have not")
    strides = told.get("strides")
    usual = tuple(step * size for step in contiguous(shape))
    if strides is not None and 0 not in shape and tuple(strides) != usual:
        raise InvalidArgument(field, "is not contiguous; pass a contiguous copy")
    address, nbytes = told["data"][0], math.prod(shape) * size
    if nbytes and not (isinstance(address, int) and 0 < address < 2 * _ROOM - nbytes):
        raise InvalidArgument(field, f"{nbytes} bytes at {address!r} are not a place in memory")
    return dtype, shape, DeviceMemory(int(address or 0), nbytes, _index(array), array)


def _index(array: Any) -> int:
    device = getattr(array, "device", 0)
    for name in ("id", "index"):
        device = getattr(device, name, device) if not isinstance(device, int) else device
    return device if isinstance(device, int) else 0


def digest_device(memory: DeviceMemory) -> bytes:
    """The xxh3-128 of device memory, copied through host memory piece by piece. Torch does the copying; raises
    `InvalidArgument` where it is not installed."""
    torch = torch_module()
    words = torch.as_tensor(_Bytes(memory), device=f"cuda:{memory.device}")
    hasher = xxhash.xxh3_128()
    for at in range(0, memory.nbytes, _CHUNK):
        piece = words[at : at + _CHUNK].cpu()
        hasher.update((ctypes.c_char * piece.numel()).from_address(piece.data_ptr()))
    return hasher.digest()


class _Bytes:
    """Device memory as plain bytes, as any library takes it that knows the interface."""

    def __init__(self, memory: DeviceMemory) -> None:
        self.owner = memory.owner
        self.__cuda_array_interface__ = {
            "shape": (memory.nbytes,),
            "typestr": "|u1",
            "data": (memory.address, False),
            "version": 3,
        }
