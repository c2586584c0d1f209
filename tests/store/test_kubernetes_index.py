"""The index: what a server wrote itself counts ahead of the stream, and not a moment longer."""

from __future__ import annotations

from typing import Any

from peerload.store.base import Beat, Beaten, Deleted, Put
from peerload.store.kubernetes.index import Index
from peerload.store.kubernetes.names import Type
from peerload.store.kubernetes.objects import Content, beat_patch, body_of, create_body, read_record
from peerload.testing import ManualClock


def body(key: str, version: int, number: int = 1, uid: str = "uid", **more: Any) -> dict[str, Any]:
    made = create_body("main", Content(key, {"n": number}, "{}", str(number), None, None))
    made["metadata"] |= {"resourceVersion": str(version), "uid": uid}
    return made | more


def shared(version: int, beats: str, name: str = "heartbeats-a-1") -> dict[str, Any]:
    made = body_of("main", name, Type.HEARTBEATS, {"beats": beats, "write": str(version)})
    made["metadata"] |= {"resourceVersion": str(version), "uid": name}
    return made


def index_at(version: int, *events: tuple[str, dict[str, Any]]) -> Index:
    index = Index("main", ManualClock())
    for kind, made in events:
        index.changes_of({"type": kind, "object": made})
    index.seen = version
    return index


def test_what_was_just_written_is_found_until_the_stream_has_it() -> None:
    index = index_at(10)
    record = read_record("main", body("k", 12))
    index.note(record)
    assert index.find(record.name) == record
    assert not index.records
    (change,) = index.changes_of({"type": "ADDED", "object": body("k", 12)})
    assert isinstance(change, Put)
    assert index.find(record.name) is index.records[record.name]


def test_what_the_stream_has_left_behind_is_not_taken_in() -> None:
    """It was read, deleted, and told of as deleted, before whoever read it went on."""
    index = index_at(15, ("ADDED", body("k", 12)), ("DELETED", body("k", 15)))
    record = read_record("main", body("k", 12))
    index.note(record)
    assert index.find(record.name) is None


def test_a_deletion_ends_what_was_noted_before_it() -> None:
    index = index_at(12, ("ADDED", body("k", 12)))
    index.note(read_record("main", body("k", 13, 2)))
    assert index.changes_of({"type": "DELETED", "object": body("k", 14)}) == (Deleted("k", 14),)
    assert index.find(read_record("main", body("k", 13)).name) is None


def test_a_heartbeat_is_told_once_wherever_it_comes_from() -> None:
    index = index_at(12, ("ADDED", body("k", 12)))
    assert index.changes_of({"type": "ADDED", "object": shared(13, "12=5,0.5 99=7")}) == (
        Beaten("k", 12, Beat(5, 0.5)),
    )
    record = index.by_key["k"]
    assert index.beat_of(record) == Beat(5, 0.5)
    assert beat_patch(record, Beat(5, 0.5))[0]["value"] == "12"
    copied = body("k", 14, revision="12", generation="12", beat={"stamp": 5, "load": 0.5})
    assert index.changes_of({"type": "MODIFIED", "object": copied}) == ()
    assert index.changes_of({"type": "ADDED", "object": shared(15, "12=4,0.9", "heartbeats-b-1")}) == ()
    assert index.changes_of({"type": "MODIFIED", "object": shared(16, "12=6", "heartbeats-b-1")}) == (
        Beaten("k", 12, Beat(6)),
    )


def test_a_new_generation_inherits_no_heartbeat() -> None:
    index = index_at(13, ("ADDED", body("k", 12)), ("ADDED", shared(13, "12=5")))
    (change,) = index.changes_of({"type": "MODIFIED", "object": body("k", 14, 2)})
    assert isinstance(change, Put)
    assert change.entry.beat is None
    assert index.changes_of({"type": "MODIFIED", "object": shared(15, "12=9")}) == ()


def test_what_of_shared_heartbeats_must_be_kept() -> None:
    index = index_at(
        15,
        ("ADDED", body("k", 12, beat={"stamp": 3})),
        ("ADDED", shared(13, "12=5")),
        ("ADDED", shared(14, "12=5", "heartbeats-b-1")),
    )
    assert index.counts(12, Beat(5))  # each of the two keeps its own: neither knows what the other does
    assert not index.counts(12, Beat(4))
    assert not index.counts(12, Beat(3))
    assert not index.counts(11, Beat(9))  # nobody's
    assert index.counts(16, Beat(9))  # of a record that the stream has not brought yet


def test_what_cannot_be_read_is_left_out_and_what_was_known_stays() -> None:
    index = index_at(12, ("ADDED", body("k", 12)))
    assert index.changes_of({"type": "MODIFIED", "object": body("k", 13, 2) | {"value": {"n": [1]}}}) == ()
    assert index.by_key["k"].version == 12
    assert index.changes_of({"type": "ADDED", "object": shared(14, "nonsense")}) == ()
    assert index.changes_of({"type": "ADDED", "object": shared(15, "12=x")}) == ()


def test_a_shared_heartbeat_that_cannot_be_read_stands_in_no_records_way() -> None:
    """Not even in that of a record which the stream brings later."""
    index = index_at(10, ("ADDED", shared(11, "12=nonsense")), ("ADDED", shared(11, "12=-5", name="heartbeats-b-1")))
    (change,) = index.changes_of({"type": "ADDED", "object": body("k", 12)})
    assert isinstance(change, Put)
    assert change.entry.beat is None
