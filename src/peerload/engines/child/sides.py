"""Ends what engines with children have started, before the interpreter takes its memory apart."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import TypeVar

from peerload.engines.child.exporter import ChildExporter
from peerload.engines.child.importer import ChildImporter

__all__ = ["closed_at_exit"]

S = TypeVar("S", bound=ChildExporter | ChildImporter)

_sides: weakref.WeakSet[ChildExporter | ChildImporter] = weakref.WeakSet()


def closed_at_exit(side: S) -> S:
    """The side; it is closed when the interpreter exits, unless that has been done."""
    _sides.add(side)
    return side


def _close_all(pid: int) -> None:
    # At exit memory goes away in no particular order, while daemon threads may still be reading it: end that first. A forked
    # child has none of these threads.
    if os.getpid() == pid:
        for side in list(_sides):
            side.close()


atexit.register(_close_all, os.getpid())
