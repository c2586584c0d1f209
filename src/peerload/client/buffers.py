"""From what callers hold (arrays, tensors, buffers) to plain memory with a dtype, a shape and strides.

Nothing is imported for it: numpy arrays and torch tensors are known by what they offer, everything else by the buffer
protocol. Nothing is copied unless the caller allows it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from peerload.checkpoint.dtypes import from_numpy, torch_name
from peerload.client.device import device_memory
from peerload.client.strides import dense_order, normal, overlap
from peerload.engines.base import DeviceMemory
from peerload.errors import InvalidArgument

__all__ = ["Memory", "host_view", "memories", "memory_of"]

_BYTE_ORDERS: Final = "@=<"
_FORMATS: Final = {
    "?": "bool", "b": "int8", "B": "uint8", "c": "uint8", "h": "int16", "H": "uint16", "i": "int32", "I": "uint32",
    "e": "float16", "f": "float32", "d": "float64", "q": "int64", "Q": "uint64", "Zf": "complex64",
}  # fmt: skip
_LONGS: Final = {("l", 4): "int32", ("l", 8): "int64", ("L", 4): "uint32", ("L", 8): "uint64"}
_NOTHING: Final = memoryview(b"")


@dataclass(frozen=True, slots=True)
class Memory:
    """A tensor's memory, what it holds, and whose it is.

    `view` are its bytes where they lie in host memory without holes, in the order in which they lie there: `stride` (in
    elements, () for C order) says which that is. Else `view` is None, and `device` where they are if they are an
    accelerator's. `key` is equal for two that are the same bytes; `owner` is the tensor, and keeps the memory.
    """

    view: memoryview | None
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    key: tuple[object, ...]
    owner: Any
    stride: tuple[int, ...] = ()
    device: DeviceMemory | None = None

    @property
    def address(self) -> int | None:
        """Where `view` begins; None where Python does not tell, and of no bytes."""
        address = self.key[0]
        return address if isinstance(address, int) and self.view is not None and self.nbytes else None


def memories(
    tensors: Mapping[str, Any], *, copy: bool = False, filling: bool = False, writable: bool = False
) -> dict[str, Memory]:
    """`memory_of` for each of them; errors name the tensor, also one that is not `writable` and should be."""
    found: dict[str, Memory] = {}
    for name, tensor in tensors.items():
        if not name:
            raise InvalidArgument("tensors", "a name is empty")
        memory = found[name] = memory_of(name, tensor, copy=copy, filling=filling)
        if (writable or filling) and memory.nbytes and _read_only(memory):
            raise InvalidArgument(f"tensors[{name!r}]", "cannot be written to")
    return found


def memory_of(name: str, tensor: Any, *, copy: bool = False, filling: bool = False) -> Memory:
    """The memory of one tensor.

    A numpy array (bfloat16 and eight-bit floats of ml_dtypes included), a torch tensor, anything with the buffer protocol,
    or with `__cuda_array_interface__`. If there are holes in it, `copy` decides between a contiguous copy and an error;
    what is only to be filled (`filling`) may be anything that its library can copy to. Raises `InvalidArgument` naming the
    tensor.
    """
    field = f"tensors[{name!r}]"
    if hasattr(tensor, "data_ptr") and hasattr(tensor, "element_size"):
        return _from_torch(field, tensor, copy, filling)
    if hasattr(tensor, "__cuda_array_interface__"):
        dtype, shape, device = device_memory(field, tensor)
        return Memory(None, dtype, shape, device.nbytes, _device_key(device), tensor, (), device)
    if hasattr(tensor, "__array_interface__") and hasattr(tensor, "dtype"):
        return _from_numpy(field, tensor, copy, filling)
    return _from_buffer(field, tensor, copy, filling)


def host_view(address: int, nbytes: int) -> memoryview:
    """Bytes of this process's memory; whoever calls keeps what lives there."""
    return memoryview((ctypes.c_char * nbytes).from_address(address)).cast("B")


