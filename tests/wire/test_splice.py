"""Splicing agrees with what protobuf itself decodes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.errors import InvalidArgument
from peerload.wire import splice
from peerload.wire.p2p_pb2 import GetMetadataResponse, PublishMetadataRequest, SourceIdentity, WorkerMetadata

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
workers = st.builds(
    WorkerMetadata,
    worker_rank=st.integers(0, 2**32 - 1),
    status=st.integers(0, 3),
    updated_at=st.integers(-(2**63), 2**63 - 1),
    nixl_metadata=st.binary(max_size=300),
    accelerator=text,
)


@given(workers, text, text)
def test_a_submessage_is_taken_out_as_it_stands(worker: WorkerMetadata, name: str, worker_id: str) -> None:
    request = PublishMetadataRequest(identity=SourceIdentity(model_name=name), worker=worker, worker_id=worker_id)
    encoded = request.SerializeToString()
    assert splice.submessage(encoded, 2) == worker.SerializeToString()
    assert splice.submessage(encoded, 1) == request.identity.SerializeToString()
    assert splice.submessage(encoded, 99) is None


@given(workers, workers)
def test_a_repeated_submessage_merges(first: WorkerMetadata, second: WorkerMetadata) -> None:
    encoded = splice.bytes_field(2, first.SerializeToString()) + splice.bytes_field(2, second.SerializeToString())
    whole = splice.submessage(encoded, 2)
    assert whole is not None
    assert WorkerMetadata.FromString(whole) == PublishMetadataRequest.FromString(encoded).worker


@given(workers, st.integers(0, 3), st.integers(-(2**63), 2**63 - 1))
def test_an_appended_scalar_wins(worker: WorkerMetadata, status: int, updated_at: int) -> None:
    encoded = worker.SerializeToString()
    changed = WorkerMetadata.FromString(encoded + splice.varint_field(4, status) + splice.varint_field(5, updated_at))
    assert (changed.status, changed.updated_at) == (status, updated_at)
    worker.status, worker.updated_at = status, updated_at
    assert changed == worker


@given(workers)
def test_an_answer_is_put_together_from_parts(worker: WorkerMetadata) -> None:
    encoded = worker.SerializeToString()
    answer = (
        splice.varint_field(1, True) + splice.bytes_field(2, encoded[:7], encoded[7:]) + splice.bytes_field(3, b"id")
    )
    assert GetMetadataResponse.FromString(answer) == GetMetadataResponse(found=True, worker=worker, mx_source_id="id")


@given(st.binary(max_size=64), st.integers(1, 30))
def test_garbage_is_refused_or_read_within_its_bounds(data: bytes, field: int) -> None:
    try:
        found = splice.submessage(data, field)
    except InvalidArgument:
        return
    assert found is None or len(found) <= len(data)


@pytest.mark.parametrize(
    "data", [b"\x12\x05abc", b"\x12", b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b\x0c", b"\x09\x00"]
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        splice.submessage(data, 2)
