"""The array libraries that tensors are given as: none of them is imported before it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from peerload.client.strides import contiguous
from peerload.errors import InvalidArgument

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor as TorchTensor

__all__ = ["FRAMEWORK", "TensorFramework", "numpy_over", "torch_dtype", "torch_module", "torch_over"]

TensorFramework: TypeAlias = Literal["np", "pt"]
"""numpy arrays or torch tensors, by the short names that safetensors has for them."""

FRAMEWORK: Final = "framework"
"""The argument by which they are asked for."""


def numpy_over(
    dtype: np.dtype[Any], shape: Sequence[int], stride: Sequence[int], memory: memoryview
) -> np.ndarray[Any, Any]:
    """A numpy array of that shape over the memory; `stride` is in elements, () for C order."""
    import numpy as np

    steps = [step * dtype.itemsize for step in stride] if stride else None
    return np.ndarray(shape, dtype, memory, 0, steps)


def torch_over(dtype: Any, shape: Sequence[int], stride: Sequence[int], memory: memoryview) -> TorchTensor:
    """A torch tensor of that shape over the memory, all of it; `stride` as in `numpy_over`."""
    module = torch_module()
    if not memory.nbytes:
        return module.empty(shape, dtype=dtype)
    return module.frombuffer(memory, dtype=dtype).as_strided(shape, stride or contiguous(shape))


def torch_module() -> Any:
    """Torch. Raises `InvalidArgument` where it is not installed."""
    try:
        import torch
    except ImportError:
        raise InvalidArgument(FRAMEWORK, "torch is not installed: pip install torch") from None
    return torch


def torch_dtype(name: str) -> Any:
    """Torch's dtype of that name, with or without prefix. Raises `InvalidArgument` where this torch has none."""
    torch = torch_module()
    found = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise InvalidArgument("dtype", f"torch {torch.__version__} has no {name}")
    return found
