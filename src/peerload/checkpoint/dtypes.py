"""The element types of the safetensors format, and what torch and numpy call them.

Sizes are in bits, because the format has types below one byte; a tensor still fills whole bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from peerload.errors import InvalidArgument, MissingExtra

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DTYPES", "Dtype", "from_numpy", "from_torch", "itemsize_bits", "numpy_dtype", "numpy_name", "torch_name"]


@dataclass(frozen=True, slots=True)
class Dtype:
    """One element type: its `name` in a header, its size in bits, and its other names ("" where there is none)."""

    name: str
    bits: int
    torch: str = ""
    numpy: str = ""


DTYPES: Final[dict[str, Dtype]] = {
    dtype.name: dtype
    for dtype in (
        Dtype("BOOL", 8, "bool", "bool"),
        Dtype("F4", 4, "float4_e2m1fn_x2"),
        Dtype("F6_E2M3", 6),
        Dtype("F6_E3M2", 6),
        Dtype("U8", 8, "uint8", "uint8"),
        Dtype("I8", 8, "int8", "int8"),
        Dtype("F8_E5M2", 8, "float8_e5m2", "float8_e5m2"),
        Dtype("F8_E4M3", 8, "float8_e4m3fn", "float8_e4m3fn"),
        Dtype("F8_E8M0", 8, "float8_e8m0fnu", "float8_e8m0fnu"),
        Dtype("F8_E4M3FNUZ", 8, "float8_e4m3fnuz", "float8_e4m3fnuz"),
        Dtype("F8_E5M2FNUZ", 8, "float8_e5m2fnuz", "float8_e5m2fnuz"),
        Dtype("I16", 16, "int16", "int16"),
        Dtype("U16", 16, "uint16", "uint16"),
        Dtype("F16", 16, "float16", "float16"),
        Dtype("BF16", 16, "bfloat16", "bfloat16"),
        Dtype("I32", 32, "int32", "int32"),
        Dtype("U32", 32, "uint32", "uint32"),
        Dtype("F32", 32, "float32", "float32"),
        Dtype("C64", 64, "complex64", "complex64"),
        Dtype("F64", 64, "float64", "float64"),
        Dtype("I64", 64, "int64", "int64"),
        Dtype("U64", 64, "uint64", "uint64"),
    )
}
"""Every element type of the format, by its name in a header."""

_FOREIGN: Final = "safetensors."
_BY_TORCH: Final = {dtype.torch: dtype.name for dtype in DTYPES.values() if dtype.torch}
_BY_NUMPY: Final = {dtype.numpy: dtype.name for dtype in DTYPES.values() if dtype.numpy}


def _known(name: str) -> Dtype:
    dtype = DTYPES.get(name)
    if dtype is None:
        raise InvalidArgument("dtype", f"{name!r} is not a safetensors dtype")
    return dtype


def itemsize_bits(name: str) -> int:
    """The size of one element, in bits. Raises `InvalidArgument` for a name that the format does not have."""
    return _known(name).bits


def torch_name(name: str) -> str:
    """Torch's name with prefix, `torch.bfloat16` for "BF16".

    The two six-bit types, which torch does not have, are given as `safetensors.F6_E2M3`, so that every dtype has a
    name of its own. Raises `InvalidArgument` for a name that the format does not have.
    """
    dtype = _known(name)
    return f"torch.{dtype.torch}" if dtype.torch else _FOREIGN + dtype.name


def from_torch(name: str) -> str:
    """The safetensors name for a name that `torch_name` gives, with or without its prefix.

    Raises `InvalidArgument` for anything else.
    """
    found = _BY_TORCH.get(name.removeprefix("torch."))
    if found is None and name.startswith(_FOREIGN):
        found = name.removeprefix(_FOREIGN)
        found = found if found in DTYPES and not DTYPES[found].torch else None
    if found is None:
        raise InvalidArgument("dtype", f"{name!r} has no counterpart in the safetensors format")
    return found


def numpy_name(name: str) -> str:
    """What numpy (for bfloat16 and the eight-bit floats, the ml_dtypes package) calls it: "bfloat16" for "BF16".

    Raises `InvalidArgument` for types below one byte, which numpy cannot hold packed, and for unknown names.
    """
    dtype = _known(name)
    if not dtype.numpy:
        raise InvalidArgument("dtype", f"{name} elements are smaller than a byte: numpy cannot hold them packed")
    return dtype.numpy


def from_numpy(name: str) -> str:
    """The safetensors name for the `name` of a numpy dtype. Raises `InvalidArgument` where there is none."""
    found = _BY_NUMPY.get(name)
    if found is None:
        raise InvalidArgument("dtype", f"numpy's {name!r} has no counterpart in the safetensors format")
    return found


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype itself, from the ml_dtypes package where numpy lacks it.

    Raises `MissingExtra` if numpy, and `InvalidArgument` if ml_dtypes, is needed and not installed.
    """
    wanted = numpy_name(name)
    try:
        import numpy as np
    except ImportError:
        raise MissingExtra("reading tensors as arrays", "demo") from None
    if not wanted.startswith(("bfloat", "float8")):
        return np.dtype(wanted)
    try:
        import ml_dtypes
    except ImportError:
        raise InvalidArgument("dtype", f"numpy has no {wanted}: pip install ml-dtypes") from None
    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, wanted))
    return dtype
