"""The array libraries that tensors are given as: none of them is imported before it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from peerload.checkpoint.dtypes import from_torch, numpy_dtype
from peerload.client.manifest import Item
from peerload.errors import InvalidArgument, MissingExtra

if TYPE_CHECKING:
    from peerload.client.tensor import Tensor

__all__ = ["As", "TensorFramework", "torch_dtype", "torch_module"]

TensorFramework: TypeAlias = Literal["np", "pt"]
"""numpy arrays or torch tensors, by the short names that safetensors has for them."""

_FIELD: Final = "framework"


class As:
    """How tensors are given: as a framework's arrays, or as they are for None.

    Raises `InvalidArgument` for other names and where torch, `MissingExtra` where numpy is not installed.
    """

    def __init__(self, framework: TensorFramework | None) -> None:
        if framework not in (None, "np", "pt"):
            raise InvalidArgument(_FIELD, f"{framework!r} is neither 'np' nor 'pt'")
        self._framework = framework
        if framework == "np":
            try:
                import numpy as np  # noqa: F401
            except ImportError:
                raise MissingExtra("giving tensors as arrays", "demo") from None
        elif framework == "pt":
            torch_module()

    def check(self, tensors: Iterable[Item]) -> None:
        """Raise `InvalidArgument` naming the first tensor that the framework, as it is installed here, cannot hold."""
        if self._framework is None:
            return
        find: Callable[[str], Any] = (
            torch_dtype if self._framework == "pt" else lambda name: numpy_dtype(from_torch(name))
        )
        known: set[str] = set()
        for tensor in tensors:
            if tensor.dtype not in known:
                try:
                    find(tensor.dtype)
                except InvalidArgument as error:
                    text = f"{tensor.name[:200]!r} is {tensor.dtype}, which cannot be given as {self._framework!r}: {error}"
                    raise InvalidArgument(_FIELD, text) from error
                known.add(tensor.dtype)

    def __call__(self, tensor: Tensor) -> Any:
        """The tensor, over the same memory."""
        if self._framework is None:
            return tensor
        return tensor.numpy() if self._framework == "np" else tensor.torch()


def torch_module() -> Any:
    """Torch. Raises `InvalidArgument` where it is not installed."""
    try:
        import torch
    except ImportError:
        raise InvalidArgument(_FIELD, "torch is not installed: pip install torch") from None
    return torch


def torch_dtype(name: str) -> Any:
    """Torch's dtype of that name, with or without prefix. Raises `InvalidArgument` where this torch has none."""
    torch = torch_module()
    found = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise InvalidArgument("dtype", f"torch {torch.__version__} has no {name}")
    return found
