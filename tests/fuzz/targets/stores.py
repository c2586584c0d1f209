"""What stores read back: blobs, entries in Redis, objects and streams of Kubernetes' API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from google.protobuf.message import DecodeError

from peerload.errors import Compacted, Damaged, PeerloadError
from peerload.kubernetes.lines import Lines
from peerload.kubernetes.trouble import read_object, refusal, retry_after
from peerload.metadata.publications.blobs import pack, unpack
from peerload.metadata.publications.publication import Publication
from peerload.metadata.publications.stored import StoredSource
from peerload.metadata.records import SourceRecord
from peerload.store.base import Beat, Beaten, Change, Entry, Position, Put
from peerload.store.kubernetes.chunks import read_chunk, write_chunk
from peerload.store.kubernetes.index import Index, write_beats
from peerload.store.kubernetes.layout import read_layout
from peerload.store.kubernetes.names import LABELS, entry_name
from peerload.store.kubernetes.objects import Content, create_body, read_entry
from peerload.store.redis import layout as redis
from peerload.store.values import check_beat
from peerload.testing.clock import ManualClock
from peerload.wire import p2p_pb2, sources_pb2
from tests.fuzz.mutation import record, records
from tests.fuzz.target import Target

__all__ = ["TARGETS"]

_KEY: Final = "source/5a5f555570065064/0/w0"
_VALUE: Final = {
    "model": "org/model",
    "status": "READY",
    "training_step": "7",
    "total_size": 4096,
    "topology.rack": "r",
}
_INSTANCE: Final = "main"
_BEAT: Final = Beat(1_750_000_000_000, 0.5)


def run_blobs(data: bytes) -> None:
    """A blob: as it is, or compressed as a server would have."""
    parts = records(data)
    if parts is None:
        return
    for blob in parts[0]:
        with suppress(Damaged):
            found = unpack(blob)
            source = StoredSource(
                SourceRecord.from_entry(Entry(_KEY, _VALUE, 1, 1, _BEAT, len(blob))),
                found.identity,
                found.worker,
                found.manifest,
            )
            # (Whether the parts are messages, the server that took them in has seen.)
            for kind, answer in (
                (p2p_pb2.GetMetadataResponse, source.metadata_response()),
                (sources_pb2.GetManifestResponse, source.manifest_response()),
            ):
                with suppress(DecodeError):
                    kind.FromString(answer)


def seed_blobs() -> Iterator[bytes]:
    request = p2p_pb2.PublishMetadataRequest(
        identity=p2p_pb2.SourceIdentity(model_name="org/model"), worker={"nixl_metadata": b"a" * 100}, worker_id="w0"
    )
    yield record(pack(Publication.from_p2p(request.SerializeToString())))
    yield record(pack(Publication.from_p2p(request.SerializeToString()))[:20])
    # A bomb: a window of zeros that goes on and on.
    yield record(bytes.fromhex("28b52ffd0458") + bytes.fromhex("0200fe") * 400)


def _check(change: Change | Entry) -> None:
    """What a store tells must be what other stores would take."""
    entry = change.entry if isinstance(change, Put) else change
    if isinstance(entry, Entry):
        entry.key.encode()
        check_beat(entry.beat)
        assert all(member is None or isinstance(member, (str, int, float)) for member in entry.value.values())
        assert entry.revision >= 0
        assert entry.generation >= 0
    elif isinstance(entry, Beaten):
        check_beat(entry.beat)


def run_redis(data: bytes) -> None:
    """Two hashes' fields of an entry, items of the feed as flat lists of names and texts, and a position."""
    for parts in records(data) or ():
        key, *fields = parts
        with suppress(Damaged):
            _check(redis.read_entry(key, *(fields + [b""] * 2)[:2]))
        with suppress(Damaged, Compacted):
            for change in redis.read_changes([(key, fields)], 6)[0]:
                _check(change)
        with suppress(Compacted):
            redis.read_position(Position(key.decode(errors="replace")))


def seed_redis() -> Iterator[bytes]:
    value = json.dumps(_VALUE).encode()
    for entry, beat in ((b"7 7 - " + value, b"7 7"), (b"9 7 120 " + value, b"7 9 1750000000000 0.5")):
        yield record(_KEY.encode(), entry, beat)
        yield record(b"9-0", b"p", b"6", b"k", _KEY.encode(), b"v", entry, b"b", beat)
    yield record(b"8-0", b"p", b"6", b"d", _KEY.encode())
    touches = json.dumps([_KEY, "7", "1750000000000", "0.5", _KEY, 7, 1_750_000_000_001, ""]).encode()
    yield record(b"8-0", b"p", b"6", b"t", touches)
    yield record(b"epoch.123")


