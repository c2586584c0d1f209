"""Mapped memory: source and target on one host have the same pages.

The source's weights lie in memfds, which it seals: nobody can change them from then on, itself included (what it writes to its memory
later becomes its own, page by page). A target asks for their descriptors over a unix socket and maps them; what it writes becomes
its own likewise. So nothing is copied, however many processes have the weights, and what was verified once stays right
whatever becomes of the source.

A target that has memory of its own to fill copies from there, without a socket in between. Files that the source has mapped
read-only are served too, and only copied from: they can be changed and truncated by whoever may write to them, and a mapping
would be no better than the worst of those. Memory that has no descriptor is refused, unless it is a little beside the rest.
"""

from __future__ import annotations

import atexit
import dataclasses
import os
import weakref
from typing import Any, cast

from peerload.clock import Clock, SystemClock
from peerload.engines.memfd.exporter import MemfdExporter
from peerload.engines.memfd.importer import MemfdImporter, MemfdReader
from peerload.engines.memfd.settings import MemfdSettings
from peerload.errors import InvalidArgument

__all__ = ["MemfdEngine", "MemfdExporter", "MemfdImporter", "MemfdReader", "MemfdSettings", "open_memfd"]

_sides: weakref.WeakSet[MemfdExporter | MemfdImporter] = weakref.WeakSet()


def _close_all(pid: int) -> None:
    # For the reason that `peerload.engines.tcp` gives.
    if os.getpid() == pid:
        for side in list(_sides):
            side.close()


atexit.register(_close_all, os.getpid())


class MemfdEngine:
    """Implements `Engine`."""

    def __init__(self, settings: MemfdSettings | None = None, *, clock: Clock | None = None) -> None:
        self.settings = settings or MemfdSettings()
        self._clock = clock or SystemClock()

    @property
    def name(self) -> str:
        return "memfd"

    @property
    def registers_memory(self) -> bool:
        return False

    @property
    def reads_device_memory(self) -> bool:
        return False

    def exporter(self, host: str) -> MemfdExporter:
        side = MemfdExporter(host, self.settings, self._clock)
        _sides.add(side)
        return side

    def importer(self) -> MemfdImporter:
        side = MemfdImporter(self.settings, self._clock)
        _sides.add(side)
        return side


def open_memfd(**settings: object) -> MemfdEngine:
    """The engine, with the fields of `MemfdSettings` by name. Raises `InvalidArgument` for others."""
    known = {field.name for field in dataclasses.fields(MemfdSettings)}
    for name in settings:
        if name not in known:
            raise InvalidArgument(name, f"is not a setting of the memfd engine; there are {', '.join(sorted(known))}")
    return MemfdEngine(MemfdSettings(**cast(Any, settings)))
