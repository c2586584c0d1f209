"""Plain TCP: built in, between any two machines, about as fast as sockets are.

The source sends straight from published memory, the target receives straight into its destination, and the digest of
every range is computed on the way, while the bytes are in the cache. There is no encryption and no authentication of the
peer: whoever holds a descriptor may read its publication, and whoever sits on the path may read and alter the bytes.
`peerload.engines.tcp.protocol` describes the protocol.
"""

from __future__ import annotations

from peerload.clock import Clock, SystemClock
from peerload.engines.sides import closed_at_exit, named_settings
from peerload.engines.tcp.exporter import TcpExporter
from peerload.engines.tcp.importer import TcpImporter, TcpReader
from peerload.engines.tcp.settings import TcpSettings

__all__ = ["TcpEngine", "TcpExporter", "TcpImporter", "TcpReader", "TcpSettings", "open_tcp"]


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
        return closed_at_exit(TcpExporter(host, self.settings, self._clock))

    def importer(self) -> TcpImporter:
        return closed_at_exit(TcpImporter(self.settings, self._clock))


def open_tcp(**settings: object) -> TcpEngine:
    """The engine, with the fields of `TcpSettings` by name. Raises `InvalidArgument` for others."""
    return TcpEngine(named_settings(TcpSettings, "tcp", settings))
