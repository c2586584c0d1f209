"""The records of sources: frozen, and to and from the wire and the store in this one place."""

from __future__ import annotations

import sys
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar, cast

from peerload.errors import InvalidArgument
from peerload.metadata import members
from peerload.metadata.members import number, text
from peerload.store.base import Entry, Scalar, Value
from peerload.wire import p2p_pb2, sources_pb2, splice

__all__ = [
    "NO_POD",
    "SOURCE_PREFIX",
    "Form",
    "Mark",
    "Pod",
    "SourceKey",
    "SourceRecord",
    "Status",
    "encoded_ref_beat",
    "said_at",
    "with_said_at",
    "with_status",
]

SOURCE_PREFIX: Final = "source/"

_TOPOLOGY: Final = "topology."
_SAID_AT: Final = "said_at"
_SHARED_CHARACTERS: Final = 512


class Status(IntEnum):
    """What a worker says of itself, or the server of it; the numbers are `SourceStatus`'s."""

    UNKNOWN = 0
    INITIALIZING = 1
    READY = 2
    STALE = 3

    @classmethod
    def of(cls, number: int, field: str = "status") -> Status:
        """The status of that number. Raises `InvalidArgument`, naming `field`."""
        found = _STATUSES.get(number)
        if found is None:
            raise InvalidArgument(field, f"{number} is not a SourceStatus")
        return found


_STATUSES: Final = {int(status): status for status in Status}
_NAMED_STATUSES: Final = {status.name: status for status in Status}


class Form(IntEnum):
    """In which form a source offers weights; the numbers are `peerload.v1.Form`'s."""

    UNSPECIFIED = 0
    RUNTIME = 1
    CHECKPOINT = 2


_NAMED_FORMS: Final = {form.name: form for form in Form}


class SourceKey(NamedTuple):
    """One process of one source: the unit of every record."""

    source_id: str
    worker_rank: int
    worker_id: str

    def encode(self) -> str:
        """The key in the store; the worker id comes last because it may hold anything."""
        return f"{SOURCE_PREFIX}{self.source_id}/{self.worker_rank}/{self.worker_id}"

    @classmethod
    def decode(cls, key: str) -> SourceKey:
        """Raises ValueError for a key that is no source's."""
        prefix, _, rest = key.partition("/")
        source_id, _, rest = rest.partition("/")
        digits, _, worker_id = rest.partition("/")
        rank = members.decimal(digits, members.MAX_UINT32)
        # A rank with zeros before it would be another's.
        if prefix + "/" != SOURCE_PREFIX or not source_id or not worker_id or rank is None or str(rank) != digits:
            raise ValueError(f"{key!r} is not the key of a source")
        return cls(sys.intern(source_id), rank, worker_id)

    @staticmethod
    def prefix_of(source_id: str) -> str:
        """What the keys of one source begin with."""
        return f"{SOURCE_PREFIX}{source_id}/"


class Pod(NamedTuple):
    """Where a worker runs, as it told."""

    name: str = ""
    uid: str = ""
    namespace: str = ""


NO_POD: Final = Pod()


class Mark(NamedTuple):
    """What the reaper wrote when it declared a source stale."""

    since: int
    """When, milliseconds on the store's clock."""
    judged: int
    """The stamp of the heartbeat that it judged: a later one undoes the mark."""
    was: Status
    """The status before."""


