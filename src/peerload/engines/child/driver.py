"""What an engine gives its children to do. Everything here happens in a child, on its only thread; for device memory on a
thread of its owner's (`peerload.engines.child.inside`).

An engine's driver is a module with `preload`, `source` and `target` (`Driver`). Its library is imported in children alone: what
it prints, spawns, leaks or crashes is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

__all__ = ["ROW", "ChildError", "Driver", "SourceSide", "Span", "TargetSide"]


class ChildError(Exception):
    """What a library said no to, in one line. The child is not used again after it."""

    def __init__(self, reason: str, *, retryable: bool = True) -> None:
        super().__init__(reason)
        self.retryable = retryable


ROW: Final = ("source", "source's device", "destination", "destination's device", "bytes")
"""Addresses, and devices by their number plus 1: 0 is host memory."""


class Span(NamedTuple):
    """Memory of the process that it is in; `device` is the index of an accelerator, None for host memory."""

    address: int
    nbytes: int
    device: int | None = None


class SourceSide(Protocol):
    """Serves memory until its process is killed."""

    @property
    def writes(self) -> bool:
        """Whether the library takes only memory that it could write to. (A mapping that can be written to keeps others from
        sealing the memory.)"""
        ...

    def offer(self, places: Sequence[Span]) -> bytes:
        """Make memory readable. What a target needs to reach it: opaque to all but `TargetSide.connect`."""
        ...

    def progress(self) -> bool | None:
        """Called again and again while there are readers. Whether something was done; if not, there may be a pause of half
        a millisecond before the next call. None where the library has threads of its own for that, and nobody need call."""
        ...


class TargetSide(Protocol):
    """Reads from one source."""

    def connect(self, reach: bytes) -> None:
        """Be ready to read from the source that says it is reached so."""
        ...

    def hold(self, span: Span) -> None:
        """This memory may be read into from now on."""
        ...

    def drop(self, span: Span) -> None:
        """It will be unmapped."""
        ...

    def begin(self, rows: memoryview) -> Callable[[], None] | None:
        """Begin to copy: five numbers of 64 bits a row (`ROW`). The source's addresses are all of host memory or all of devices, and
        so are those here. The rows are gone afterwards.

        What it returns is called once, and others may be begun before: when that returns everything is in place, and nothing
        writes for this one any more. None where that is so already. Both raise `ChildError`, and may block for as long as they
        like: who does not want to wait kills the process.
        """
        ...


class Driver(Protocol):
    """The module."""

    def preload(self) -> None:
        """Import what is slow and starts no threads: children are forked after it."""
        ...

    def source(self, settings: Mapping[str, Any]) -> SourceSide: ...

    def target(self, settings: Mapping[str, Any]) -> TargetSide: ...