def _from_torch(field: str, tensor: Any, copy: bool, filling: bool) -> Memory:
    kind = getattr(tensor.device, "type", str(tensor.device))
    dtype, shape = str(tensor.dtype), _ints(tensor.shape)
    nbytes = int(tensor.numel()) * int(tensor.element_size())
    if kind == "meta":
        raise InvalidArgument(field, "is on the meta device, where nothing has memory")
    if not nbytes:
        return Memory(_NOTHING, dtype, shape, 0, (0, 0), tensor)
    address, stride = int(tensor.data_ptr()), _ints(tensor.stride())
    # Conjugates and negatives may be lazy: their memory then holds something else.
    lazy = any(getattr(tensor, name, bool)() for name in ("is_conj", "is_neg"))
    dense = not lazy and dense_order(shape, stride) is not None
    if not dense and filling:
        _check_apart(field, shape, stride)
        where = (address,) if kind == "cpu" else (kind, tensor.device.index, address)
        return Memory(None, dtype, shape, nbytes, (*where, shape, stride), tensor)
    if not dense:
        if not copy:
            raise InvalidArgument(
                field, "is not contiguous: there are holes in its memory; pass tensor.contiguous(), or copy=True"
            )
        if lazy:
            tensor = tensor.resolve_conj().resolve_neg()
        return _from_torch(field, tensor.contiguous(), False, False)
    stride = normal(shape, stride)
    if kind != "cpu" and filling:
        # Torch copies to wherever it is.
        return Memory(None, dtype, shape, nbytes, (kind, tensor.device.index, address, nbytes), tensor, stride)
    if kind != "cpu":
        if kind != "cuda":
            raise InvalidArgument(field, f"is in the memory of a {kind} device, which no engine here reads")
        device = DeviceMemory(address, nbytes, int(tensor.device.index or 0), tensor)
        return Memory(None, dtype, shape, nbytes, _device_key(device), tensor, stride, device)
    # Torch has no buffer protocol, and through numpy bfloat16 would be lost. `owner` keeps what is at the address.
    return Memory(host_view(address, nbytes), dtype, shape, nbytes, (address, nbytes), tensor, stride)


def _from_numpy(field: str, array: Any, copy: bool, filling: bool) -> Memory:
    dtype = array.dtype
    if dtype.hasobject or getattr(dtype, "fields", None):
        raise InvalidArgument(field, f"numpy's {dtype} is not a tensor's dtype")
    if not dtype.isnative:
        raise InvalidArgument(field, "is not in this machine's byte order")
    try:
        name = torch_name(from_numpy(dtype.name))
    except InvalidArgument as error:
        raise InvalidArgument(field, f"numpy's {dtype} is not a dtype that weights have") from error
    shape, size = _ints(array.shape), int(dtype.itemsize)
    if not array.nbytes:
        return Memory(_NOTHING, name, shape, 0, (0, 0), array)
    address, nbytes = int(array.__array_interface__["data"][0]), int(array.nbytes)
    whole = all(step % size == 0 for step in array.strides)
    stride = tuple(int(step) // size for step in array.strides)
    order = dense_order(shape, stride) if whole else None
    if order is None:
        if filling:
            _check_apart(field, shape, _ints(array.strides), size)
            return Memory(None, name, shape, nbytes, (address, shape, _ints(array.strides)), array)
        if not copy:
            raise InvalidArgument(
                field,
                "is not contiguous: there are holes in its memory; pass numpy.ascontiguousarray(array), or copy=True",
            )
        return _from_numpy(field, array.copy(order="C"), False, False)
    # As plain bytes, since the buffer protocol knows neither bfloat16 nor the eight-bit floats.
    view = memoryview(array.transpose(order).reshape(-1).view("uint8"))
    return Memory(view, name, shape, nbytes, (address, nbytes), array, normal(shape, stride))


def _from_buffer(field: str, buffer: Any, copy: bool, filling: bool) -> Memory:
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
        return Memory(_NOTHING, f"torch.{name}", shape, 0, (0, 0), buffer)
    if not view.c_contiguous:
        if not copy:
            raise InvalidArgument(field, "is not contiguous; pass a contiguous one, or copy=True")
        view = memoryview(bytearray(view.tobytes()))
    view = view.cast("B")
    return Memory(view, f"torch.{name}", shape, view.nbytes, (_address(view, buffer), view.nbytes), buffer)


def _check_apart(field: str, shape: Sequence[int], stride: Sequence[int], size: int = 1) -> None:
    if overlap(shape, stride, size):
        text = "has several elements in one place, as expanded and broadcast views do, and cannot be filled"
        raise InvalidArgument(field, text)


def _address(view: memoryview, owner: object) -> object:
    """Where the bytes are. Of read-only memory Python does not tell; then the object stands for its memory, and two
    views of one object count as the same bytes only if they are the same object."""
    if view.readonly:
        return id(owner), "read-only"
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def _device_key(device: DeviceMemory) -> tuple[object, ...]:
    return "device", device.device, device.address, device.nbytes


def _read_only(memory: Memory) -> bool:
    if memory.view is not None:
        return memory.view.readonly
    flags = getattr(memory.owner, "flags", None)  # numpy's; torch has no memory that cannot be written to
    return flags is not None and not flags.writeable


def _ints(numbers: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(number) for number in numbers)