class SourceRecord(NamedTuple):
    """One worker of one source, without its manifest.

    `status`, `updated_at`, `load` and `suspect` are as of the moment when the record was asked for; the rest is as published.
    """

    key: SourceKey
    model_name: str
    revision: str
    """Of the model; empty where the publisher gave none."""
    status: Status
    updated_at: int
    """The last heartbeat, milliseconds on the store's clock."""
    load: float | None
    """0 to 1; None: not said."""
    accelerator: str
    topology: tuple[tuple[str, str], ...]
    """Sorted by key."""
    training_step: int | None
    layout_signature: str | None
    form: Form
    content: str
    """Checkpoint form: the digest of the whole content."""
    item_count: int
    total_size: int
    """Bytes in all items."""
    engines: tuple[str, ...]
    pod: Pod
    published_at: int
    """The first publication under this key, milliseconds on the store's clock."""
    refs: tuple[str, ...] = ()
    """Branches and tags that the publisher knows the revision by."""
    part: str = ""
    """Which of the revision's files the publisher has, as it asked for them with patterns; "" for all."""
    mark: Mark | None = None
    store_revision: int = 0
    generation: int = 0
    endpoints: str = ""
    """Where its process listens for TCP connections: `HOST:PORT`, a few at most, with commas between them."""
    replica: str = ""
    """What all workers of its replica call that; empty: not said."""
    world_size: int = 0
    """How many ranks a whole replica has; 0: not known."""
    owner: str = ""
    """The principal that published it, and that alone may change it; empty: nobody was asked who they were."""
    suspect: bool = False
    """Whether it failed those who read from it: what this server was told, as of the moment when it was asked."""

    @property
    def source_id(self) -> str:
        return self.key.source_id

    @property
    def worker_id(self) -> str:
        return self.key.worker_id

    @property
    def worker_rank(self) -> int:
        return self.key.worker_rank

    @classmethod
    def from_entry(cls, entry: Entry) -> SourceRecord:
        """The record that a store's entry holds. What its members do not say counts as not given.

        Raises ValueError for an entry that is no source's.
        """
        key = SourceKey.decode(entry.key)
        value = entry.value
        since, judged = number(value, "stale.since"), number(value, "stale.judged")
        mark = None if since is None or judged is None else Mark(since, judged, _status(value, "stale.was"))
        pod = Pod(text(value, "pod.name"), text(value, "pod.uid"), text(value, "pod.namespace"))
        return cls(
            key=key,
            model_name=sys.intern(text(value, "model")),
            revision=sys.intern(text(value, "revision")),
            status=_status(value, "status"),
            updated_at=entry.beat.stamp if entry.beat else 0,
            load=entry.beat.load if entry.beat else None,
            accelerator=sys.intern(text(value, "accelerator")),
            topology=_topology(value),
            training_step=members.decimal(text(value, "training_step")),
            layout_signature=sys.intern(text(value, "layout_signature")) or None,
            form=_NAMED_FORMS.get(text(value, "form"), Form.UNSPECIFIED),
            content=sys.intern(text(value, "content")),
            item_count=number(value, "item_count") or 0,
            total_size=number(value, "total_size", members.MAX_UINT64) or 0,
            engines=_names(value, "engines", ","),
            pod=pod if any(pod) else NO_POD,
            published_at=number(value, "published_at") or 0,
            refs=_names(value, "refs", "\n"),
            part=sys.intern(text(value, "part")),
            mark=mark,
            store_revision=entry.revision,
            # Of most the same number, and then the same object.
            generation=entry.revision if entry.generation == entry.revision else entry.generation,
            endpoints=text(value, "endpoints"),
            replica=sys.intern(text(value, "replica")),
            world_size=number(value, "world_size", members.MAX_UINT32) or 0,
            owner=sys.intern(text(value, "owner")),
        )

    def to_value(self) -> dict[str, Scalar]:
        """What the store keeps beside the key and the heartbeat: small, flat, readable; empty members left out."""
        members: dict[str, Scalar] = {
            "model": self.model_name,
            "revision": self.revision,
            "status": self.status.name,
            "accelerator": self.accelerator,
            **{_TOPOLOGY + name: text for name, text in self.topology},
            # As text: 64 bits do not survive every JSON reader.
            "training_step": None if self.training_step is None else str(self.training_step),
            "layout_signature": self.layout_signature,
            "form": self.form.name if self.form else None,
            "content": self.content,
            "item_count": self.item_count,
            "total_size": self.total_size,
            "engines": ",".join(self.engines),
            "endpoints": self.endpoints,
            "replica": self.replica,
            "world_size": self.world_size or None,
            "owner": self.owner,
            "pod.name": self.pod.name,
            "pod.uid": self.pod.uid,
            "pod.namespace": self.pod.namespace,
            "published_at": self.published_at,
            # A ref has no control characters, so that they can part them.
            "refs": "\n".join(self.refs),
            "part": self.part,
        }
        if self.mark:
            members |= {"stale.since": self.mark.since, "stale.judged": self.mark.judged}
            members["stale.was"] = self.mark.was.name
        return {name: member for name, member in members.items() if member is not None and member != ""}

    def at(self, *, status: Status, updated_at: int, load: float | None, suspect: bool = False) -> SourceRecord:
        """The same record with what changes by heartbeats, and by reports, as it is now."""
        return self._replace(status=status, updated_at=updated_at, load=load, suspect=suspect)

    def to_source(self) -> sources_pb2.Source:
        """The record as `peerload.v1.Source`."""
        return sources_pb2.Source(
            source_id=self.key.source_id,
            worker_id=self.key.worker_id,
            worker_rank=self.key.worker_rank,
            model_name=self.model_name,
            revision=self.revision,
            status=cast(p2p_pb2.SourceStatus, int(self.status)),
            updated_at=self.updated_at,
            accelerator=self.accelerator,
            topology=dict(self.topology),
            source_load=self.load,
            training_step=self.training_step,
            layout_signature=self.layout_signature,
            form=cast(sources_pb2.Form, int(self.form)),
            content=self.content,
            item_count=self.item_count,
            total_size=self.total_size,
            engines=self.engines,
            pod_name=self.pod.name,
            pod_namespace=self.pod.namespace,
            published_at=self.published_at,
            suspect=self.suspect,
            replica=self.replica,
            world_size=self.world_size,
            refs=self.refs,
            part=self.part,
        )

    def to_ref(self) -> p2p_pb2.SourceInstanceRef:
        """The record as `SourceInstanceRef`."""
        return p2p_pb2.SourceInstanceRef.FromString(self.encoded_ref() + encoded_ref_beat(self.updated_at, self.load))

    def encoded_ref(self) -> bytes:
        """The part of an encoded `SourceInstanceRef` that heartbeats do not change; `encoded_ref_beat` is the rest."""
        return p2p_pb2.SourceInstanceRef(
            mx_source_id=self.key.source_id,
            worker_id=self.key.worker_id,
            model_name=self.model_name,
            worker_rank=self.key.worker_rank,
            accelerator=self.accelerator,
            training_step=self.training_step,
            layout_signature=self.layout_signature,
            topology=dict(self.topology),
        ).SerializeToString()


