"""What an entry looks like as an object of the API server's, and how it is read back.

    metadata.name, labels     names.py
    key                       the entry's key, as it is
    value                     its value; `exact` holds it as JSON text where Kubernetes would give back something else
    model, rank, status, accelerator      copies for the columns of `kubectl get`
    beat                      the last heartbeat that was written here; a later one may be among the shared ones
    blob                      its size, and all of it, or which ConfigMaps hold it (blobs.py)
    revision                  only where the object was written again without changing the entry
    generation                only where it is not the revision
    write                     which write the entry is from, so that a writer who lost the answer knows it again
    mark                      a server is about to delete the entry unless it is beaten (writes.py)

An object's resourceVersion is the entry's revision where nothing else is said. The API server counts anew when its data
is lost, so revisions in Peerload are these numbers from a `base` on, which is a later time for each beginning (layout.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from peerload.errors import Damaged
from peerload.store.base import Beat, Entry, Value
from peerload.store.kubernetes.names import (
    API_VERSION,
    KIND,
    LABELS,
    Type,
    entry_name,
    label_path,
    label_text,
    type_of,
)
from peerload.store.values import decode_beat, decode_value

__all__ = [
    "BlobRef",
    "Content",
    "Record",
    "beat_patch",
    "body_of",
    "create_body",
    "later",
    "mark_patch",
    "read_entry",
    "read_record",
    "type_in",
    "update_patch",
    "version_of",
]

_INT64: Final = 1 << 63
_STATUS: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_MOST_MODEL: Final = 4096
_MOST_ACCELERATOR: Final = 1024
_MOST_RANK: Final = (1 << 32) - 1
_LAST_MS: Final = 253_402_300_799_000
"""The end of the year 9999, beyond which there is no text for a time."""


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Where a blob is. `inline`: all of it; else it is in `chunks` ConfigMaps, which `token` names."""

    size: int
    inline: str | None = field(default=None, repr=False)
    """In base64."""
    token: str = ""
    chunks: int = 0
    digest: str = ""

    def to_json(self) -> dict[str, Any]:
        """As it is kept."""
        if self.inline is not None:
            # To Kubernetes an empty text is no base64.
            return {"size": self.size, "inline": self.inline} if self.inline else {"size": self.size}
        return {"size": self.size, "chunks": self.chunks, "token": self.token, "digest": self.digest}


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of an entry's object, without its value. Numbers are resourceVersions."""

    name: str
    key: str
    uid: str
    version: int
    revision: int
    generation: int
    beat: Beat | None
    """The one in this object."""
    blob: BlobRef | None
    """Without what is inline."""
    write: str
    mark: str

    @property
    def reference(self) -> dict[str, str]:
        """As the owner of other objects."""
        return {"apiVersion": API_VERSION, "kind": KIND, "name": self.name, "uid": self.uid}


@dataclass(frozen=True, slots=True)
class Content:
    """What a put writes."""

    key: str
    value: Value
    text: str
    """The value as JSON."""
    write: str
    beat: Beat | None
    blob: BlobRef | None
    keep: bool = False
    """Leave the blob that is there, and its generation."""
    owner: Mapping[str, Any] | None = None
    """The Pod with which it goes. Only of a new blob: that is when it may be another one."""

    def over(self, *, beat: Beat | None, blob: BlobRef | None) -> Content:
        """The same, as it is to be written over what is there."""
        return replace(self, beat=beat, blob=blob)


def body_of(instance: str, name: str, kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """An object to be created."""
    labels = {LABELS.INSTANCE: instance, LABELS.TYPE: kind}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name, "labels": labels}, **content}


def create_body(instance: str, content: Content) -> dict[str, Any]:
    """The object of a new entry."""
    body = body_of(instance, entry_name(instance, content.key), type_of(content.key), {"key": content.key})
    metadata = body["metadata"]
    metadata["labels"] |= {name: text for name, text in _labels(content).items() if text}
    if content.owner is not None:
        metadata["ownerReferences"] = [content.owner]
    body |= {name: member for name, member in _fields(content).items() if member is not None}
    return body


def update_patch(held: Record, content: Content) -> list[dict[str, Any]]:
    """What turns the object, if it is as it is held, into that of the content."""
    patch = [_same(held.version)]
    patch += [step for name, text in _labels(content).items() for step in _set(label_path(name), text or None, "x")]
    fields = _fields(content)
    fields["generation"] = str(held.generation) if content.keep else None
    fields |= {"revision": None, "mark": None}
    if content.keep:
        del fields["blob"]
    else:
        patch.append({"op": "add", "path": "/metadata/ownerReferences", "value": _list(content.owner)})
    return patch + [step for name, member in fields.items() for step in _set(f"/{name}", member, None)]


def beat_patch(held: Record, beat: Beat) -> list[dict[str, Any]]:
    """What writes a heartbeat into the object, if it is as it is held, and leaves the entry at its revision."""
    return [*_aside(held), {"op": "add", "path": "/beat", "value": _beat_json(beat)}, *_set("/mark", None, "")]


def mark_patch(held: Record, mark: str) -> list[dict[str, Any]]:
    """What marks the object, if it is as it is held, and leaves the entry at its revision."""
    return [*_aside(held), {"op": "add", "path": "/mark", "value": mark}]


def type_in(body: Mapping[str, Any]) -> str:
    """What an object is."""
    text = (body["metadata"].get("labels") or {}).get(LABELS.TYPE)
    return text if isinstance(text, str) else ""


def version_of(body: Mapping[str, Any]) -> int:
    """The resourceVersion of an object or a list."""
    return int(body["metadata"]["resourceVersion"])


