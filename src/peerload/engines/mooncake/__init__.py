"""Mooncake's TransferEngine: TCP, and RDMA where there is any; the engine of fleets that have Mooncake anyway.

Extra `peerload[mooncake]`. Its library works in supervised children (`peerload.engines.child` says why, and docs/engines.md what it
costs): one for each publication, one for each read under way.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from peerload.clock import Clock, SystemClock
from peerload.engines.child.exporter import ChildExporter
from peerload.engines.child.importer import ChildImporter
from peerload.engines.child.process import Recipe
from peerload.engines.child.sides import closed_at_exit
from peerload.engines.mooncake.library import check_installed
from peerload.engines.mooncake.settings import MooncakeSettings
from peerload.errors import InvalidArgument

__all__ = ["MooncakeEngine", "MooncakeSettings", "open_mooncake"]


class MooncakeEngine:
    """Implements `Engine`. Raises `MissingExtra` where Mooncake is not installed, `MissingLibrary` where the system lacks a
    library that it needs."""

    def __init__(self, settings: MooncakeSettings | None = None, *, clock: Clock | None = None) -> None:
        check_installed()
        self.settings = settings or MooncakeSettings()
        self._clock = clock or SystemClock()

    @property
    def name(self) -> str:
        return "mooncake"

    @property
    def registers_memory(self) -> bool:
        return True

    @property
    def reads_device_memory(self) -> bool:
        return False

    def exporter(self, host: str) -> ChildExporter:
        words = self._words(host)
        return closed_at_exit(ChildExporter(self.name, host, self._recipe(host), words, self.settings, self._clock))

    def importer(self) -> ChildImporter:
        # Nobody connects to the side that reads, so it need not be reached from elsewhere.
        words = self._words("127.0.0.1")
        return closed_at_exit(ChildImporter(self.name, self._recipe, words, self.settings, self._clock))

    def _words(self, host: str) -> dict[str, str]:
        return {"host": host, "protocol": self.settings.protocol, "device": self.settings.device}

    def _recipe(self, host: str) -> Recipe:
        return "peerload.engines.mooncake.driver", self.settings.environment()


def open_mooncake(**settings: object) -> MooncakeEngine:
    """The engine, with the fields of `MooncakeSettings` by name. Raises `InvalidArgument` for others."""
    known = {field.name for field in dataclasses.fields(MooncakeSettings)}
    for name in settings:
        if name not in known:
            raise InvalidArgument(
                name, f"is not a setting of the mooncake engine; there are {', '.join(sorted(known))}"
            )
    return MooncakeEngine(MooncakeSettings(**cast(Any, settings)))
