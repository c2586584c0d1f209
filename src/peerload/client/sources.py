"""Source records as the client sees them, and how to ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self, cast

from peerload.client.identity import Identity
from peerload.metadata.records import Form, SourceKey, Status
from peerload.wire import p2p_pb2, sources_pb2

__all__ = ["Selector", "SourceChange", "SourceInfo", "SourceKey", "Status"]


_STATUSES: Final = frozenset(map(int, Status))
_FORMS: Final = frozenset(map(int, Form))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """One source record, without its manifest. Times are milliseconds since 1970 on the store's clock."""

    source_id: str
    worker_id: str
    worker_rank: int
    model: str
    revision: str
    status: Status
    updated_at: int
    age: float
    """Seconds between the last heartbeat and the answer that this record came with."""
    published_at: int
    form: Form
    content: str
    """Checkpoint form: the digest of its content. Empty otherwise."""
    item_count: int
    total_size: int
    """Bytes, as the publisher says."""
    engines: tuple[str, ...]
    accelerator: str
    topology: Mapping[str, str]
    load: float | None
    """How busy it is, 0 to 1; None: unknown."""
    training_step: int | None
    layout_signature: str | None
    pod_name: str
    pod_namespace: str
    replica: str = ""
    """What all workers of its replica call that; empty: not said."""
    world_size: int = 0
    """How many ranks a whole replica has; 0: not known."""
    suspect: bool = False
    """Those who read from it told the server that it failed, and it has not proven itself since."""
    refs: tuple[str, ...] = ()
    """Branches and tags that the source knows its revision by."""
    part: str = ""
    """Which of the revision's files the source has, as it asked for them with patterns; "" for all."""

    @property
    def key(self) -> SourceKey:
        """The record's name."""
        return SourceKey(self.source_id, self.worker_rank, self.worker_id)

    def knows(self, ref: str) -> bool:
        """Whether that branch or tag, or that very name, is the revision of these weights."""
        return self.revision == ref or ref in self.refs

    def __str__(self) -> str:
        host = self.topology.get("host", "")
        return f"worker {self.worker_id[:8]}{f' on {host}' if host else ''}"

    @classmethod
    def from_wire(cls, message: sources_pb2.Source, now: int) -> Self:
        """The record in an answer that was given at `now`."""
        status, form = int(message.status), int(message.form)
        return cls(
            source_id=message.source_id,
            worker_id=message.worker_id,
            worker_rank=message.worker_rank,
            model=message.model_name,
            revision=message.revision,
            # Numbers that a newer server may send are as good as unknown.
            status=Status(status) if status in _STATUSES else Status.UNKNOWN,
            updated_at=message.updated_at,
            age=max(0, now - message.updated_at) / 1000,
            published_at=message.published_at,
            form=Form(form) if form in _FORMS else Form.UNSPECIFIED,
            content=message.content,
            item_count=message.item_count,
            total_size=message.total_size,
            engines=tuple(message.engines),
            accelerator=message.accelerator,
            topology=dict(message.topology),
            load=message.source_load if message.HasField("source_load") else None,
            training_step=message.training_step if message.HasField("training_step") else None,
            layout_signature=message.layout_signature if message.HasField("layout_signature") else None,
            pod_name=message.pod_name,
            pod_namespace=message.pod_namespace,
            replica=message.replica,
            world_size=message.world_size,
            suspect=message.suspect,
            refs=tuple(message.refs),
            part=message.part,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Which sources; what is not given lets everything through. `identity` and `source_id` exclude each other."""

    identity: Identity | None = None
    source_id: str = ""
    model: str = ""
    revision: str | None = None
    """The revision itself, or a branch or tag that sources know it by."""
    rank: int | None = None
    form: Form | None = None
    status: Status | None = None
    worker_id: str = ""

    def to_wire(self) -> sources_pb2.Selector:
        """The message."""
        message = sources_pb2.Selector(source_id=self.source_id, model_name=self.model, worker_id=self.worker_id)
        if self.identity is not None:
            message.identity.CopyFrom(self.identity.to_wire())
        if self.revision is not None:
            message.revision = self.revision
        if self.rank is not None:
            message.worker_rank = self.rank
        if self.form is not None:
            message.form = cast(sources_pb2.Form, int(self.form))
        if self.status is not None:
            message.status = cast(p2p_pb2.SourceStatus, int(self.status))
        return message

    def __str__(self) -> str:
        """For messages to people: what is asked for, in words."""
        model = self.model or (self.identity.model if self.identity else "")
        revision = self.revision or (self.identity.revision if self.identity else "")
        words = [repr(model) if model else f"source {self.source_id}" if self.source_id else "any model"]
        if revision:
            words.append(f"revision {revision!r}")
        if self.form is not None:
            words.append(f"in {self.form.name.lower()} form")
        if self.rank is not None:
            words.append(f"rank {self.rank}")
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class SourceChange:
    """One step of a watch. If `complete`, `present` is everything: forget what was held before."""

    complete: bool
    present: tuple[SourceInfo, ...]
    """Sources that entered the selection or changed."""
    gone: tuple[SourceKey, ...]
    """Sources that left it: withdrawn, run out, reaped, or not selected any more."""
    resume_token: str

    @classmethod
    def from_wire(cls, message: sources_pb2.WatchResponse) -> Self:
        """The step in a message."""
        return cls(
            message.complete,
            tuple(SourceInfo.from_wire(source, message.now) for source in message.present),
            tuple(SourceKey(gone.source_id, gone.worker_rank, gone.worker_id) for gone in message.gone),
            message.resume_token,
        )
