"""From what callers hold (arrays, tensors, buffers) to plain memory with a dtype and a shape.

Nothing is imported for it: numpy arrays and torch tensors are known by what they offer, everything else by the buffer
protocol. Nothing is copied unless the caller allows it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from peerload.checkpoint.dtypes import from_numpy, torch_name
from peerload.errors import InvalidArgument

__all__ = ["Memory", "memories", "memory_of"]

_BYTE_ORDERS: Final = "@=<"
_FORMATS: Final = {
    "?": "bool", "b": "int8", "B": "uint8", "c": "uint8", "h": "int16", "H": "uint16", "i": "int32", "I": "uint32",
    "e": "float16", "f": "float32", "d": "float64", "q": "int64", "Q": "uint64", "Zf": "complex64",
}  # fmt: skip
_LONGS: Final = {("l", 4): "int32", ("l", 8): "int64", ("L", 4): "uint32", ("L", 8): "uint64"}


@dataclass(frozen=True, slots=True)
class Memory:
    """Contiguous bytes, what they are, and whose: `key` is equal for two that are the same bytes.

    `owner` keeps the memory alive.
    """

    view: memoryview
    dtype: str
    shape: tuple[int, ...]
    key: tuple[object, int]
    owner: object


def memories(tensors: Mapping[str, Any], *, copy: bool = False, writable: bool = False) -> dict[str, Memory]:
    """`memory_of` for each of them; errors name the tensor."""
    found: dict[str, Memory] = {}
    for name, tensor in tensors.items():
        if not name:
            raise InvalidArgument("tensors", "a name is empty")
        found[name] = memory_of(name, tensor, copy=copy)
        if writable and found[name].view.readonly and found[name].view.nbytes:
            raise InvalidArgument(f"tensors[{name!r}]", "cannot be written to")
    return found


def memory_of(name: str, tensor: Any, *, copy: bool = False) -> Memory:
    """The memory of one tensor.

    A numpy array (bfloat16 and eight-bit floats of ml_dtypes included), a torch tensor in host memory, or anything with the
    buffer protocol. If it is not contiguous in C order, `copy` decides between a contiguous copy and an error.
    Raises `InvalidArgument` naming the tensor.
    """
    field = f"tensors[{name!r}]"
    if hasattr(tensor, "data_ptr") and hasattr(tensor, "element_size"):
        return _from_torch(field, tensor, copy)
    if hasattr(tensor, "__cuda_array_interface__"):
        raise InvalidArgument(field, "is in device memory; this release moves host memory")
    if hasattr(tensor, "__array_interface__") and hasattr(tensor, "dtype"):
        return _from_numpy(field, tensor, copy)
    return _from_buffer(field, tensor, copy)


def _from_torch(field: str, tensor: Any, copy: bool) -> Memory:
    device = getattr(tensor.device, "type", str(tensor.device))
    if device != "cpu":
        raise InvalidArgument(field, f"is in the memory of a {device} device; this release moves host memory")
    if not tensor.is_contiguous():
        if not copy:
            raise InvalidArgument(field, "is not contiguous; pass tensor.contiguous(), or copy=True")
        tensor = tensor.contiguous()
    dtype, shape = str(tensor.dtype), tuple(int(length) for length in tensor.shape)
    nbytes = int(tensor.numel()) * int(tensor.element_size())
    if not nbytes:
        return Memory(memoryview(b""), dtype, shape, (0, 0), tensor)
    address = int(tensor.data_ptr())
    # Torch has no buffer protocol, and through numpy bfloat16 would be lost. `owner` keeps what is at the address.
    view = memoryview((ctypes.c_char * nbytes).from_address(address)).cast("B")
    return Memory(view, dtype, shape, (address, nbytes), tensor)


def _from_numpy(field: str, array: Any, copy: bool) -> Memory:
    dtype = array.dtype
    if dtype.hasobject or getattr(dtype, "fields", None):
        raise InvalidArgument(field, f"numpy's {dtype} is not a tensor's dtype")
    if not dtype.isnative:
        raise InvalidArgument(field, "is not in this machine's byte order")
    try:
        name = torch_name(from_numpy(dtype.name))
    except InvalidArgument as error:
        raise InvalidArgument(field, f"numpy's {dtype} is not a dtype that weights have") from error
    if not array.flags.c_contiguous:
        if not copy:
            raise InvalidArgument(field, "is not contiguous; pass numpy.ascontiguousarray(array), or copy=True")
        array = array.copy(order="C")
    shape = tuple(int(length) for length in array.shape)
    if not array.nbytes:
        return Memory(memoryview(b""), name, shape, (0, 0), array)
    # As plain bytes, since the buffer protocol knows neither bfloat16 nor the eight-bit floats.
    view = memoryview(array.reshape(-1).view("uint8"))
    return Memory(view, name, shape, (int(array.__array_interface__["data"][0]), view.nbytes), array)


def _from_buffer(field: str, buffer: Any, copy: bool) -> Memory:
    try:
        view = memoryview(buffer)
    except TypeError as error:
        kind = type(buffer).__name__
        raise InvalidArgument(field, f"{kind} is neither an array, a tensor nor a buffer") from error
    order, code = (view.format[0], view.format[1:]) if view.format[:1] in _BYTE_ORDERS else ("@", view.format)
    name = _LONGS.get((code, view.itemsize)) or _FORMATS.get(code)
    if name is None or view.format[:1] in (">", "!"):
        raise InvalidArgument(field, f"a buffer of format {order}{code!r} is not a dtype that weights have")
    shape = tuple(view.shape or ()) if view.ndim else ()
    if not view.nbytes:
        return Memory(memoryview(b""), f"torch.{name}", shape, (0, 0), buffer)
    if not view.c_contiguous:
        if not copy:
            raise InvalidArgument(field, "is not contiguous; pass a contiguous one, or copy=True")
        view = memoryview(bytearray(view.tobytes()))
    view = view.cast("B")
    return Memory(view, f"torch.{name}", shape, (_address(view, buffer), view.nbytes), buffer)


def _address(view: memoryview, owner: object) -> object:
    """Where the bytes are. Of read-only memory Python does not tell; then the object stands for its memory, and two
    views of one object count as the same bytes only if they are the same object."""
    if view.readonly:
        return id(owner), "read-only"
    return ctypes.addressof(ctypes.c_char.from_buffer(view))
