"""What was asked, by whichever call: what tells two questions apart, and what may be kept of one."""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from peerload.metadata.query import Query
from peerload.server.diagnosis.compare import shown_field, shown_parameters
from peerload.server.diagnosis.finding import IDENTITY_FIELDS
from peerload.server.diagnosis.shown import kept
from peerload.wire.p2p_pb2 import ListSourcesRequest, SourceIdentity
from peerload.wire.sources_pb2 import ListRequest, WatchRequest

__all__ = ["Asked", "Call", "Question", "moment", "name_digest"]

_MOST_PARAMETERS: Final = 32
"""Extra parameters that are kept of a question."""


class Call(enum.Enum):
    """The calls that list sources."""

    LIST_SOURCES = "ListSources"
    LIST = "List"
    WATCH = "Watch"

    def identity(self, request: bytes) -> SourceIdentity | None:
        """The identity that a request of this call asks for. None: it asks otherwise."""
        try:
            match self:
                case Call.LIST_SOURCES:
                    identity = ListSourcesRequest.FromString(request).identity
                case Call.LIST:
                    identity = ListRequest.FromString(request).selector.identity
                case Call.WATCH:
                    identity = WatchRequest.FromString(request).selector.identity
        except DecodeError:
            return None
        # Without a model's name an identity selects nothing.
        return identity if identity.model_name else None


class Asked(NamedTuple):
    """One thing that was asked for, fit to be kept."""

    field: str
    key: str
    """Of extra_parameters: which."""
    value: str


@dataclass(frozen=True, slots=True)
class Question:
    """What a list asked for. With an identity, `query.source_id` is its hash."""

    query: Query
    identity: SourceIdentity | None = None

    @property
    def model(self) -> str:
        """The model's name as it was asked for, whole; empty where none was."""
        return self.identity.model_name if self.identity is not None else self.query.model_name or ""

    @staticmethod
    def same(query: Query) -> Query:
        """Equal for questions that are one question, asked again: 'heard of since a minute ago' is another moment
        each time, and no limit makes a list empty."""
        if query.limit is None and query.min_updated_at is None:
            return query
        return replace(query, limit=None, min_updated_at=None if query.min_updated_at is None else 0)

    @property
    def digest(self) -> bytes:
        """`same`, in few bytes."""
        return hashlib.blake2b(repr(self.same(self.query)).encode(errors="replace"), digest_size=16).digest()

    def asked(self) -> tuple[Asked, ...]:
        """Everything that was asked for, the identity's fields first; what an identity leaves empty is left out."""
        found: list[Asked] = []
        if self.identity is not None:
            given = (field for field in IDENTITY_FIELDS[:-1] if getattr(self.identity, field))
            found += [Asked(field, "", shown_field(self.identity, field) or "") for field in given]
            parameters = self.identity.extra_parameters
            found += [Asked("extra_parameters", *each) for each in shown_parameters(parameters, _MOST_PARAMETERS)]
            if len(parameters) > _MOST_PARAMETERS:
                found.append(Asked("extra_parameters", "", f"… ({len(parameters) - _MOST_PARAMETERS:,} more)"))
        return (*found, *(Asked(field, "", value) for field, value in self._filters()))

    def _filters(self) -> list[tuple[str, str]]:
        query = self.query
        filters = {
            "source_id": query.source_id if self.identity is None else None,
            "model_name_filter" if self.identity is not None else "model_name": query.model_name,
            "revision": query.revision,
            "form": query.form and query.form.name,
            "worker_id": query.worker_id,
            "worker_rank": query.worker_rank,
            "status": None if query.status is None else query.status.name,
            "min_training_step": query.min_training_step,
            "min_updated_at": None if query.min_updated_at is None else moment(query.min_updated_at),
        }
        return [(name, kept(str(value))) for name, value in filters.items() if value is not None]


def moment(milliseconds: int) -> str:
    """A stamp as people read it; the number where it is none of this era."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return str(milliseconds)


def name_digest(name: str) -> bytes:
    """A model's name or a source id without regard to case, in few bytes: long names need not be kept to be found."""
    return hashlib.blake2b(name.lower().encode(errors="replace"), digest_size=16).digest()
