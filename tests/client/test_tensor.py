"""A pulled tensor, as array libraries take it: the same memory, whatever the type."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from peerload.checkpoint.dtypes import DTYPES, torch_name
from peerload.client import Tensor
from peerload.client.giving import As
from peerload.errors import InvalidArgument, MissingExtra

NUMPY = [dtype for dtype in DTYPES.values() if dtype.numpy]
WITHOUT_ML_DTYPES = [dtype for dtype in NUMPY if not dtype.numpy.startswith(("bfloat", "float8"))]


def tensor(name: str, shape: tuple[int, ...] = (2, 3)) -> Tensor:
    size = 6 * DTYPES[name].bits // 8 if 0 not in shape else 0
    values = bytearray(value % 2 for value in range(size)) if name == "BOOL" else bytearray(range(size))
    return Tensor("w", torch_name(name), shape, memoryview(values))


@pytest.mark.parametrize("dtype", NUMPY, ids=lambda dtype: dtype.name)
def test_numpy_sees_the_same_memory(dtype: Any) -> None:
    mine = tensor(dtype.name)
    array = mine.numpy()
    assert (array.dtype.name, array.shape, array.tobytes()) == (dtype.numpy, (2, 3), bytes(mine.memory))
    mine.memory[0] = 0
    assert array.tobytes() == bytes(mine.memory)
    assert np.shares_memory(np.asarray(mine), array)
    assert tensor(dtype.name, (0, 3)).numpy().shape == (0, 3)


def test_arrays_are_copied_only_on_demand() -> None:
    mine = tensor("F32")
    assert not np.shares_memory(np.array(mine), mine.numpy())
    assert np.asarray(mine, dtype="f8").dtype == np.float64
    with pytest.raises(ValueError, match="would be a copy"):
        mine.__array__(np.dtype("f8"), copy=False)


@pytest.mark.parametrize("dtype", WITHOUT_ML_DTYPES, ids=lambda dtype: dtype.name)
def test_dlpack_by_numpy(dtype: Any) -> None:
    mine = tensor(dtype.name)
    array = np.from_dlpack(mine)
    assert (array.dtype.name, array.shape) == (dtype.numpy, (2, 3))
    assert np.shares_memory(array, mine.numpy())


def test_what_dlpack_cannot_say_is_refused() -> None:
    mine = tensor("F32")
    assert mine.__dlpack_device__() == (1, 0)
    for arguments in ({"copy": True}, {"dl_device": (2, 0)}, {"stream": 1}):
        with pytest.raises(BufferError):
            mine.__dlpack__(**arguments)  # type: ignore[arg-type]
    for name in ("F4", "F6_E2M3"):
        with pytest.raises(BufferError, match="DLPack has no"):
            Tensor("w", torch_name(name), (2,), memoryview(bytearray(2))).__dlpack__()
    with pytest.raises((BufferError, RuntimeError)):
        np.from_dlpack(tensor("BF16"))  # numpy itself has no bfloat16


@pytest.mark.parametrize("taken", [True, False])
def test_memory_is_freed_with_the_last_that_holds_it(taken: bool) -> None:
    base = np.arange(6, dtype="u1")
    gone = weakref.ref(base)
    mine = Tensor("w", "torch.uint8", (6,), memoryview(base))
    held: Any = np.from_dlpack(mine) if taken else mine.__dlpack__()
    del base, mine
    gc.collect()
    assert gone() is not None
    if taken:
        assert held.tolist() == [0, 1, 2, 3, 4, 5]
    del held
    gc.collect()
    assert gone() is None


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InvalidArgument, match="framework: torch is not installed: pip install torch"):
        As("pt")
    with pytest.raises(InvalidArgument, match="torch is not installed"):
        tensor("F32").torch()
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(InvalidArgument, match="pip install ml-dtypes"):
        tensor("BF16").numpy()
    monkeypatch.setitem(sys.modules, "numpy", None)
    for call in (lambda: As("np"), tensor("F32").numpy, tensor("F32").__dlpack__):
        with pytest.raises(MissingExtra):
            call()


def test_bfloat16_holds_what_it_should() -> None:
    values = np.arange(6).astype(ml_dtypes.bfloat16)
    mine = Tensor("w", "torch.bfloat16", (6,), memoryview(bytearray(values.tobytes())))
    assert np.array_equal(mine.numpy(), values)