def read_record(instance: str, body: Mapping[str, Any]) -> Record:
    """What is known of an entry's object. Raises `Damaged`."""
    metadata = body["metadata"]
    name = metadata["name"]
    try:
        key = body["key"]
        if entry_name(instance, key) != name:
            raise ValueError("its name is not that of its key")
        version = int(metadata["resourceVersion"])
        revision = int(body.get("revision") or version)
        return Record(
            name=name,
            key=key,
            uid=metadata["uid"],
            version=version,
            revision=revision,
            generation=int(body.get("generation") or revision),
            beat=_read_beat(body.get("beat")),
            blob=_read_blob(body.get("blob")),
            write=body.get("write", ""),
            mark=body.get("mark", ""),
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise Damaged(f"the object {name!r} cannot be read: {error!r}") from error


def read_entry(record: Record, body: Mapping[str, Any], base: int, beat: Beat | None) -> Entry:
    """The entry in an object. `beat`: the latest of its heartbeats. Raises `Damaged`."""
    exact = body.get("exact")
    try:
        value: Value = body["value"] if exact is None else decode_value(exact)
        if not all(member is None or isinstance(member, (str, int, float, bool)) for member in value.values()):
            raise ValueError("its value is not flat")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"the value in the object {record.name!r} cannot be read: {error!r}") from error
    size = None if record.blob is None else record.blob.size
    return Entry(record.key, value, base + record.revision, base + record.generation, beat, size)


def later(held: Beat | None, given: Beat | None) -> Beat | None:
    """The later one of two heartbeats; the held one if they are as late."""
    if held is None or given is None:
        return held or given
    return given if given.stamp > held.stamp else held


def _fields(content: Content) -> dict[str, Any]:
    """The members of the object that change with the entry; None: not there."""
    return {
        "value": dict(content.value),
        "exact": None,
        **(_inexact(content) if not _comes_back(content.value) else {}),
        **_copies(content),
        "beat": None if content.beat is None else _beat_json(content.beat),
        "blob": None if content.blob is None else content.blob.to_json(),
        "write": content.write,
    }


def _comes_back(value: Value) -> bool:
    """Whether Kubernetes gives the value back as it is: its integers have 64 bits, and floats lose a final .0."""
    return all(
        not member.is_integer() if isinstance(member, float) else -_INT64 <= member < _INT64
        for member in value.values()
        if isinstance(member, (int, float))
    )


def _inexact(content: Content) -> dict[str, Any]:
    """The value as far as it can be shown, and as it is."""
    shown = {
        name: str(member) if isinstance(member, int) and not -_INT64 <= member < _INT64 else member
        for name, member in content.value.items()
    }
    return {"value": shown, "exact": content.text}


def _copies(content: Content) -> dict[str, Any]:
    value = content.value
    model, accelerator, status = value.get("model"), value.get("accelerator"), value.get("status")
    source = type_of(content.key) == Type.SOURCE
    return {
        "model": model if source and isinstance(model, str) and len(model) <= _MOST_MODEL else None,
        "rank": _rank(content.key),
        "status": status if isinstance(status, str) and _STATUS.fullmatch(status) else None,
        "accelerator": accelerator
        if source and isinstance(accelerator, str) and len(accelerator) <= _MOST_ACCELERATOR
        else None,
    }


def _labels(content: Content) -> dict[str, str]:
    """A source's labels; empty: not there."""
    if type_of(content.key) != Type.SOURCE:
        return {}
    value = content.value
    model, status = value.get("model"), value.get("status")
    rank = _rank(content.key)
    return {
        LABELS.SOURCE_ID: label_text(content.key.split("/", 2)[1]),
        LABELS.MODEL: label_text(model) if isinstance(model, str) else "",
        LABELS.STATUS: label_text(status) if isinstance(status, str) else "",
        LABELS.RANK: "" if rank is None else str(rank),
    }


def _rank(key: str) -> int | None:
    """The rank in a source's key."""
    parts = key.split("/", 3)
    if type_of(key) != Type.SOURCE or len(parts) != 4 or not (parts[2].isascii() and parts[2].isdecimal()):
        return None
    return int(parts[2]) if len(parts[2]) <= 10 and int(parts[2]) <= _MOST_RANK else None


def _beat_json(beat: Beat) -> dict[str, Any]:
    members: dict[str, Any] = {"stamp": beat.stamp}
    if beat.load is not None:
        members["load"] = beat.load
    if beat.stamp <= _LAST_MS:
        members["time"] = datetime.fromtimestamp(beat.stamp // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return members


def _read_beat(members: Mapping[str, Any] | None) -> Beat | None:
    if members is None:
        return None
    return decode_beat(members["stamp"], members.get("load"))


def _read_blob(members: Mapping[str, Any] | None) -> BlobRef | None:
    if members is None:
        return None
    size = int(members["size"])
    if "token" not in members:
        return BlobRef(size)
    return BlobRef(size, None, members["token"], int(members["chunks"]), members["digest"])


def _same(version: int) -> dict[str, Any]:
    """Lets a patch fail with `Moved` where the object is at another version."""
    return {"op": "add", "path": "/metadata/resourceVersion", "value": str(version)}


def _aside(held: Record) -> list[dict[str, Any]]:
    """What lets an entry stay as it is while its object is written."""
    return [
        _same(held.version),
        {"op": "add", "path": "/revision", "value": str(held.revision)},
        {"op": "add", "path": "/generation", "value": str(held.generation)},
    ]


def _set(path: str, member: Any, something: Any) -> Sequence[dict[str, Any]]:
    if member is not None:
        return [{"op": "add", "path": path, "value": member}]
    # What is not there cannot be removed, so it is put there first.
    return [{"op": "add", "path": path, "value": something}, {"op": "remove", "path": path}]


def _list(owner: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    return [] if owner is None else [owner]
