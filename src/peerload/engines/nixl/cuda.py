"""What NIXL's device memory needs of CUDA's driver, which is there wherever such memory is."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from peerload.engines.child.driver import ChildError

__all__ = ["allocation_end", "use"]


def use(device: int) -> None:
    """Make the device's CUDA context this thread's. Without one UCX finds no way but through host memory and TCP.

    Raises `ChildError`.
    """
    cuda = _driver()
    number, context = ctypes.c_int(), ctypes.c_void_p()
    status = cuda.cuInit(0)
    status = status or cuda.cuDeviceGet(ctypes.byref(number), device)
    status = status or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), number)
    status = status or cuda.cuCtxSetCurrent(context)
    if status:
        raise ChildError(f"CUDA device {device} cannot be used: the driver says {status}")


def allocation_end(address: int) -> int:
    """Where the allocation ends in which this address lies, in the context that is this thread's. Raises `ChildError`."""
    base, size = ctypes.c_uint64(), ctypes.c_size_t()
    status = _driver().cuMemGetAddressRange_v2(ctypes.byref(base), ctypes.byref(size), ctypes.c_uint64(address))
    if status:
        raise ChildError(f"CUDA knows no memory at {address:#x}: the driver says {status}")
    return base.value + size.value


@functools.cache
def _driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise ChildError(f"no CUDA driver: {error}") from None
