"""What may be published, and how what may not is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.errors import InvalidArgument, LimitExceeded, MissingField
from peerload.metadata import limits
from peerload.metadata.publications.publication import Publication, training_step
from peerload.metadata.records import Form, Status
from peerload.wire import p2p_pb2, sources_pb2
from tests.metadata.publications import identity, worker


def request(**changes: object) -> p2p_pb2.PublishMetadataRequest:
    fields: dict[str, object] = {"identity": identity(), "worker": worker(), "worker_id": "w1"}
    fields.update(changes)
    return p2p_pb2.PublishMetadataRequest(**{name: field for name, field in fields.items() if field is not None})  # type: ignore[arg-type]


def publish(**changes: object) -> Publication:
    return Publication.from_p2p(request(**changes).SerializeToString())


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"identity": None}, "identity"),
        ({"identity": p2p_pb2.SourceIdentity(dtype="x")}, "identity.model_name"),
        ({"worker": None}, "worker"),
        ({"worker_id": ""}, "worker_id"),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, object], missing: str) -> None:
    with pytest.raises(MissingField, match=missing) as caught:
        publish(**changes)
    assert caught.value.field == missing


def test_the_bytes_are_kept_as_they_arrived() -> None:
    message = request(worker=worker(3, tensors=4), pod_name="p", pod_uid="u", pod_namespace="n")
    # A field that this version does not know, at the end of the worker.
    unknown = b"\xfa\x7f\x03abc"
    encoded_worker = message.worker.SerializeToString() + unknown
    message.ClearField("worker")
    encoded = (
        message.SerializeToString() + b"\x12" + bytes([len(encoded_worker) & 0x7F | 0x80, len(encoded_worker) >> 7])
    )
    kept = Publication.from_p2p(encoded + encoded_worker)
    assert kept.worker == encoded_worker
    assert kept.identity == message.identity.SerializeToString()
    assert (kept.record.item_count, kept.record.total_size) == (4, 4 * 4096)
    assert kept.record.key.worker_rank == 3
    assert kept.record.pod == ("p", "u", "n")
    assert kept.manifest is None


def test_rank_and_sizes_of_zero_are_valid() -> None:
    assert publish(worker=p2p_pb2.WorkerMetadata()).record.status is Status.UNKNOWN


def test_the_list_in_both_fields_is_no_duplicate() -> None:
    both = worker(tensors=3)
    both.tensors.extend(both.tensor_source.tensors)
    assert publish(worker=both).record.item_count == 3


@pytest.mark.parametrize("field", ["tensors", "tensor_source"])
def test_duplicate_tensors_are_named(field: str) -> None:
    twice = worker()
    tensors = twice.tensors if field == "tensors" else twice.tensor_source.tensors
    for name in ("a", "b", "a"):
        tensors.add(name=name, size=1)
    with pytest.raises(InvalidArgument, match=r"worker\.tensor.*'a' twice"):
        publish(worker=twice)


def long(**fields: object) -> p2p_pb2.WorkerMetadata:
    return p2p_pb2.WorkerMetadata(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"identity": identity("m" * 1_000_000)}, "identity.model_name"),
        ({"identity": identity(a="x" * 1_000_000)}, "identity"),
        ({"identity": identity(layout_signature="x" * 5000)}, "layout_signature"),
        ({"worker_id": "é" * 600}, "worker_id"),
        ({"pod_name": "p" * 2000}, "pod_name"),
        ({"worker": long(accelerator="x" * 2000)}, "worker.accelerator"),
        ({"worker": long(topology={"x" * 2000: ""})}, "worker.topology"),
        ({"worker": long(topology={"rack": "x" * 2000})}, r"worker.topology\[rack\]"),
        ({"worker": long(topology={str(n): "" for n in range(65)})}, "worker.topology"),
        ({"worker": long(tensors=[p2p_pb2.TensorDescriptor(name="n" * 1_000_000)])}, "worker.tensors.name"),
        ({"worker": long(tensors=[p2p_pb2.TensorDescriptor(dtype="n" * 2000)])}, "worker.tensors.dtype"),
        (
            {"worker": long(tensors=[p2p_pb2.TensorDescriptor(name=n, size=2**63) for n in "ab"])},
            "worker.tensors",
        ),
        (
            {"worker": long(artifact_source=p2p_pb2.ArtifactSourceMetadata(total_size=2**64 - 1))},
            "worker.artifact_source.total_size",
        ),
    ],
)
def test_limits_are_named(changes: dict[str, object], field: str) -> None:
    with pytest.raises(LimitExceeded, match=field) as caught:
        publish(**changes)
    assert str(caught.value.limit) in str(caught.value)


def test_too_many_tensors_are_named() -> None:
    request = p2p_pb2.PublishMetadataRequest(identity=identity(), worker=worker(tensors=6), worker_id="w")
    assert Publication.from_p2p(request.SerializeToString(), most_tensors=6).record.item_count == 6
    with pytest.raises(LimitExceeded, match=r"has 6 tensors, more than 5 \(--limit-tensors\)"):
        Publication.from_p2p(request.SerializeToString(), most_tensors=5)


def test_too_large_a_message_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_MESSAGE_BYTES", 100 + limits.ANSWER_BYTES)
    with pytest.raises(LimitExceeded, match="larger than 100 bytes"):
        publish(worker=worker(tensors=6))


@pytest.mark.parametrize("status", [4, -1, 2**31 - 1])
def test_an_unknown_status_is_refused(status: int) -> None:
    with pytest.raises(InvalidArgument, match=r"worker\.status"):
        publish(worker=p2p_pb2.WorkerMetadata(status=status))  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [b"\x0a\x05abc", b"\x1a\x02\xff\xfe", b"\xff" * 30])
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="not a valid"):
        Publication.from_p2p(data)
    with pytest.raises(InvalidArgument):
        Publication.from_v1(data)


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(data: bytes) -> None:
    for parse in (Publication.from_p2p, Publication.from_v1):
        try:
            parse(data)
        except InvalidArgument:
            pass


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, None),
        ({"training_step": "7"}, 7),
        ({"training_step": "007"}, 7),
        ({"training_step": "0"}, 0),
        ({"version": "8"}, 8),
        ({"training_step": "7", "version": "8"}, 7),
        ({"training_step": "seven", "version": "8"}, None),
        ({"training_step": "", "version": "8"}, None),
        ({"training_step": str(2**64 - 1)}, 2**64 - 1),
        ({"training_step": str(2**64)}, None),
        ({"training_step": "9" * 10_000}, None),
        ({"training_step": "0" * 10_000 + "5"}, 5),
        ({"training_step": "-1"}, None),
        ({"training_step": "+1"}, None),
        ({"training_step": " 1"}, None),
        ({"training_step": "١"}, None),
        ({"training_step": "²"}, None),
        ({"Training_Step": "7"}, None),
    ],
)
def test_training_step(parameters: dict[str, str], expected: int | None) -> None:
    assert training_step(parameters.items()) == expected


def manifest(**changes: object) -> sources_pb2.Manifest:
    fields: dict[str, object] = {
        "form": Form.CHECKPOINT,
        "items": [sources_pb2.Item(name="a", size=5, dtype="BF16", shape=[5], digest=b"x" * 16)],
        "files": [sources_pb2.File(path="model.safetensors", size=5, digest=b"x" * 16)],
        "endpoints": [
            sources_pb2.Endpoint(engine="tcp", address="h:1"),
            sources_pb2.Endpoint(engine="memfd"),
            sources_pb2.Endpoint(engine="tcp", address="h:2"),
        ],
        "content": "c0ffee",
    }
    fields.update(changes)
    return sources_pb2.Manifest(**fields)  # type: ignore[arg-type]


def publish_v1(content: sources_pb2.Manifest | None) -> Publication:
    return Publication.from_v1(sources_pb2.PublishRequest(record=request(), manifest=content).SerializeToString())


def test_a_manifest_is_summed_up() -> None:
    kept = publish_v1(manifest())
    assert kept.manifest == manifest().SerializeToString()
    record = kept.record
    assert (record.form, record.content, record.item_count, record.total_size) == (Form.CHECKPOINT, "c0ffee", 1, 5)
    assert record.engines == ("tcp", "memfd")
    assert (record.refs, record.part) == ((), "")
    known = publish_v1(manifest(refs=["main", "refs/pr/1"], part="--include '*'")).record
    assert (known.refs, known.part) == (("main", "refs/pr/1"), "--include '*'")


def test_v1_needs_a_manifest() -> None:
    with pytest.raises(MissingField, match="manifest"):
        publish_v1(None)
    with pytest.raises(MissingField, match="record"):
        Publication.from_v1(sources_pb2.PublishRequest(manifest=manifest()).SerializeToString())


def test_an_empty_manifest_is_one() -> None:
    kept = publish_v1(sources_pb2.Manifest())
    assert kept.manifest == b""
    assert kept.record.form is Form.UNSPECIFIED


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"form": 9}, "manifest.form"),
        ({"refs": ["main"] * 65}, "manifest.refs"),
        ({"part": "p" * 5000}, "manifest.part"),
        ({"refs": ["r" * 10_000, "s" * 10_000]}, "manifest.refs"),
        ({"refs": ["two\nlines"]}, "manifest.refs"),
        ({"items": [], "files": [sources_pb2.File(path="a", blob="b" * 2000)]}, "manifest.files.blob"),
        ({"items": [sources_pb2.Item(name="a", digest=b"x")]}, "manifest.items.digest"),
        ({"items": [sources_pb2.Item(name="a", file=1)]}, "manifest.items.file"),
        ({"items": [sources_pb2.Item(name="a", shape=[1] * 65)]}, "manifest.items.shape"),
        ({"items": [sources_pb2.Item(name="a"), sources_pb2.Item(name="a")]}, "manifest.items"),
        ({"items": [sources_pb2.Item(name=n, size=2**63) for n in "ab"]}, "manifest.items"),
        ({"items": [sources_pb2.Item(name="a" * 5000)]}, "manifest.items.name"),
        ({"items": [], "files": [sources_pb2.File()]}, r"manifest.files\[0\].path"),
        ({"items": [], "files": [sources_pb2.File(path="a"), sources_pb2.File(path="a")]}, "manifest.files"),
        ({"items": [], "files": [sources_pb2.File(path="a", digest=b"1")]}, "manifest.files.digest"),
        ({"endpoints": [sources_pb2.Endpoint()]}, r"manifest.endpoints\[0\].engine"),
        ({"endpoints": [sources_pb2.Endpoint(engine="a,b")]}, r"manifest.endpoints\[0\].engine"),
        ({"endpoints": [sources_pb2.Endpoint(engine="tcp", address="a" * 5000)]}, "manifest.endpoints.address"),
        ({"endpoints": [sources_pb2.Endpoint(engine="tcp")] * 65}, "manifest.endpoints"),
        ({"content": "c" * 5000}, "manifest.content"),
    ],
)
def test_a_bad_manifest_is_named(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        publish_v1(manifest(**changes))


def test_the_form_may_stand_in_the_identity() -> None:
    named = publish(identity=identity(**{"peerload.form": "runtime"}))
    assert named.record.form is Form.RUNTIME


def test_how_many_ranks_a_replica_has_is_what_is_said_or_what_the_identity_tells() -> None:
    def sizes(tensor: int, pipeline: int, rank: int = 0, said: int = 0, replica: str = "") -> tuple[int, str]:
        about = identity()
        about.tensor_parallel_size, about.pipeline_parallel_size = tensor, pipeline
        record = request(identity=about, worker=worker(rank))
        if not (said or replica):
            kept = Publication.from_p2p(record.SerializeToString()).record
            assert (kept.world_size, kept.replica) == (kept.to_value().get("world_size", 0), "")
        sent = sources_pb2.PublishRequest(record=record, manifest={}, replica=replica, world_size=said)
        told = Publication.from_v1(sent.SerializeToString()).record
        return told.world_size, told.replica

    assert sizes(8, 2) == (16, "")
    assert sizes(8, 2, said=32, replica="job") == (32, "job")
    assert sizes(0, 1) == sizes(0, 0) == (0, "")
    # Not among so many: the identity does not tell (data parallel replicas count their ranks through).
    assert sizes(8, 1, rank=8) == (0, "")
    assert sizes(2**31, 2**31) == (0, "")
    with pytest.raises(LimitExceeded, match=r"world_size: has 2000000 ranks, more than 1048576"):
        sizes(1, 1, said=2_000_000)
    with pytest.raises(LimitExceeded, match="replica"):
        sizes(1, 1, replica="r" * 2000)
