"""What the engines that are chosen by name have in common: their settings by name, and sides that are closed in time."""

from __future__ import annotations

import atexit
import dataclasses
import os
import weakref
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, cast

from peerload.errors import InvalidArgument

__all__ = ["Side", "closed_at_exit", "named_settings"]


class Side(Protocol):
    """An exporter or an importer."""

    def close(self) -> None: ...


S = TypeVar("S", bound=Side)
T = TypeVar("T")

_sides: weakref.WeakSet[Side] = weakref.WeakSet()


def closed_at_exit(side: S) -> S:
    """The side; it is closed when the interpreter exits, unless that has been done."""
    _sides.add(side)
    return side


def _close_all(pid: int) -> None:
    # At exit memory goes away in no particular order, while daemon threads may still be inside a call that reads it or,
    # worse, writes to it: end that first. A forked child has none of these threads.
    if os.getpid() == pid:
        for side in list(_sides):
            side.close()


atexit.register(_close_all, os.getpid())


def named_settings(kind: type[T], engine: str, given: Mapping[str, object]) -> T:
    """The dataclass `kind` with these fields. Raises `InvalidArgument` for others, and what `kind` itself raises."""
    known = {field.name for field in dataclasses.fields(cast(Any, kind))}
    for name in given:
        if name not in known:
            raise InvalidArgument(
                name, f"is not a setting of the {engine} engine; there are {', '.join(sorted(known))}"
            )
    return kind(**cast(Any, given))
