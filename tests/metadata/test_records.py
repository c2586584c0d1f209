"""Records survive the store and the wire; the flat form of backend metadata is read as others write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.errors import InvalidArgument
from peerload.metadata.models import Nixl, NoBackend, TensorRecord, TransferEngine, WorkerRecord, from_flat, to_flat
from peerload.metadata.records import Form, Mark, Pod, SourceKey, SourceRecord, Status, with_status
from peerload.store.base import Beat, Entry
from peerload.store.values import encode_value
from peerload.wire import p2p_pb2

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)

records = st.builds(
    SourceRecord,
    key=st.builds(SourceKey, st.from_regex("[0-9a-f]{16}", fullmatch=True), st.integers(0, 2**32 - 1), words),
    model_name=words,
    revision=text,
    status=st.sampled_from(Status),
    updated_at=st.integers(1, 2**53),
    load=st.none() | st.floats(0, 1, width=32),
    accelerator=text,
    topology=st.dictionaries(words, words, max_size=4).map(lambda levels: tuple(sorted(levels.items()))),
    training_step=st.none() | st.integers(0, 2**64 - 1),
    layout_signature=st.none() | words,
    form=st.sampled_from(Form),
    content=text,
    item_count=st.integers(0, 2**32),
    total_size=st.integers(0, 2**63 - 1),
    engines=st.lists(st.sampled_from(["tcp", "memfd", "nixl"]), unique=True).map(tuple),
    pod=st.builds(Pod, text, text, text),
    published_at=st.integers(0, 2**53),
    refs=st.lists(st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20), max_size=4).map(tuple),
    part=text,
    mark=st.none() | st.builds(Mark, st.integers(0, 2**53), st.integers(0, 2**53), st.sampled_from(Status)),
    store_revision=st.integers(1, 2**60),
    generation=st.integers(1, 2**60),
    endpoints=text,
    replica=text,
    world_size=st.integers(0, 2**20),
    suspect=st.just(False),
)


def entry_of(record: SourceRecord) -> Entry:
    value = record.to_value()
    encode_value(value)
    beat = Beat(record.updated_at, record.load)
    return Entry(record.key.encode(), value, record.store_revision, record.generation, beat, 10)


@given(records)
def test_a_record_survives_the_store(record: SourceRecord) -> None:
    assert SourceRecord.from_entry(entry_of(record)) == record


@given(records, st.sampled_from(Status))
def test_a_change_of_status_changes_nothing_else(record: SourceRecord, status: Status) -> None:
    value = with_status({**record.to_value(), "of a later version": 7}, status)
    entry = entry_of(record)
    changed = SourceRecord.from_entry(Entry(entry.key, value, entry.revision, entry.generation, entry.beat, 10))
    assert changed.status is status
    assert changed.mark is None
    assert value["of a later version"] == 7
    assert changed.at(status=record.status, updated_at=1, load=None).model_name == record.model_name


@given(records)
def test_the_encoded_reference_is_the_message(record: SourceRecord) -> None:
    ref = record.to_ref()
    assert (ref.mx_source_id, ref.worker_rank, ref.worker_id) == record.key
    assert (ref.model_name, ref.accelerator, ref.updated_at) == (
        record.model_name,
        record.accelerator,
        record.updated_at,
    )
    assert (ref.training_step if ref.HasField("training_step") else None) == record.training_step
    assert (ref.layout_signature if ref.HasField("layout_signature") else None) == record.layout_signature
    assert (ref.source_load if ref.HasField("source_load") else None) == record.load
    assert dict(ref.topology) == dict(record.topology)


@given(records)
def test_the_v1_source_is_the_record(record: SourceRecord) -> None:
    source = record.to_source()
    assert source.status == record.status
    assert source.form == record.form
    assert (source.training_step if source.HasField("training_step") else None) == record.training_step
    assert tuple(source.engines) == record.engines
    assert source.total_size == record.total_size


@pytest.mark.parametrize(
    "key", ["source/", "source/a", "source/a/0", "source/a/0/", "source/a/x/w", "source//0/w", "other/a/0/w", "source"]
)
def test_other_keys_are_nobodys(key: str) -> None:
    with pytest.raises(ValueError):
        SourceKey.decode(key)


@given(words)
def test_a_worker_id_may_hold_anything(worker_id: str) -> None:
    key = SourceKey("0123456789abcdef", 7, worker_id)
    assert SourceKey.decode(key.encode()) == key


def test_a_value_by_hand_is_read_with_care() -> None:
    value = {"model": 5, "status": "SLEEPING", "training_step": "-1", "item_count": "many", "form": "ODD", "load": True}
    record = SourceRecord.from_entry(Entry("source/0123456789abcdef/0/w", value, 1, 1, None, None))
    assert (record.model_name, record.status, record.training_step) == ("", Status.UNKNOWN, None)
    assert (record.item_count, record.form, record.updated_at) == (0, Form.UNSPECIFIED, 0)


@pytest.mark.parametrize(
    ("flat", "expected"),
    [
        (("nixl", b"agent", ""), Nixl(b"agent")),
        (("nixl", b"", "10.0.0.1:1"), Nixl(b"")),
        (("transfer_engine", b"agent", "10.0.0.1:1"), TransferEngine("10.0.0.1:1")),
        (("none", b"agent", "10.0.0.1:1"), NoBackend()),
        ((None, b"agent", "10.0.0.1:1"), TransferEngine("10.0.0.1:1")),
        ((None, b"agent", ""), Nixl(b"agent")),
        (("", b"", ""), NoBackend()),
        ((None, b"", ""), NoBackend()),
    ],
)
def test_flat_backend_metadata(flat: tuple[str | None, bytes, str], expected: object) -> None:
    backend = from_flat(*flat)
    assert backend == expected
    assert from_flat(*to_flat(backend)) == backend


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="backend_metadata_kind"):
        from_flat("carrier_pigeon")


@pytest.mark.parametrize("backend", [Nixl(b"agent"), TransferEngine("10.0.0.1:1"), NoBackend()])
def test_a_worker_record_survives_the_wire(backend: Nixl | TransferEngine | NoBackend) -> None:
    record = WorkerRecord(
        worker_rank=3,
        backend_metadata=backend,
        tensors=(TensorRecord("a", 1, 2, 0, "torch.float16"),),
        status=Status.READY,
        accelerator="cuda",
        topology={"rack": "r1"},
    )
    message = record.to_wire()
    assert WorkerRecord.from_wire(message) == record
    assert list(message.tensors) == list(message.tensor_source.tensors)
    older = p2p_pb2.WorkerMetadata(worker_rank=3, tensors=message.tensors)
    assert WorkerRecord.from_wire(older).tensors == record.tensors


@pytest.mark.parametrize(
    "member",
    [
        {"training_step": "9" * 30},
        {"training_step": "²"},
        {"training_step": "9" * 5_000},
        {"total_size": 2**64},
        {"item_count": -1},
        {"world_size": 2**32},
        {"published_at": 2**63},
        {"world_size": True},
        {"model": "half of a pair: \ud800"},
        {"topology.rack": "\udfff"},
        {"stale.since": -1, "stale.judged": 1},
    ],
)
def test_members_beyond_what_they_can_be_count_as_not_given(member: dict[str, str | int]) -> None:
    entry = Entry("source/0123456789abcdef/0/w", member, 1, 1, Beat(5), None)
    record = SourceRecord.from_entry(entry)
    assert record == SourceRecord.from_entry(Entry(entry.key, {}, 1, 1, Beat(5), None))
    record.to_source().SerializeToString()
    record.to_ref().SerializeToString()


@pytest.mark.parametrize(
    "key",
    [
        "source",
        "source/",
        "source/a",
        "source/a/b/w",
        "source/a/4294967296/w",
        "source/a/01/w",
        "source/a/²/w",
        "source//0/w",
    ],
)
def test_keys_of_nobody(key: str) -> None:
    with pytest.raises(ValueError, match="not the key of a source"):
        SourceKey.decode(key)
