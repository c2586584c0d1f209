"""As much of torch as the stock package's transfer classes use, over numpy: for tests where torch is not installed.

Tensors are memory on the host with a dtype's name; nothing is computed with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import nn

__all__ = ["Tensor", "bfloat16", "cuda", "device", "distributed", "dtype", "empty", "float32", "nn", "uint8"]


class dtype:
    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self.itemsize = size

    def __repr__(self) -> str:
        return f"torch.{self._name}"


uint8, bfloat16, float32 = dtype("uint8", 1), dtype("bfloat16", 2), dtype("float32", 4)


class device:
    def __init__(self, kind: str = "cpu", index: int | None = None) -> None:
        self.type, _, number = str(kind).partition(":")
        self.index = int(number) if number else index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __str__(self) -> str:
        return self.type


class Tensor:
    def __init__(self, memory: Any, kind: dtype) -> None:
        self._memory = memory
        self.dtype = kind
        self.device = device()

    def numpy(self) -> Any:
        return self._memory

    def data_ptr(self) -> int:
        return int(self._memory.ctypes.data)

    def numel(self) -> int:
        return int(self._memory.nbytes) // self.dtype.itemsize

    def element_size(self) -> int:
        return self.dtype.itemsize

    def get_device(self) -> int:
        return -1

    def is_contiguous(self) -> bool:
        return True

    def narrow(self, dimension: int, start: int, length: int) -> Tensor:
        assert not dimension
        size = self.dtype.itemsize
        return Tensor(self._memory[start * size : (start + length) * size], self.dtype)


def empty(count: int, dtype: dtype = float32, device: str = "cpu") -> Tensor:
    assert device == "cpu"
    return Tensor(np.zeros(count * dtype.itemsize, dtype=np.uint8), dtype)


class _Absent:
    """Of torch's `cuda` and `distributed`: that they are not to be had."""

    Stream = Event = Tensor

    @staticmethod
    def is_available() -> bool:
        return False


cuda = distributed = _Absent()
