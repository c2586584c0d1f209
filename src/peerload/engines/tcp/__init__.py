"""Plain TCP: built in, between any two machines, about as fast as sockets are.

The source sends straight from published memory, the target receives straight into its destination, and the digest of
every range is computed on the way, while the bytes are in the cache. There is no encryption and no authentication of the
peer: whoever holds a descriptor may read its publication, and whoever sits on the path may read and alter the bytes.
`peerload.engines.tcp.protocol` describes the protocol.
"""

from __future__ import annotations

import atexit
import dataclasses
import os
import weakref
from typing import Any, cast

from peerload.clock import Clock, SystemClock
from peerload.engines.tcp.exporter import TcpExporter
from peerload.engines.tcp.importer import TcpImporter, TcpReader
from peerload.engines.tcp.settings import TcpSettings
from peerload.errors import InvalidArgument

__all__ = ["TcpEngine", "TcpExporter", "TcpImporter", "TcpReader", "TcpSettings", "open_tcp"]

_sides: weakref.WeakSet[TcpExporter | TcpImporter] = weakref.WeakSet()


def _close_all(pid: int) -> None:
    # At exit memory goes away in no particular order, while daemon threads may still be inside a call that reads it or,
    # worse, writes to it: end that first. A forked child has none of these threads.
    if os.getpid() == pid:
        for side in list(_sides):
            side.close()


atexit.register(_close_all, os.getpid())


class TcpEngine:
    """Implements `Engine`."""

    def __init__(self, settings: TcpSettings | None = None, *, clock: Clock | None = None) -> None:
        self.settings = settings or TcpSettings()
        self._clock = clock or SystemClock()

    @property
    def name(self) -> str:
        return "tcp"

    @property
    def registers_memory(self) -> bool:
        return False

    @property
    def reads_device_memory(self) -> bool:
        return False

    def exporter(self, host: str) -> TcpExporter:
        side = TcpExporter(host, self.settings, self._clock)
        _sides.add(side)
        return side

    def importer(self) -> TcpImporter:
        side = TcpImporter(self.settings, self._clock)
        _sides.add(side)
        return side


def open_tcp(**settings: object) -> TcpEngine:
    """The engine, with the fields of `TcpSettings` by name. Raises `InvalidArgument` for others."""
    known = {field.name for field in dataclasses.fields(TcpSettings)}
    for name in settings:
        if name not in known:
            raise InvalidArgument(name, f"is not a setting of the tcp engine; there are {', '.join(sorted(known))}")
    return TcpEngine(TcpSettings(**cast(Any, settings)))
