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

from peerload.clock import Clock, SystemClock
from peerload.engines.memfd.exporter import MemfdExporter
from peerload.engines.memfd.importer import MemfdImporter, MemfdReader
from peerload.engines.memfd.settings import MemfdSettings
from peerload.engines.sides import closed_at_exit, named_settings

__all__ = ["MemfdEngine", "MemfdExporter", "MemfdImporter", "MemfdReader", "MemfdSettings", "open_memfd"]


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
        return closed_at_exit(MemfdExporter(host, self.settings, self._clock))

    def importer(self) -> MemfdImporter:
        return closed_at_exit(MemfdImporter(self.settings, self._clock))


def open_memfd(**settings: object) -> MemfdEngine:
    """The engine, with the fields of `MemfdSettings` by name. Raises `InvalidArgument` for others."""
    return MemfdEngine(named_settings(MemfdSettings, "memfd", settings))
