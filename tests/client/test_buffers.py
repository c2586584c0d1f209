"""What can be published: arrays, tensors and buffers, where they are."""

from __future__ import annotations

import array
import ctypes
import mmap
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from peerload.client.buffers import memories, memory_of
from peerload.engines.base import DeviceMemory
from peerload.errors import InvalidArgument


class Torch:
    """Quacks like a torch tensor in as far as it is asked."""

    def __init__(self, data: np.ndarray[Any, Any], dtype: str, device: str = "cpu", contiguous: bool = True) -> None:
        self.data, self.dtype, self.shape = data, dtype, data.shape
        self.device, self.whole = SimpleNamespace(type=device, index=1), contiguous

    def data_ptr(self) -> int:
        return int(self.data.ctypes.data)

    def element_size(self) -> int:
        return int(self.data.itemsize)

    def numel(self) -> int:
        return int(self.data.size)

    def stride(self) -> tuple[int, ...]:
        steps = tuple(step // self.data.itemsize for step in self.data.strides)
        return steps if self.whole else tuple(2 * step for step in steps)

    def contiguous(self) -> Torch:
        return Torch(self.data.copy(), self.dtype)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (np.float32, "torch.float32"),
        (np.bool_, "torch.bool"),
        (np.complex64, "torch.complex64"),
        (ml_dtypes.bfloat16, "torch.bfloat16"),
        (ml_dtypes.float8_e4m3fn, "torch.float8_e4m3fn"),
        (ml_dtypes.float8_e5m2, "torch.float8_e5m2"),
    ],
)
def test_numpy(dtype: Any, name: str) -> None:
    data = np.arange(6).astype(dtype).reshape(2, 3)
    found = memory_of("w", data)
    assert (found.dtype, found.shape, bytes(found.view)) == (name, (2, 3), data.tobytes())
    data[1, 2] = 0
    assert bytes(found.view) == data.tobytes(), "it is the same memory"


def test_scalars_empties_and_read_only_arrays() -> None:
    assert memory_of("w", np.array(1.5, "f4")).shape == ()
    empty = memory_of("w", np.zeros((0, 4), "f2"))
    assert (empty.dtype, empty.shape, empty.view.nbytes) == ("torch.float16", (0, 4), 0)
    fixed = np.arange(4.0)
    fixed.flags.writeable = False
    assert memory_of("w", fixed).view.readonly


@pytest.mark.parametrize(
    "data",
    [
        np.array([object()]),
        np.array(["text"]),
        np.zeros(2, ">f4"),
        np.zeros(2, "datetime64[s]"),
        np.zeros(2, "c16"),
        np.zeros(2, [("a", "f4")]),
    ],
)
def test_what_is_no_tensor_is_refused_by_name(data: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"^tensors\['w'\]: "):
        memory_of("w", data)


def test_what_is_not_contiguous_is_refused_or_copied() -> None:
    data = np.arange(12.0).reshape(3, 4)[:, ::2]
    view = memoryview(bytes(range(8)))[::2]
    torch = Torch(np.arange(4.0), "torch.float64", contiguous=False)
    for each in (data, view, torch):
        with pytest.raises(InvalidArgument, match=r"^tensors\['w'\]: is not contiguous.*copy=True"):
            memory_of("w", each)
    assert bytes(memory_of("w", data, copy=True).view) == data.tobytes()
    assert bytes(memory_of("w", view, copy=True).view) == view.tobytes()
    assert bytes(memory_of("w", torch, copy=True).view) == torch.data.tobytes()


@pytest.mark.parametrize(
    ("data", "name", "shape"),
    [
        (b"abc", "torch.uint8", (3,)),
        (bytearray(b"abc"), "torch.uint8", (3,)),
        (array.array("d", [1, 2]), "torch.float64", (2,)),
        (array.array("l", [1, 2]), f"torch.int{8 * array.array('l').itemsize}", (2,)),
        (memoryview(bytearray(8)).cast("f", (2, 1)), "torch.float32", (2, 1)),
        ((ctypes.c_int16 * 4)(), "torch.int16", (4,)),
        (b"", "torch.uint8", (0,)),
    ],
)
def test_buffers(data: Any, name: str, shape: tuple[int, ...]) -> None:
    found = memory_of("w", data)
    assert (found.dtype, found.shape) == (name, shape)
    assert bytes(found.view) == bytes(memoryview(data))


