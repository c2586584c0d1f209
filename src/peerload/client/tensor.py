"""One verified tensor in memory, and the ways in which array libraries take it without a copy."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from peerload.checkpoint.dtypes import from_torch, itemsize_bits, numpy_dtype
from peerload.client.frameworks import numpy_over, torch_dtype, torch_over
from peerload.errors import InvalidArgument, MissingExtra

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor as TorchTensor

__all__ = ["Tensor"]

_CPU: Final = (1, 0)
"""kDLCPU, device 0."""

_DLPACK: Final = {
    "BOOL": 6, "U8": 1, "I8": 0, "U16": 1, "I16": 0, "F16": 2, "BF16": 4, "U32": 1, "I32": 0, "F32": 2, "C64": 5,
    "U64": 1, "I64": 0, "F64": 2, "F8_E4M3": 10, "F8_E4M3FNUZ": 11, "F8_E5M2": 12, "F8_E5M2FNUZ": 13, "F8_E8M0": 14,
}  # fmt: skip
"""DLPack's type codes (DLDataTypeCode in dlpack.h, 1.1) by safetensors' names."""

_DTYPE_OFFSET: Final = 20
"""Where `dtype.code` is in a DLManagedTensor: it begins with a DLTensor, whose pointer, device (two int32) and
ndim (int32) come first."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: `dtype` is torch's name with prefix ("torch.bfloat16"), `memory` its bytes, without holes.

    `stride` says in which order the elements lie there, in elements and as they lay at the source; () is C order. Tensors that share memory at the source share it here. `numpy`, `torch`, `numpy.asarray` and `from_dlpack` give arrays
    over the same memory; it is freed when nothing refers to it any more.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    memory: memoryview
    stride: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return self.memory.nbytes

    def numpy(self) -> np.ndarray[Any, Any]:
        """The tensor as a numpy array over the same memory; bfloat16 and eight-bit floats need the ml_dtypes package.

        Raises `MissingExtra` without numpy, `InvalidArgument` for a dtype that numpy does not have.
        """
        return numpy_over(numpy_dtype(from_torch(self.dtype)), self.shape, self.stride, self.memory)

    def torch(self) -> TorchTensor:
        """The tensor as a torch tensor over the same memory.

        Raises `InvalidArgument` where torch is not installed or does not have the dtype.
        """
        return torch_over(torch_dtype(self.dtype), self.shape, self.stride, self.memory)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"{self.name!r} is {array.dtype}: as {dtype} it would be a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule over the same memory: for `torch.from_dlpack`, `jax.dlpack.from_dlpack` and others, bfloat16 and
        eight-bit floats included. numpy makes it, which itself takes back only what it has without ml_dtypes.

        Raises BufferError for another device, for a copy, and for types below one byte; `MissingExtra` without numpy.
        """
        if copy:
            raise BufferError(f"{self.name!r} is given without a copy only")
        if stream is not None or dl_device not in (None, _CPU):
            raise BufferError(f"{self.name!r} is in host memory")
        name = _known(self.dtype)
        if name not in _DLPACK:
            raise BufferError(f"DLPack has no {self.dtype}")
        try:
            import numpy as np
        except ImportError:
            raise MissingExtra("giving tensors by DLPack", "demo") from None
        bits = itemsize_bits(name)
        # numpy owns the capsule and frees it whoever lets go of it last; it does not know all types, so it is given
        # unsigned integers of the same width, and the type is written in afterwards, before anybody has seen it.
        words = np.dtype(f"u{bits // 8}")
        capsule = numpy_over(words, self.shape, self.stride, self.memory).__dlpack__()
        at = _capsule_pointer(capsule, b"dltensor") + _DTYPE_OFFSET
        ctypes.c_uint8.from_address(at).value = _DLPACK[name]
        return capsule


def _known(dtype: str) -> str:
    try:
        return from_torch(dtype)
    except InvalidArgument:
        return ""


_capsule_pointer: Final = ctypes.PYFUNCTYPE(ctypes.c_size_t, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
