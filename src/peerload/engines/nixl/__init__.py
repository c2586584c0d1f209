"""NIXL: RDMA where there is any, straight from process to process on one host, and TCP; the engine of most stock workers.

Extra `peerload[nixl]`. Its library works in supervised children (`peerload.engines.child` says why, and docs/engines.md what it
costs): one for each publication, one for each read under way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

from peerload.clock import Clock, SystemClock
from peerload.engines.base import DeviceMemory, Region
from peerload.engines.checks import host_views
from peerload.engines.child.process import Child, Recipe
from peerload.engines.child.service import Service
from peerload.engines.child.sides import closed_at_exit
from peerload.engines.nixl.device import DeviceServed, device_reader, device_source
from peerload.engines.nixl.library import check_installed
from peerload.engines.nixl.settings import NixlSettings
from peerload.engines.nixl.strangers import ExposingExporter, NixlImporter
from peerload.errors import InvalidArgument

__all__ = ["NixlEngine", "NixlSettings", "open_nixl"]

_DRIVER = "peerload.engines.nixl.driver"


class NixlExporter(ExposingExporter):
    """Implements `AgentExporter`: publications without device memory are served by children, others by a thread of this process."""

    def prepare(self, regions: Sequence[Region]) -> Service:
        if all(region.device is None for region in regions):
            return super().prepare(regions)
        buffers = [region.buffer for region in regions]
        views = iter(host_views([Region(each) for each in buffers if isinstance(each, memoryview)]))
        served = DeviceServed([each if isinstance(each, DeviceMemory) else next(views) for each in buffers])
        make = device_source(served.spans, self._recipe[1])
        return Service(make, served, self._settings)


class NixlEngine:
    """Implements `AgentEngine`. Raises `MissingExtra` where NIXL is not installed."""

    def __init__(self, settings: NixlSettings | None = None, *, clock: Clock | None = None) -> None:
        check_installed()
        self.settings = settings or NixlSettings()
        self._clock = clock or SystemClock()

    @property
    def name(self) -> str:
        return "nixl"

    @property
    def agent_library(self) -> str:
        return "nixl"

    @property
    def registers_memory(self) -> bool:
        return True

    @property
    def reads_device_memory(self) -> bool:
        return True

    def exporter(self, host: str) -> NixlExporter:
        return closed_at_exit(NixlExporter(self.name, host, self._recipe(host), {}, self.settings, self._clock))

    def importer(self) -> NixlImporter:
        def inside(host: str) -> Callable[[Sequence[DeviceMemory]], Child]:
            return device_reader(self.settings.environment(host))

        return closed_at_exit(NixlImporter(self.name, self._recipe, {}, self.settings, self._clock, inside))

    def _recipe(self, host: str) -> Recipe:
        return _DRIVER, self.settings.environment(host)


def open_nixl(**settings: object) -> NixlEngine:
    """The engine, with the fields of `NixlSettings` by name. Raises `InvalidArgument` for others."""
    known = {field.name for field in dataclasses.fields(NixlSettings)}
    for name in settings:
        if name not in known:
            raise InvalidArgument(name, f"is not a setting of the nixl engine; there are {', '.join(sorted(known))}")
    return NixlEngine(NixlSettings(**cast(Any, settings)))
