"""Telling calls that have to wait for something from those that are answered at once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

__all__ = ["Waited"]

_T = TypeVar("_T")


class Waited(Generic[_T]):
    """A coroutine, to be awaited once. `on_wait` is called before the event loop is handed the first thing that has to be waited
    for; where everything is there already, never: a timer for each such call would be a third of what it costs."""

    __slots__ = ("_coroutine", "_on_wait")

    def __init__(self, coroutine: Coroutine[Any, Any, _T], on_wait: Callable[[], None]) -> None:
        self._coroutine = coroutine
        self._on_wait: Callable[[], None] | None = on_wait

    def __await__(self) -> Generator[Any, Any, _T]:
        return self

    def __iter__(self) -> Generator[Any, Any, _T]:
        return self

    def __next__(self) -> Any:
        step = self._coroutine.send(None)
        if self._on_wait is not None:
            on_wait, self._on_wait = self._on_wait, None
            on_wait()
        return step

    def send(self, value: Any) -> Any:
        """As of a generator."""
        return self._coroutine.send(value)

    def throw(self, error: Any, value: Any = None, trace: Any = None) -> Any:
        """As of a generator."""
        try:
            return self._coroutine.throw(error)
        finally:
            # It may come back, knowing this frame: what the call holds would stay until the garbage collector comes.
            del error, value, trace

    def close(self) -> None:
        """As of a generator."""
        self._coroutine.close()
