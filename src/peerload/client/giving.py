"""How pulled tensors are given to whoever asked for them: as a framework's arrays, or as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from peerload.checkpoint.dtypes import from_torch, numpy_dtype
from peerload.client.frameworks import FRAMEWORK, TensorFramework, numpy_over, torch_dtype, torch_module, torch_over
from peerload.client.manifest import Item
from peerload.client.tensor import Tensor
from peerload.errors import InvalidArgument, MissingExtra

__all__ = ["As"]


class As:
    """How tensors are given: as a framework's arrays, or as they are for None.

    Raises `InvalidArgument` for other names and where torch, `MissingExtra` where numpy is not installed.
    """

    def __init__(self, framework: TensorFramework | None) -> None:
        if framework not in (None, "np", "pt"):
            raise InvalidArgument(FRAMEWORK, f"{framework!r} is neither 'np' nor 'pt'")
        self._framework = framework
        if framework == "np":
            try:
                import numpy as np  # noqa: F401
            except ImportError:
                raise MissingExtra("giving tensors as arrays", "demo") from None
        elif framework == "pt":
            torch_module()
        # Of tens of thousands of tensors; an unknown one raises, and is not kept.
        self._dtype: Callable[[str], Any] = cache(torch_dtype if framework == "pt" else _numpy_dtype)

    def check(self, tensors: Iterable[Item]) -> None:
        """Raise `InvalidArgument` naming the first tensor that the framework, as it is installed here, cannot hold."""
        if self._framework is None:
            return
        known: set[str] = set()
        for tensor in tensors:
            if tensor.dtype not in known:
                try:
                    self._dtype(tensor.dtype)
                except InvalidArgument as error:
                    text = f"{tensor.name[:200]!r} is {tensor.dtype}, which cannot be given as {self._framework!r}: {error}"
                    raise InvalidArgument(FRAMEWORK, text) from error
                known.add(tensor.dtype)

    def __call__(self, tensor: Tensor) -> Any:
        """The tensor, over the same memory."""
        if self._framework is None:
            return tensor
        return tensor.numpy() if self._framework == "np" else tensor.torch()

    def over(self, tensor: Item, memory: memoryview, at: int) -> Any:
        """The tensor whose bytes are in that memory from `at` on, without a copy."""
        if self._framework == "np":
            return numpy_over(self._dtype(tensor.dtype), tensor.shape, tensor.stride, memory, at)
        view = memory[at : at + tensor.size]
        if self._framework == "pt":
            return torch_over(self._dtype(tensor.dtype), tensor.shape, tensor.stride, view)
        return Tensor(tensor.name, tensor.dtype, tensor.shape, view, tensor.stride)


def _numpy_dtype(name: str) -> Any:
    return numpy_dtype(from_torch(name))
