"""Which sources somebody asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from peerload.errors import InvalidArgument, MissingField
from peerload.metadata.principals import covered
from peerload.metadata.publications.decoding import decoded
from peerload.metadata.records import Form, SourceRecord, Status
from peerload.wire import p2p_pb2, sources_pb2, splice
from peerload.wire.identity import source_id

__all__ = ["Query"]

_REMEMBERED_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Query:
    """Filters; what is None lets everything through.

    With `instances` a worker id that holds several ranks is one answer (its lowest rank, or the rank asked for): it
    has a status only if all its ranks have it, and its heartbeat is the oldest among them. Without, every rank is an
    answer of its own.
    """

    source_id: str | None = None
    model_name: str | None = None
    """Exact and case-sensitive."""
    revision: str | None = None
    """The revision itself, or a branch or tag that the publisher knows it by."""
    worker_id: str | None = None
    worker_rank: int | None = None
    form: Form | None = None
    status: Status | None = None
    """READY and the others that a worker says of itself: as long as its heartbeat has not run out; then it is STALE."""
    min_training_step: int | None = None
    min_updated_at: int | None = None
    limit: int | None = None
    """At most that many, the newest first, after all filters."""
    instances: bool = False
    models: tuple[str, ...] | None = None
    """Patterns of the names of models that whoever asks may see; see `peerload.metadata.scopes`."""
    identity_model: str | None = field(default=None, compare=False, repr=False)
    """The model's name in the identity that `source_id` was made of. It selects nothing."""

    @classmethod
    def from_list_request(cls, encoded: bytes) -> Query:
        """What an encoded `ListSourcesRequest` asks for. Raises `InvalidArgument`."""
        # What strangers send is remembered only while it is small.
        return (_asked if len(encoded) <= _REMEMBERED_BYTES else _asked.__wrapped__)(encoded)

    @classmethod
    def from_selector(cls, selector: sources_pb2.Selector) -> Query:
        """What a `peerload.v1.Selector` asks for. Raises `InvalidArgument`."""
        source = selector.source_id or None
        if selector.HasField("identity"):
            if source is not None:
                raise InvalidArgument("selector.source_id", "must not be given together with selector.identity")
            if not selector.identity.model_name:
                raise MissingField("selector.identity.model_name")
            source = source_id(selector.identity)
        if selector.HasField("form") and selector.form not in Form._value2member_map_:
            raise InvalidArgument("selector.form", f"{selector.form} is not a Form")
        return cls(
            source_id=source,
            model_name=selector.model_name or None,
            revision=selector.revision if selector.HasField("revision") else None,
            worker_id=selector.worker_id or None,
            worker_rank=selector.worker_rank if selector.HasField("worker_rank") else None,
            form=Form(selector.form) if selector.HasField("form") else None,
            status=Status.of(selector.status, "selector.status") if selector.HasField("status") else None,
            identity_model=selector.identity.model_name or None,
        )

    def takes_revision(self, record: SourceRecord) -> bool:
        """Whether the record's revision is the one asked for, or known by the name that was asked for."""
        return self.revision is None or record.revision == self.revision or self.revision in record.refs

    def concerns(self, record: SourceRecord) -> bool:
        """Whether the record passes the filters that no heartbeat and no change of status can alter."""
        key = record.key
        return (
            (self.source_id is None or key.source_id == self.source_id)
            and (self.model_name is None or record.model_name == self.model_name)
            and self.takes_revision(record)
            and (self.worker_id is None or key.worker_id == self.worker_id)
            and (self.worker_rank is None or key.worker_rank == self.worker_rank)
            and (self.form is None or record.form is self.form)
            and (self.models is None or covered(self.models, record.model_name))
            and (
                self.min_training_step is None
                or (record.training_step is not None and record.training_step >= self.min_training_step)
            )
        )


@lru_cache(maxsize=1024)
def _asked(encoded: bytes) -> Query:
    """Fleets ask few questions, again and again."""
    request = decoded(p2p_pb2.ListSourcesRequest, encoded)
    source = None
    if request.identity.model_name:
        source = _source_id_of(splice.submessage(encoded, 1) or b"")
    return Query(
        source_id=source,
        model_name=request.model_name_filter if request.HasField("model_name_filter") else None,
        worker_rank=request.worker_rank_filter if request.HasField("worker_rank_filter") else None,
        status=Status.of(request.status_filter, "status_filter") if request.HasField("status_filter") else None,
        min_training_step=request.min_training_step if request.HasField("min_training_step") else None,
        min_updated_at=request.min_updated_at if request.HasField("min_updated_at") else None,
        limit=request.limit or None,
        instances=True,
        identity_model=request.identity.model_name or None,
    )


def _source_id_of(identity: bytes) -> str:
    return (_hashed if len(identity) <= _REMEMBERED_BYTES else _hashed.__wrapped__)(identity)


@lru_cache(maxsize=1024)
def _hashed(identity: bytes) -> str:
    """The same identity is in many different questions."""
    return source_id(p2p_pb2.SourceIdentity.FromString(identity))
