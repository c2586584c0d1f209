"""NIXL's agents beyond our own: being read by peers that speak NIXL themselves, and reading from them."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from peerload.engines.agents import Exposed, PeerMemory
from peerload.engines.base import Descriptor, Publication
from peerload.engines.child.exporter import ChildExporter
from peerload.engines.child.importer import ChildImporter, ChildReader
from peerload.engines.child.service import Service
from peerload.engines.child.strangers import Holds, Stranger, StrangerReader
from peerload.engines.tcp.protocol import Endpoint
from peerload.errors import InvalidArgument, TransferFailed

__all__ = ["ExposingExporter", "NixlImporter", "agent_name"]

_NAME_FIELD: Final = b"nixlSerDes|Agent"
_NAME_LENGTH: Final = struct.Struct("<Q")
_MAX_NAME: Final = 1024


def agent_name(metadata: bytes) -> str:
    """The name of the agent whose metadata this is: its first field. Raises `TransferFailed` where it has none."""
    start = len(_NAME_FIELD) + _NAME_LENGTH.size
    if metadata[: len(_NAME_FIELD)] == _NAME_FIELD and len(metadata) > start:
        (length,) = _NAME_LENGTH.unpack_from(metadata, len(_NAME_FIELD))
        name = metadata[start : start + length] if length <= _MAX_NAME else b""
        if name and len(name) == length and name.isascii():
            return name.decode()
    raise TransferFailed("what is said to be a NIXL agent's metadata is none", retryable=False)


class ExposingExporter(ChildExporter):
    """What `AgentExporter` adds to `Exporter`."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._holds = Holds(self._clock)

    def exposed(self, publication: Publication, *, hold: float) -> Exposed:
        service = self._service(publication)
        if service is None:
            raise InvalidArgument("publication", "is not published, or not any more")
        reach = self._holds.touch(service, hold)
        return Exposed(agent_name(reach.said), reach.said, tuple(array("Q", reach.addresses)))

    def retire(self, publication: Publication, *, grace: float = 0.0) -> None:
        service = self._service(publication)
        super().retire(publication, grace=grace)
        if service is not None:
            self._holds.drop(service)

    def close(self) -> None:
        super().close()
        self._holds.close()

    def _service(self, publication: Publication) -> Service | None:
        return self._services.get(Endpoint.decode(publication.descriptor, self._engine).publication)


@dataclass(frozen=True, slots=True, repr=False)
class _Strange(Descriptor):
    """A descriptor that never leaves this process, and so can hold what it stands for."""

    stranger: Stranger


class NixlImporter(ChildImporter):
    """Implements `AgentImporter`."""

    def describe(self, agent: str, metadata: bytes, memory: Sequence[PeerMemory], *, host: str) -> Descriptor:
        name = agent_name(metadata)
        if agent and name != agent:
            text = f"the NIXL agent there is {name[:100]!r}, and not {agent[:100]!r}"
            raise TransferFailed(text, retryable=False)
        stranger = Stranger(self._engine, host, metadata, tuple(memory))
        return _Strange(self._engine, f"{name} at {host}" if host else name, b"", stranger)

    def open(self, descriptor: Descriptor) -> ChildReader:
        if not isinstance(descriptor, _Strange):
            return super().open(descriptor)
        stranger = descriptor.stranger
        host = stranger.host
        inside = self._inside(host) if self._inside else None
        reader = StrangerReader(stranger, self._recipe(host), self._nursery, self._settings, self._clock, inside)
        with self._lock:
            if self._closed:
                raise InvalidArgument("importer", "is closed")
            self._readers.add(reader)
        return reader
