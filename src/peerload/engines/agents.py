"""What an engine offers besides, where peers of another package speak to its library itself: NIXL's agents.

The engine contract hides how a publication is reached; these peers address memory by what the library calls it: an agent, told
of by a blob of metadata, and addresses in the process that the agent belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

from peerload.engines.base import Descriptor, Engine, Exporter, Importer, Publication

__all__ = ["ADDRESS_SPACE", "AgentEngine", "AgentExporter", "AgentImporter", "Exposed", "PeerMemory"]


@dataclass(frozen=True, slots=True)
class PeerMemory:
    """`nbytes` from `address` in a peer's process; of the accelerator with index `device`, or host memory for None."""

    address: int
    nbytes: int
    device: int | None = None


ADDRESS_SPACE: Final = PeerMemory(0, 2**63 - 1)
"""All of a peer's host memory, for who is told what to read one address at a time: offsets in it are addresses."""


@dataclass(frozen=True, slots=True)
class Exposed:
    """How an agent's peers reach a publication: its name, its metadata, and where each region begins, in order.

    Whoever holds the metadata may read: it is a capability, and never logged.
    """

    agent: str
    metadata: bytes = field(repr=False)
    addresses: tuple[int, ...] = field(repr=False)


@runtime_checkable
class AgentExporter(Exporter, Protocol):
    """A source side whose publications are memory of an agent."""

    def exposed(self, publication: Publication, *, hold: float) -> Exposed:
        """How to reach it now; it can be read for `hold` seconds from here, whoever reads. Where what serves it had to be started
        anew, agent, metadata and addresses are others than before. May block for as long as that takes.

        Raises `InvalidArgument` for what is published no more, `TransferFailed` while nothing serves it.
        """
        ...


@runtime_checkable
class AgentImporter(Importer, Protocol):
    """A target side that reads from agents of others too."""

    def describe(self, agent: str, metadata: bytes, memory: Sequence[PeerMemory], *, host: str) -> Descriptor:
        """A descriptor of memory that another package's agent registered, for `open`; each of `memory` is a region of it.

        `host` is where the agent runs, "" where that is not known. Raises `TransferFailed` for metadata that is none, or another
        agent's than that of this name (any, for ""). Reads fail for what is not memory that the agent registered. The descriptor is
        for this process alone.
        """
        ...


@runtime_checkable
class AgentEngine(Engine, Protocol):
    """An engine both of whose sides are of agents."""

    @property
    def agent_library(self) -> str:
        """What the agents are of: `nixl`."""
        ...

    def exporter(self, host: str) -> AgentExporter: ...

    def importer(self) -> AgentImporter: ...