def test_mapped_memory() -> None:
    with mmap.mmap(-1, 4096) as mapped:
        found = memory_of("w", mapped)
        assert found.view.nbytes == 4096
        found.view.release()


def test_torch_tensors_by_their_address() -> None:
    data = np.arange(6, dtype="u2").reshape(2, 3)
    found = memory_of("w", Torch(data, "torch.bfloat16"))
    assert (found.dtype, found.shape, bytes(found.view)) == ("torch.bfloat16", (2, 3), data.tobytes())
    assert memory_of("w", Torch(np.zeros((0, 2)), "torch.float64")).view.nbytes == 0
    there = memory_of("w", Torch(data, "torch.bfloat16", device="cuda"))
    assert (there.view, there.device) == (None, DeviceMemory(data.ctypes.data, 12, 1, there.owner))
    for kind, message in (("xpu", "memory of a xpu device"), ("meta", "nothing has memory")):
        with pytest.raises(InvalidArgument, match=message):
            memory_of("w", Torch(data, "torch.bfloat16", device=kind))


def test_dense_memory_keeps_its_strides_and_holes_are_holes() -> None:
    data = np.arange(24, dtype="i2").reshape(2, 3, 4)
    for dense in (data, data.T, data.transpose(1, 0, 2), data[:, :, None].transpose(0, 3, 2, 1), data[1:].T):
        found = memory_of("w", dense)
        again = np.ndarray(dense.shape, "i2", found.view, strides=[2 * step for step in found.stride] or None)
        assert np.array_equal(again, dense)
        assert np.shares_memory(again, data)
    assert memory_of("w", data.T).stride == (1, 4, 12)
    assert memory_of("w", data[:1]).stride == memory_of("w", data[:, :1].transpose(0, 2, 1)[1:]).stride == ()
    for holes in (data[::-1], data[:, ::2], np.broadcast_to(data[:1], (5, 3, 4)), data[:, :1]):
        with pytest.raises(InvalidArgument, match="holes"):
            memory_of("w", holes)
        assert bytes(memory_of("w", holes, copy=True).view or b"") == holes.tobytes()


class OnDevice(SimpleNamespace):
    """Offers the interface with a made-up pointer, which nothing may follow."""


def told(**changes: Any) -> OnDevice:
    said = {"shape": (2, 3), "typestr": "<f2", "data": (0x7F00DEAD0000, False), "version": 3, "strides": None}
    return OnDevice(__cuda_array_interface__=said | changes, device=SimpleNamespace(id=3))


def test_the_cuda_array_interface() -> None:
    found = memory_of("w", told())
    assert (found.view, found.dtype, found.shape, found.nbytes) == (None, "torch.float16", (2, 3), 12)
    assert found.device == DeviceMemory(0x7F00DEAD0000, 12, 3, found.owner)
    assert memory_of("w", told(strides=(6, 2))).device is not None
    assert memory_of("w", told()).key == found.key
    assert memory_of("w", told(shape=(0, 3), data=(0, False))).nbytes == 0
    for changes in (
        {"typestr": ">f2"},
        {"typestr": "|V2"},
        {"typestr": "<c16"},
        {"shape": (-1,)},
        {"shape": (2**62, 2**62)},
        {"data": (0, False)},
        {"data": ("x", False)},
        {"mask": told()},
        {"strides": (2, 4)},
    ):
        with pytest.raises(InvalidArgument, match=r"^tensors\['w'\]: "):
            memory_of("w", told(**changes))


def test_what_has_no_memory_is_refused() -> None:
    for data in ("text", 1, None, [1.0], SimpleNamespace(__cuda_array_interface__={})):
        with pytest.raises(InvalidArgument, match=r"^tensors\['w'\]: "):
            memory_of("w", data)
    with pytest.raises(InvalidArgument, match="a name is empty"):
        memories({"": b"x"})
    with pytest.raises(InvalidArgument, match="cannot be written to"):
        memories({"w": b"x"}, writable=True)


def test_tied_tensors_have_one_key() -> None:
    data, text = np.arange(4.0), b"abc"
    found = memories(
        {"a": data, "b": data.view(), "c": data[:2], "d": memoryview(data), "e": data.copy(), "f": text, "g": text}
    )
    assert found["a"].key == found["b"].key == found["d"].key
    assert found["f"].key == found["g"].key
    assert len({memory.key for memory in found.values()}) == 4
