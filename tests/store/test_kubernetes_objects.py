"""Names and objects: what any key and any value become in a cluster, and that they come back."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.errors import Damaged
from peerload.store.base import Beat, Entry, Scalar
from peerload.store.kubernetes import names
from peerload.store.kubernetes.blobs import inlined
from peerload.store.kubernetes.chunks import read_chunk, write_chunk
from peerload.store.kubernetes.index import read_beat, read_beats, write_beats
from peerload.store.kubernetes.objects import (
    BlobRef,
    Content,
    Record,
    beat_patch,
    create_body,
    mark_patch,
    read_entry,
    read_record,
    update_patch,
)
from peerload.store.values import encode_value

NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
BASE = 1_750_000_000_000_000

hostile = st.one_of(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
    st.sampled_from(
        ["../..", "a" * 4096, "A", "a", "-", ".", "a.b", "é", "e\u0301", "\0", "🦀", "x/y/z", "-a-", "%2F", "ß", "SS"]
    ),
)
keys = st.one_of(hostile, st.builds("source/{}/{}/{}".format, hostile, st.integers(0, 9), hostile))
texts = st.text(st.characters(codec="utf-8"), max_size=20)
scalars: st.SearchStrategy[Scalar] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts
)
values = st.dictionaries(st.one_of(texts, st.sampled_from(["model", "status", "accelerator"])), scalars, max_size=6)
some_beats = st.builds(Beat, st.integers(0, 2**63 - 1), st.one_of(st.none(), st.floats(-1e300, 1e300)))
beats = st.one_of(st.none(), some_beats)


def through_the_cluster(value: Any) -> Any:
    """What an API server makes of JSON: numbers are integers of 64 bits or floats, which are written as short as can be."""
    if isinstance(value, dict):
        return {name: through_the_cluster(member) for name, member in value.items()}
    if isinstance(value, list):
        return [through_the_cluster(member) for member in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        assert -(2**63) <= value < 2**63, "the API server would round it, or refuse it"
    return value


def kept(body: dict[str, Any], version: int) -> dict[str, Any]:
    """The object as the API server gives it back."""
    body = through_the_cluster(json.loads(json.dumps(body)))
    body["metadata"] |= {"resourceVersion": str(version), "uid": "uid"}
    return body


def patched(body: dict[str, Any], patch: list[dict[str, Any]], version: int) -> dict[str, Any]:
    """The object after a JSON Patch. Raises KeyError where one cannot be applied."""
    body = copy.deepcopy(body)
    for step in json.loads(json.dumps(patch)):
        *way, last = (part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:])
        held = body
        for part in way:
            held = held[part]
        if step["op"] == "add":
            held[last] = step["value"]
        else:
            assert step["op"] == "remove"
            del held[last]
    assert body["metadata"]["resourceVersion"] != str(version)
    return kept(body, version)


def content(key: str, value: dict[str, Scalar], beat: Beat | None, **more: Any) -> Content:
    return Content(key, value, encode_value(value), "write", beat, more.pop("blob", None), **more)


def entry_in(body: dict[str, Any]) -> Entry:
    record = read_record("main", body)
    return read_entry(record, body, BASE, record.beat)


@given(keys, keys)
def test_every_key_has_a_name_of_its_own(one: str, other: str) -> None:
    for key in (one, other):
        name = names.entry_name("main", key)
        assert NAME.fullmatch(name)
        assert len(name) <= 100
        assert name == names.entry_name("main", key)
        assert name not in (names.entry_name("second", key), names.layout_name("main"))
        assert not names.server_of(name)
    assert (one == other) == (names.entry_name("main", one) == names.entry_name("main", other))


@given(texts)
def test_any_text_becomes_a_label(text: str) -> None:
    label = names.label_text(text)
    assert len(label) <= 63
    assert not label or LABEL.fullmatch(label)
    if LABEL.fullmatch(text) and len(text) <= 63:
        assert label == text


@given(keys, values, beats)
def test_an_entry_is_what_was_put(key: str, value: dict[str, Scalar], beat: Beat | None) -> None:
    blob = inlined(b"bytes")
    body = create_body("main", content(key, value, beat, blob=blob))
    assert all(LABEL.fullmatch(label) for label in body["metadata"]["labels"].values())
    entry = entry_in(kept(body, 7))
    assert entry == Entry(key, value, BASE + 7, BASE + 7, beat, 5)
    assert {name: type(member) for name, member in entry.value.items()} == {n: type(m) for n, m in value.items()}


@given(keys, values, values, beats, beats, st.booleans())
def test_an_entry_is_what_was_put_over_it(
    key: str, first: dict[str, Scalar], second: dict[str, Scalar], beat: Beat | None, other: Beat | None, keep: bool
) -> None:
    body = kept(create_body("main", content(key, first, beat, blob=BlobRef(9, None, "token", 1, "0" * 32))), 7)
    body["metadata"]["labels"]["somebody.else/label"] = "stays"
    record = read_record("main", body)
    put = content(key, second, other, keep=keep, blob=None if keep else inlined(b"12"))
    again = patched(body, update_patch(record, put), 8)
    generation, size = (7, 9) if keep else (8, 2)
    assert entry_in(again) == Entry(key, second, BASE + 8, BASE + generation, other, size)
    assert again["metadata"]["labels"]["somebody.else/label"] == "stays"
    # Nothing of the first is left in what is shown.
    fresh = kept(create_body("main", put), 8)
    for field in ("model", "rank", "status", "accelerator", "value", "exact"):
        assert again.get(field) == fresh.get(field)
    del again["metadata"]["labels"]["somebody.else/label"]
    assert again["metadata"]["labels"] == fresh["metadata"]["labels"]


@given(keys, values, beats, st.integers(0, 2**63 - 1))
def test_a_heartbeat_and_a_mark_leave_the_entry_at_its_revision(
    key: str, value: dict[str, Scalar], beat: Beat | None, stamp: int
) -> None:
    body = kept(create_body("main", content(key, value, beat)), 7)
    body = patched(body, update_patch(read_record("main", body), content(key, value, beat, keep=True)), 9)
    marked = patched(body, mark_patch(read_record("main", body), "mark"), 11)
    assert entry_in(marked) == Entry(key, value, BASE + 9, BASE + 7, beat, None)
    assert read_record("main", marked).mark == "mark"
    beaten = patched(marked, beat_patch(read_record("main", marked), Beat(stamp, 0.5)), 12)
    assert entry_in(beaten) == Entry(key, value, BASE + 9, BASE + 7, Beat(stamp, 0.5), None)
    assert not read_record("main", beaten).mark


def test_what_a_person_sees_and_selects() -> None:
    value = {"model": "org/name", "status": "READY", "accelerator": "cuda", "n": 1}
    body = create_body("main", content("source/3fd2/12/worker-1", value, Beat(1_750_000_000_000, 0.25)))
    assert (body["model"], body["rank"], body["status"], body["accelerator"]) == ("org/name", 12, "READY", "cuda")
    assert body["beat"] == {"stamp": 1_750_000_000_000, "load": 0.25, "time": "2025-06-15T15:06:40Z"}
    assert body["metadata"]["name"].startswith("source-3fd2-12-worker-1-")
    assert body["metadata"]["labels"] == {
        "peerload.dev/instance": "main",
        "peerload.dev/type": "source",
        "peerload.dev/source-id": "3fd2",
        "peerload.dev/model": "org_name",
        "peerload.dev/status": "READY",
        "peerload.dev/rank": "12",
    }


@pytest.mark.parametrize(
    ("key", "kind"), [("server/1", "server"), ("claim/x", "claim"), ("heartbeats/x", "other"), ("layout", "other")]
)
def test_keys_cannot_ask_for_every_type(key: str, kind: str) -> None:
    assert names.type_of(key) == kind


@given(hostile)
def test_the_entries_of_one_source_are_found_by_their_labels(source_id: str) -> None:
    prefix = f"source/{source_id}/"
    labels = create_body("main", content(f"{prefix}0/worker", {}, None))["metadata"]["labels"]
    assert names.prefix_selector(prefix).items() <= labels.items()
    assert names.prefix_selector("sour") == {}


@pytest.mark.parametrize(
    "damage",
    [
        {"key": "another"},
        {"key": None},
        {"revision": "x"},
        {"beat": {"load": 1}},
        {"beat": {"stamp": "x"}},
        {"blob": {}},
        {"blob": {"size": 1, "token": "t"}},
        {"value": {"n": [1]}},
        {"value": None},
        {"exact": "{"},
        {"exact": "[1]"},
    ],
    ids=str,
)
def test_what_cannot_be_read_is_damaged(damage: dict[str, Any]) -> None:
    body = kept(create_body("main", content("k", {"n": 1}, None)), 7) | damage
    with pytest.raises(Damaged):
        entry_in(body)


@given(st.dictionaries(st.integers(1, 2**63), some_beats, max_size=20))
def test_shared_heartbeats_come_back(shared: dict[int, Beat]) -> None:
    assert {generation: read_beat(text) for generation, text in read_beats(write_beats(shared))} == shared


@given(
    st.binary(max_size=300), st.one_of(st.none(), st.just({"apiVersion": "v1", "kind": "K", "name": "n", "uid": "u"}))
)
def test_a_part_of_a_blob_comes_back(part: bytes, owner: dict[str, str] | None) -> None:
    body = write_chunk("name", {"label": "text"}, owner, memoryview(part))
    assert read_chunk(body) == part
    for damaged in (body[:-1], body[4:], b"", b"{}", body.replace(b"part", b"trap", 1)):
        if part != b"" or damaged != body[:-1]:
            with pytest.raises(Damaged):
                read_chunk(damaged)


def test_a_record_is_small_in_memory() -> None:
    record = read_record("main", kept(create_body("main", content("k", {"text": "x" * 10_000}, None)), 7))
    assert not any(isinstance(getattr(record, name), dict) for name in Record.__slots__)
    assert "x" * 10_000 not in repr(record)