def run_objects(data: bytes) -> None:
    """The bodies of a watch's events, each a line; and of answers."""
    index = Index(_INSTANCE, ManualClock())
    lines = Lines()
    told: list[Change] = []
    for line in lines.feed(data + b"\n"):
        body = read_object(line)
        with suppress(PeerloadError):
            raise refusal("host", body.get("code"), body, after=retry_after({}, body))
        if _has_metadata(body):
            with suppress(PeerloadError):
                read_layout(body)
        # The API server sees to the outermost members of what it sends.
        if body.get("type") in ("ADDED", "MODIFIED", "DELETED") and _has_metadata(body.get("object")):
            told += index.changes_of(body)
    for change in told:
        _check(change)
    for held in index.by_key.values():
        latest = index.beat_of(held)
        with suppress(Damaged):
            _check(read_entry(held, {"value": {}}, 0, latest))


def _has_metadata(body: object) -> bool:
    if not isinstance(body, dict) or not isinstance(metadata := body.get("metadata"), dict):
        return False
    version = metadata.get("resourceVersion")
    return (
        isinstance(metadata.get("name"), str)
        and isinstance(metadata.get("uid"), str)
        and isinstance(version, str)
        and version.isascii()
        and version.isdecimal()
        and len(version) < 20
        and isinstance(metadata.get("labels", {}), dict)
    )


def seed_objects() -> Iterator[bytes]:
    def event(kind: str, body: dict[str, object], version: int) -> bytes:
        metadata = {**body["metadata"], "uid": "u", "resourceVersion": str(version)}  # type: ignore[dict-item]
        return json.dumps({"type": kind, "object": {**body, "metadata": metadata}}).encode()

    content = Content(_KEY, _VALUE, json.dumps(_VALUE), "w", _BEAT, None)
    body = create_body(_INSTANCE, content)
    exact = create_body(_INSTANCE, Content(_KEY, {"a": 1.0}, '{"a":1.0}', "w", None, None))
    labels = {LABELS.INSTANCE: _INSTANCE, LABELS.TYPE: "heartbeats"}
    shared = {"metadata": {"name": "h", "labels": labels}, "write": "x", "beats": write_beats({12: _BEAT, 13: Beat(5)})}
    marked = {**body, "revision": "12", "generation": "12", "mark": "m", "blob": {"size": 3, "inline": "YWJj"}}
    away = {**body, "blob": {"size": 3, "chunks": 1, "token": "t", "digest": "d"}}
    yield event("ADDED", body, 12)
    yield event("ADDED", exact, 12) + b"\n" + event("MODIFIED", marked, 14) + b"\n" + event("MODIFIED", shared, 15)
    yield event("ADDED", shared, 11) + b"\n" + event("ADDED", away, 12) + b"\n" + event("DELETED", away, 13)
    yield json.dumps(
        {
            "metadata": {"name": "l", "uid": "u", "resourceVersion": "1"},
            "value": {"layout": 1, "epoch": "e", "base": "12"},
        }
    ).encode()
    yield json.dumps(
        {"code": 409, "reason": "Conflict", "message": "no", "details": {"retryAfterSeconds": 1, "name": "n"}}
    ).encode()
    assert entry_name(_INSTANCE, _KEY) == body["metadata"]["name"]


def run_chunks(data: bytes) -> None:
    """A ConfigMap, encoded."""
    with suppress(Damaged):
        read_chunk(data)
    read_object(data)


def seed_chunks() -> Iterator[bytes]:
    owner = {"kind": "K", "name": "n", "uid": "u", "apiVersion": "v"}
    yield write_chunk("name", {"a": "b"}, owner, memoryview(b"part" * 10))
    yield write_chunk("name", {}, None, memoryview(b""))


TARGETS = (
    Target("blobs", run_blobs, seed_blobs),
    Target("redis", run_redis, seed_redis),
    Target("objects", run_objects, seed_objects),
    Target("chunks", run_chunks, seed_chunks),
)
