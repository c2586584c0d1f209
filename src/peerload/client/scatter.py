"""Copying a tensor's bytes to where they do not lie in the same order, or not in host memory: by the library whose it is."""

from __future__ import annotations

import math
from typing import Any, Final

from peerload.client.buffers import Memory
from peerload.client.frameworks import torch_module
from peerload.client.strides import contiguous
from peerload.errors import InvalidArgument

__all__ = ["check_scatter", "scatter"]

_INTEGERS: Final = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}
"""Types of each width, so that no bit of a NaN is changed on the way."""


def check_scatter(name: str, memory: Memory) -> None:
    """Raise `InvalidArgument` naming the tensor if `scatter` could not fill it."""
    if not hasattr(memory.owner, "data_ptr") and not hasattr(memory.owner, "__array_interface__"):
        where = "is on a device" if memory.device else "does not lie as the source has it"
        raise InvalidArgument(
            f"tensors[{name!r}]", f"{where}, and only numpy arrays and torch tensors can be filled then"
        )


def scatter(memory: Memory, arrived: memoryview, stride: tuple[int, ...]) -> None:
    """Fill a tensor, in the layout that it has, with bytes that lie with `stride` (in elements, () for C order)."""
    steps = stride or contiguous(memory.shape)
    size = memory.nbytes // max(1, math.prod(memory.shape))
    if hasattr(memory.owner, "data_ptr"):
        _to_torch(memory.owner.detach(), arrived, steps, size)
    else:
        _to_numpy(memory.owner, arrived, steps, size)


def _to_torch(tensor: Any, arrived: memoryview, steps: tuple[int, ...], size: int) -> None:
    torch = torch_module()
    if size in _INTEGERS and not tensor.is_complex():
        tensor = tensor.view(getattr(torch, _INTEGERS[size]))
    # Without gradients, and to whatever device it is on.
    with torch.no_grad():
        tensor.copy_(torch.frombuffer(arrived, dtype=tensor.dtype).as_strided(tuple(tensor.shape), steps))


def _to_numpy(array: Any, arrived: memoryview, steps: tuple[int, ...], size: int) -> None:
    import numpy as np

    words = np.dtype(f"u{size}")
    source = np.ndarray(array.shape, words, arrived, strides=[step * size for step in steps])
    array.view(words)[...] = source