def encoded_ref_beat(updated_at: int, load: float | None) -> bytes:
    """What a heartbeat adds to an encoded `SourceInstanceRef`."""
    stamp = splice.varint_field(6, updated_at)
    return stamp if load is None else stamp + p2p_pb2.SourceInstanceRef(source_load=load).SerializeToString()


def said_at(value: Value) -> int:
    """When at the latest the worker said the status that a stored value has, milliseconds on the store's clock; 0: not known."""
    return number(value, _SAID_AT) or 0


def with_said_at(value: Value, at: int) -> dict[str, Scalar]:
    """A stored value whose status the worker said then."""
    return {**value, _SAID_AT: at}


def with_status(value: Value, status: Status, mark: Mark | None = None) -> dict[str, Scalar]:
    """A stored value with another status, and marked or no longer marked stale; members that we do not know stay."""
    members = {name: member for name, member in value.items() if not name.startswith("stale.")}
    members["status"] = status.name
    if mark:
        members |= {"stale.since": mark.since, "stale.judged": mark.judged, "stale.was": mark.was.name}
    return members


_Items = TypeVar("_Items", bound=tuple[object, ...])


@lru_cache(maxsize=16_384)
def _same(items: tuple[object, ...]) -> tuple[object, ...]:
    return items


def _shared(items: _Items) -> _Items:
    """One object for equal tuples: fleets repeat them, and the directory keeps a hundred thousand records.

    Only small ones: what strangers send is remembered for longer than it is needed.
    """
    return cast(_Items, _same(items)) if len(str(items)) <= _SHARED_CHARACTERS else items


def _topology(value: Value) -> tuple[tuple[str, str], ...]:
    places = [
        (sys.intern(name.removeprefix(_TOPOLOGY)), sys.intern(place))
        for name in value
        if name.startswith(_TOPOLOGY) and (place := text(value, name))
    ]
    return _shared(tuple(sorted(places))) if places else ()


def _names(value: Value, member: str, separator: str) -> tuple[str, ...]:
    said = text(value, member)
    return _shared(tuple(name for name in said.split(separator) if name)) if said else ()


def _status(value: Value, name: str) -> Status:
    return _NAMED_STATUSES.get(text(value, name), Status.UNKNOWN)
