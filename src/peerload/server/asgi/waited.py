"""Telling what has to be waited for from what is there at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

__all__ = ["Waited"]

_T = TypeVar("_T")


class Waited(Generic[_T]):
    """What is awaited, once. `on_wait` is called before the event loop is handed the first thing that it has to wait for; where
    everything is there already, never: a timer for each such call would be a third of what it costs."""

    __slots__ = ("_on_wait", "_steps")

    def __init__(self, awaitable: Awaitable[_T], on_wait: Callable[[], None]) -> None:
        self._steps = awaitable.__await__()
        self._on_wait: Callable[[], None] | None = on_wait

    def __await__(self) -> Generator[Any, Any, _T]:
        return self

    def __iter__(self) -> Generator[Any, Any, _T]:
        return self

    def __next__(self) -> Any:
        step = next(self._steps)
        if self._on_wait is not None:
            on_wait, self._on_wait = self._on_wait, None
            on_wait()
        return step

    def send(self, value: Any) -> Any:
        """As of a generator."""
        return self._steps.send(value)

    def throw(self, error: Any, value: Any = None, trace: Any = None) -> Any:
        """As of a generator; what takes no exceptions is left at the one that is thrown."""
        throw = getattr(self._steps, "throw", None)
        if throw is None:
            raise error
        return throw(error)

    def close(self) -> None:
        """As of a generator."""
        close = getattr(self._steps, "close", None)
        if close is not None:
            close()
