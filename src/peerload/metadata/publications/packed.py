"""A publication on its way into the store: whatever is done of it that takes the longer, the more tensors it has."""

from __future__ import annotations

from typing import NamedTuple

from peerload.metadata.publications.addresses import hosts_of
from peerload.metadata.publications.blobs import pack
from peerload.metadata.publications.publication import Publication
from peerload.metadata.records import SourceRecord

__all__ = ["Packed", "Reading"]


class Packed(NamedTuple):
    """A checked publication as the store will keep it."""

    record: SourceRecord
    blob: bytes
    hosts: tuple[tuple[str, str], ...] = ()
    """Every host that it leads its readers to, and the field that names it; where that was asked for."""


class Reading(NamedTuple):
    """How an encoded request to publish is read."""

    v1: bool
    """Whether it is `peerload.v1`'s, or else the stock one."""
    most_tensors: int
    hosts: bool

    def of(self, request: bytes) -> Packed:
        """Check and pack it; raises as `Publication.from_p2p` and `from_v1`."""
        parse = Publication.from_v1 if self.v1 else Publication.from_p2p
        publication = parse(request, most_tensors=self.most_tensors)
        hosts = tuple(hosts_of(publication.worker, publication.manifest)) if self.hosts else ()
        return Packed(publication.record, pack(publication), hosts)
