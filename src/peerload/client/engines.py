"""The engines of one client, each side started when it is first needed, from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from peerload.client.buffers import Memory
from peerload.engines.agents import AgentEngine, AgentExporter, AgentImporter
from peerload.engines.base import Engine, Exporter, Importer
from peerload.errors import InvalidArgument
from peerload.plugins import open_engine

__all__ = ["Engines"]


class Engines:
    """Engines in order of preference. The host under which peers reach the exporters is asked for when the first one
    starts. Raises `InvalidArgument` for engines or settings that do not exist."""

    def __init__(
        self, names: Sequence[str], settings: Mapping[str, Mapping[str, Any]], host: Callable[[], str]
    ) -> None:
        self._engines: dict[str, Engine] = {name: open_engine(name, **settings.get(name, {})) for name in names}
        self.host = host
        self._lock = threading.Lock()
        self._closed = False
        self._exporters: dict[str, Exporter] = {}
        self._importers: dict[str, Importer] = {}
        self.importers: Mapping[str, Callable[[], Importer]] = {
            name: partial(self._importer, name) for name in self._engines
        }
        """By name, in order of preference."""

    @property
    def registering(self) -> frozenset[str]:
        """The engines that pin or copy the memory they serve."""
        return frozenset(name for name, engine in self._engines.items() if engine.registers_memory)

    @property
    def of_agents(self) -> str | None:
        """The same as `agents`; None if there is none."""
        return next((name for name, engine in self._engines.items() if isinstance(engine, AgentEngine)), None)

    def agents(self) -> str:
        """The engine by which workers of the stock package read and are read. Raises `InvalidArgument` if none is in use here."""
        name = self.of_agents
        if name is None:
            in_use = ", ".join(self._engines)
            raise InvalidArgument(
                "engines", f"workers of the stock package speak NIXL alone, and in use here are {in_use}: add nixl"
            )
        return name

    def agent_importer(self) -> AgentImporter:
        """The target side of that engine. Raises `InvalidArgument` if there is none. Blocks."""
        importer = self._importer(self.agents())
        assert isinstance(importer, AgentImporter)
        return importer

    def agent_exporter(self) -> AgentExporter:
        """Its source side. Raises `InvalidArgument` if there is none. Blocks."""
        name = self.agents()
        exporter = self.exporters()[name]
        assert isinstance(exporter, AgentExporter)
        return exporter

    def check(self, memory: Mapping[str, Memory]) -> None:
        """Raise `InvalidArgument` naming the first tensor that no engine in use here can serve from where it is."""
        if not any(engine.reads_device_memory for engine in self._engines.values()):
            for name, each in memory.items():
                if each.device is not None:
                    raise InvalidArgument(
                        f"tensors[{name!r}]",
                        f"is in the memory of CUDA device {each.device.device}, which {', '.join(self._engines)} cannot "
                        f"read: pass a copy in host memory, tensor.cpu()",
                    )

    def exporters(self, *, device: bool = False) -> dict[str, Exporter]:
        """Every engine's source side; only of those that read it, if there is memory on a `device`. Blocks."""
        with self._lock:
            self._check()
            for name, engine in self._engines.items():
                if name not in self._exporters:
                    self._exporters[name] = engine.exporter(self.host())
            return {
                name: exporter
                for name, exporter in self._exporters.items()
                if not device or self._engines[name].reads_device_memory
            }

    def close(self) -> None:
        """Stop serving and reading. Blocks; closing twice is allowed."""
        with self._lock:
            self._closed = True
            sides: Collection[Exporter | Importer] = [*self._importers.values(), *self._exporters.values()]
            self._importers, self._exporters = {}, {}
        for side in sides:
            side.close()

    def _check(self) -> None:
        if self._closed:
            raise RuntimeError("this client is closed")

    def _importer(self, name: str) -> Importer:
        with self._lock:
            self._check()
            if name not in self._importers:
                self._importers[name] = self._engines[name].importer()
            return self._importers[name]
