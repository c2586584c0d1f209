"""How pulled tensors are given to whoever asked for them: as a framework's arrays, or as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, TypeAlias

from peerload.checkpoint.dtypes import from_torch, numpy_dtype
from peerload.client.frameworks import FRAMEWORK, TensorFramework, torch_dtype, torch_module, torch_over
from peerload.client.items import Items, Kind
from peerload.client.tensor import Tensor
from peerload.errors import InvalidArgument, MissingExtra

__all__ = ["As", "Placed"]

Placed: TypeAlias = tuple[str, Kind, memoryview, int]
"""A tensor's name and kind, in which memory it is, and from where on."""


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

    def check(self, tensors: Items) -> None:
        """Raise `InvalidArgument` naming the first tensor that the framework, as it is installed here, cannot hold."""
        if self._framework is None:
            return
        known: set[str] = set()
        for name, (_, dtype, _, _) in zip(tensors.names, tensors.kinds, strict=True):
            if dtype not in known:
                try:
                    self._dtype(dtype)
                except InvalidArgument as error:
                    text = f"{name[:200]!r} is {dtype}, which cannot be given as {self._framework!r}: {error}"
                    raise InvalidArgument(FRAMEWORK, text) from error
                known.add(dtype)

    def __call__(self, tensor: Tensor) -> Any:
        """The tensor, over the same memory."""
        if self._framework is None:
            return tensor
        return tensor.numpy() if self._framework == "np" else tensor.torch()

    def over(self, placed: Iterable[Placed]) -> dict[str, Any]:
        """Tensors by name, over the memory that they are in, without a copy."""
        if self._framework == "np":
            return self._arrays(placed)
        found: dict[str, Any] = {}
        for name, (size, dtype, shape, stride), memory, at in placed:
            view = memory[at : at + size]
            if self._framework == "pt":
                found[name] = torch_over(self._dtype(dtype), shape, stride, view)
            else:
                found[name] = Tensor(name, dtype, shape, view, stride)
        return found

    def _arrays(self, placed: Iterable[Placed]) -> dict[str, Any]:
        import numpy as np

        array, found = np.ndarray, {}
        # Neighbours are mostly of one kind.
        last: Kind | None = None
        shape: tuple[int, ...] = ()
        kind_dtype = steps = None
        for name, kind, memory, at in placed:
            if kind is not last:
                _, dtype, shape, stride = last = kind
                kind_dtype = self._dtype(dtype)
                steps = [step * kind_dtype.itemsize for step in stride] if stride else None
            found[name] = array(shape, kind_dtype, memory, at, steps)
        return found


def _numpy_dtype(name: str) -> Any:
    return numpy_dtype(from_torch(name))
