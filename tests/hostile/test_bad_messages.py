# ruff: noqa: PT017  calls that may either fail in one way or succeed
"""Bad input over the wire: each gets a clear error that names the field or the limit, and leaves nothing behind."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peerload.wire import p2p_pb2, sources_pb2
from peerload.wire.identity import source_id
from peerload.wire.splice import bytes_field, varint_field
from tests.support.live import MAX_MESSAGE, LiveServer, Rpc, code_of, eventually, publication, ready

P2P = "/model_express.p2p.P2pService/"
SOURCES = "/peerload.v1.SourceService/"
MEGABYTE = 1_000_000
MANY = 200_000
TOO_MANY = 1_000_001
PLAIN_ANSWER_BYTES = 2_000

Request = p2p_pb2.PublishMetadataRequest


def refusal(rpc: Rpc, request: Request | bytes, *, codes: tuple[grpc.StatusCode, ...] = ()) -> str:
    """How the server refused a publication: the text of success=false, or of a status that blames the caller."""
    try:
        answer = rpc.publish(request)
    except grpc.RpcError as error:
        expected = codes or (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert code_of(error) in expected, error
        text = str(error.details())
    else:
        assert not answer.success, "the server accepted it"
        assert not answer.mx_source_id
        text = answer.message
    assert 0 < len(text) < PLAIN_ANSWER_BYTES, "an answer is a sentence and not an echo"
    return text


def nothing_is_left(rpc: Rpc) -> None:
    assert not rpc.list(p2p_pb2.ListSourcesRequest()).instances


def tensor_list(count: int) -> bytes:
    """An encoded TensorSourceMetadata of `count` small tensors."""
    return b"".join(bytes_field(1, bytes_field(1, b"%07d" % i), varint_field(3, 2)) for i in range(count))


def with_tensors(encoded: bytes) -> bytes:
    """An encoded publication whose tensor list is `encoded`."""
    request = publication(tensors=0)
    worker = request.worker.SerializeToString() + bytes_field(20, encoded)
    request.ClearField("worker")
    return request.SerializeToString() + bytes_field(2, worker)


def test_a_message_over_the_limit(rpc: Rpc, server: LiveServer) -> None:
    request = publication()
    request.worker.nixl_metadata = bytes(MAX_MESSAGE + 1)
    before = server.rss()
    for _ in range(3):
        assert str(MAX_MESSAGE) in refusal(rpc, request, codes=(grpc.StatusCode.RESOURCE_EXHAUSTED,))
    nothing_is_left(rpc)
    assert server.rss() < before + 2 * MAX_MESSAGE


def test_a_message_that_swells_over_the_limit(server: LiveServer) -> None:
    """A few hundred kilobytes on the wire, 300 MiB once inflated."""
    zeros = bytes(3 * MAX_MESSAGE)
    with Rpc(server.address) as rpc, pytest.raises(grpc.RpcError) as error:
        rpc.channel.unary_unary(P2P + "PublishMetadata")(zeros, timeout=60, compression=grpc.Compression.Gzip)
    assert code_of(error.value) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.rss() < 700_000_000


def test_a_great_many_tensors_work(rpc: Rpc) -> None:
    request = with_tensors(tensor_list(MANY))
    answer = rpc.publish(request)
    assert answer.success, answer.message
    found = rpc.get(answer.mx_source_id, "w0")
    assert len(found.worker.tensor_source.tensors) == MANY
    assert found.worker.tensor_source == p2p_pb2.TensorSourceMetadata.FromString(tensor_list(MANY))
    assert rpc.withdraw(answer.mx_source_id, "w0")


def test_more_tensors_than_the_limit(rpc: Rpc) -> None:
    text = refusal(rpc, with_tensors(tensor_list(TOO_MANY)))
    assert "tensors" in text
    assert "1000000" in text.replace(",", "").replace("_", "")
    nothing_is_left(rpc)


def set_model(request: Request, text: str) -> None:
    request.identity.model_name = text


def set_worker_id(request: Request, text: str) -> None:
    request.worker_id = text


def set_revision(request: Request, text: str) -> None:
    request.identity.revision = text


def set_tensor_name(request: Request, text: str) -> None:
    request.worker.tensor_source.tensors[0].name = text


def set_old_tensor_name(request: Request, text: str) -> None:
    request.worker.tensors.add(name=text)


def set_accelerator(request: Request, text: str) -> None:
    request.worker.accelerator = text


def set_topology_key(request: Request, text: str) -> None:
    request.worker.topology[text] = "x"


def set_topology(request: Request, text: str) -> None:
    request.worker.topology["host"] = text


def set_extra_key(request: Request, text: str) -> None:
    request.identity.extra_parameters[text] = "x"


def set_layout(request: Request, text: str) -> None:
    request.identity.extra_parameters["layout_signature"] = text


def set_pod(request: Request, text: str) -> None:
    request.pod_name = text


@pytest.mark.parametrize(
    ("setter", "name"),
    [
        (set_model, "model_name"),
        (set_worker_id, "worker_id"),
        (set_revision, "revision"),
        (set_tensor_name, "name"),
        (set_old_tensor_name, "name"),
        (set_accelerator, "accelerator"),
        (set_topology_key, "topology"),
        (set_topology, "topology"),
        (set_extra_key, "identity"),
        (set_layout, "identity"),
        (set_pod, "pod_name"),
    ],
)
def test_names_of_a_megabyte(rpc: Rpc, setter: Callable[[Request, str], None], name: str) -> None:
    request = publication()
    setter(request, "n" * MEGABYTE)
    assert name in refusal(rpc, request)
    nothing_is_left(rpc)


@pytest.mark.parametrize("call", ["GetMetadata", "UpdateStatus", "GetManifest", "Withdraw"])
def test_ids_of_a_megabyte_are_nobody(rpc: Rpc, call: str) -> None:
    huge = "i" * MEGABYTE
    if call == "GetMetadata":
        answer = rpc.get(huge, huge)
        assert (answer.found, answer.mx_source_id, answer.worker_id) == (False, huge, huge)
    elif call == "UpdateStatus":
        request = p2p_pb2.UpdateStatusRequest(mx_source_id=huge, worker_id=huge, status=p2p_pb2.SOURCE_STATUS_READY)
        update = rpc.update(request)
        assert not update.success
        assert 0 < len(update.message) < PLAIN_ANSWER_BYTES
    elif call == "Withdraw":
        refused_or_false(lambda: rpc.withdraw(huge, huge))
    else:
        ask = sources_pb2.GetManifestRequest(source_id=huge, worker_id=huge)
        with pytest.raises(grpc.RpcError) as error:
            rpc.call(SOURCES + "GetManifest", ask, sources_pb2.GetManifestResponse)
        assert code_of(error.value) in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
        assert len(str(error.value.details())) < PLAIN_ANSWER_BYTES


def refused_or_false(call: Callable[[], bool]) -> None:
    try:
        assert not call()
    except grpc.RpcError as error:
        assert code_of(error) is grpc.StatusCode.INVALID_ARGUMENT


def test_a_header_of_a_megabyte(rpc: Rpc) -> None:
    with pytest.raises(grpc.RpcError) as error:
        rpc.list(p2p_pb2.ListSourcesRequest(), metadata=(("x-noise", "n" * MEGABYTE),))
    assert code_of(error.value) in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


BROKEN = b"\xff\xfe model"
BROKEN_MESSAGES = {
    "model name": (P2P + "PublishMetadata", bytes_field(1, bytes_field(3, BROKEN))),
    "worker id": (P2P + "PublishMetadata", publication().SerializeToString() + bytes_field(3, BROKEN)),
    "tensor name": (P2P + "PublishMetadata", with_tensors(bytes_field(1, bytes_field(1, BROKEN)))),
    "topology": (
        P2P + "PublishMetadata",
        publication().SerializeToString() + bytes_field(2, bytes_field(11, bytes_field(1, BROKEN))),
    ),
    "list": (P2P + "ListSources", bytes_field(3, BROKEN)),
    "get": (P2P + "GetMetadata", bytes_field(1, BROKEN)),
    "update": (P2P + "UpdateStatus", bytes_field(1, BROKEN)),
    "withdraw": (SOURCES + "Withdraw", bytes_field(1, BROKEN)),
    "selector": (SOURCES + "List", bytes_field(1, bytes_field(3, BROKEN))),
    "manifest": (SOURCES + "Publish", bytes_field(2, bytes_field(2, bytes_field(1, BROKEN)))),
    "ping": ("/model_express.api.ApiService/SendRequest", bytes_field(2, BROKEN)),
}


@pytest.mark.parametrize("name", BROKEN_MESSAGES)
def test_text_that_is_not_utf_8(rpc: Rpc, name: str) -> None:
    path, message = BROKEN_MESSAGES[name]
    with pytest.raises(grpc.RpcError) as error:
        rpc.raw(path, message)
    assert code_of(error.value) is grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.details()
    nothing_is_left(rpc)


GARBAGE = {
    "noise": bytes(range(255, 0, -1)),
    "a length beyond the end": b"\x0a\xff\xff\xff\xff\x0f",
    "an endless varint": b"\x08" + b"\xff" * 100,
    "nested groups": b"\x7b" * 100_000,
    "field zero": b"\x00\x00",
}
UNARY = (
    P2P + "PublishMetadata",
    P2P + "ListSources",
    P2P + "GetMetadata",
    P2P + "UpdateStatus",
    SOURCES + "Publish",
    SOURCES + "Withdraw",
    SOURCES + "GetManifest",
    SOURCES + "List",
    "/peerload.v1.TransferService/Report",
    "/model_express.api.ApiService/SendRequest",
    "/grpc.health.v1.Health/Check",
)


@pytest.mark.parametrize("path", UNARY)
@pytest.mark.parametrize("name", GARBAGE)
def test_bytes_that_are_no_message(rpc: Rpc, path: str, name: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        rpc.raw(path, GARBAGE[name])
    assert code_of(error.value) is grpc.StatusCode.INVALID_ARGUMENT
    nothing_is_left(rpc)


def test_a_stream_opened_with_garbage(rpc: Rpc) -> None:
    with pytest.raises(grpc.RpcError) as error:
        next(rpc.channel.unary_stream(SOURCES + "Watch")(GARBAGE["noise"], timeout=10))
    assert code_of(error.value) is grpc.StatusCode.INVALID_ARGUMENT


def test_methods_that_are_not_there(rpc: Rpc) -> None:
    for path in ("/model_express.model.ModelService/EnsureModelDownloaded", "/x/y", P2P + "Publishmetadata", "/"):
        with pytest.raises(grpc.RpcError) as error:
            rpc.raw(path, b"")
        assert code_of(error.value) is grpc.StatusCode.UNIMPLEMENTED


def test_huge_numbers_come_back_whole(rpc: Rpc) -> None:
    largest32, largest64 = 2**32 - 1, 2**64 - 1
    request = publication(
        rank=largest32,
        tensor_parallel_size=largest32,
        pipeline_parallel_size=largest32,
        expert_parallel_size=largest32,
        extra_parameters={"training_step": str(largest64)},
    )
    request.worker.updated_at = 2**63 - 1
    request.worker.tensor_source.tensors.add(name="a", addr=largest64, size=2**62, device_id=largest32)
    answer = rpc.publish(request)
    assert answer.success, answer.message
    assert answer.mx_source_id == source_id(request.identity)
    found = rpc.get(answer.mx_source_id, "w0")
    assert found.worker.tensor_source == request.worker.tensor_source
    assert 0 < found.worker.updated_at < 2**53, "the server's own stamp"
    (ref,) = rpc.list(p2p_pb2.ListSourcesRequest(min_training_step=largest64, limit=largest32)).instances
    assert (ref.worker_rank, ref.training_step) == (largest32, largest64)
    assert not rpc.list(p2p_pb2.ListSourcesRequest(min_updated_at=2**63 - 1)).instances
    assert len(rpc.list(p2p_pb2.ListSourcesRequest(min_updated_at=-(2**63))).instances) == 1
    listed = rpc.call(SOURCES + "List", b"", sources_pb2.ListResponse)
    assert (listed.sources[0].item_count, listed.sources[0].total_size) == (2, 2**62 + 4096)
    update = p2p_pb2.UpdateStatusRequest(
        mx_source_id=answer.mx_source_id, worker_id="w0", worker_rank=largest32, status=p2p_pb2.SOURCE_STATUS_READY
    )
    assert rpc.update(update).success
    assert rpc.withdraw(answer.mx_source_id, "w0", largest32)


@pytest.mark.parametrize("sizes", [(2**64 - 1,), (2**63 - 1, 1), (2**64 - 1,) * 3])
def test_more_bytes_than_there_can_be(rpc: Rpc, sizes: tuple[int, ...]) -> None:
    request = publication(tensors=0)
    for number, size in enumerate(sizes):
        request.worker.tensor_source.tensors.add(name=f"t{number}", size=size)
    text = refusal(rpc, request)
    assert "tensors" in text
    assert str(2**63 - 1) in text
    nothing_is_left(rpc)


@pytest.mark.parametrize(
    "step", ["18446744073709551616", "-1", "+1", "1e5", " 1", "1_000", "٣", "0x10", "", "9" * 4000, "1.0"]
)
def test_a_training_step_that_is_no_number_is_unset(rpc: Rpc, step: str) -> None:
    request = publication(extra_parameters={"training_step": step, "version": "7"})
    answer = rpc.publish(request)
    assert answer.success, answer.message
    (ref,) = rpc.list(p2p_pb2.ListSourcesRequest()).instances
    assert not ref.HasField("training_step")
    assert not rpc.list(p2p_pb2.ListSourcesRequest(min_training_step=0)).instances
    assert rpc.withdraw(answer.mx_source_id, "w0")


@pytest.mark.parametrize("load", [math.nan, math.inf, -math.inf, -1.0, 1.5, 3.4e38])
def test_a_load_beyond_its_range_is_never_passed_on(rpc: Rpc, load: float) -> None:
    """What is not finite is refused; a finite one is brought into its range, for a busy source is not a dead one."""
    published = rpc.publish(publication())
    update = p2p_pb2.UpdateStatusRequest(
        mx_source_id=published.mx_source_id, worker_id="w0", status=p2p_pb2.SOURCE_STATUS_READY, source_load=load
    )
    if math.isfinite(load):
        assert rpc.update(update).success
        expected = min(1.0, max(0.0, load))
        eventually(lambda: rpc.list(p2p_pb2.ListSourcesRequest()).instances[0].source_load == expected)
    else:
        with pytest.raises(grpc.RpcError) as error:
            rpc.update(update)
        assert code_of(error.value) is grpc.StatusCode.INVALID_ARGUMENT
        assert "source_load" in str(error.value.details())
    assert rpc.withdraw(published.mx_source_id, "w0")


@pytest.mark.parametrize("number", [4, 99, 2**31 - 1, -1])
def test_unknown_statuses(rpc: Rpc, number: Any) -> None:
    with pytest.raises(grpc.RpcError) as error:
        rpc.list(varint_field(2, number))
    assert code_of(error.value) is grpc.StatusCode.INVALID_ARGUMENT
    assert "status" in str(error.value.details())

    assert "status" in refusal(rpc, publication(status=number))
    nothing_is_left(rpc)

    published = rpc.publish(publication(status=p2p_pb2.SOURCE_STATUS_INITIALIZING))
    update = rpc.update(p2p_pb2.UpdateStatusRequest(mx_source_id=published.mx_source_id, worker_id="w0", status=number))
    assert not update.success
    assert "status" in update.message
    assert rpc.get(published.mx_source_id, "w0").worker.status == p2p_pb2.SOURCE_STATUS_INITIALIZING
    assert rpc.withdraw(published.mx_source_id, "w0")

    with pytest.raises(grpc.RpcError) as error:
        rpc.call(SOURCES + "List", bytes_field(1, varint_field(7, number)), sources_pb2.ListResponse)
    assert code_of(error.value) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("field", ["mx_source_type", "backend_framework"])
def test_unknown_kinds_do_no_harm(rpc: Rpc, field: str) -> None:
    """Newer clients may know more kinds than we do: then they are part of the identity like any other number."""
    request = publication()
    setattr(request.identity, field, 99)
    try:
        answer = rpc.publish(request)
    except grpc.RpcError as error:
        assert code_of(error) is grpc.StatusCode.INVALID_ARGUMENT
        assert field in str(error.details())
        return
    if not answer.success:
        assert field in answer.message
        return
    assert answer.mx_source_id == source_id(request.identity)
    assert getattr(rpc.get(answer.mx_source_id, "w0").identity, field) == 99
    assert rpc.withdraw(answer.mx_source_id, "w0")


@pytest.mark.parametrize("missing", ["identity", "model_name", "worker", "worker_id"])
def test_what_is_missing_is_named(rpc: Rpc, missing: str) -> None:
    request = publication()
    (request.identity if missing == "model_name" else request).ClearField(missing)
    answer = rpc.publish(request)
    assert not answer.success
    assert missing in answer.message
    nothing_is_left(rpc)
    assert not rpc.publish(b"").success


STRANGE_IDS = [
    "a/b",
    "/",
    "//",
    "../../etc",
    "0/w0",
    "a\nb",
    "\x00",
    "a\x00b",
    "%2F",
    " ",
    "é",
    "e\u0301",
    "\U0010ffff",
    "*",
    "'; --",
]


def test_strange_worker_ids_are_all_different_workers(rpc: Rpc) -> None:
    for worker_id in STRANGE_IDS:
        answer = rpc.publish(publication(worker_id=worker_id))
        assert answer.success, answer.message
        assert answer.worker_id == worker_id
    listed = [ref.worker_id for ref in rpc.list(ready()).instances]
    assert sorted(listed) == sorted(STRANGE_IDS)
    for worker_id in STRANGE_IDS:
        assert rpc.get(answer.mx_source_id, worker_id).worker_id == worker_id
        update = p2p_pb2.UpdateStatusRequest(
            mx_source_id=answer.mx_source_id, worker_id=worker_id, status=p2p_pb2.SOURCE_STATUS_STALE
        )
        assert rpc.update(update).success
    for count, worker_id in enumerate(STRANGE_IDS, 1):
        assert rpc.withdraw(answer.mx_source_id, worker_id)
        assert len(rpc.list(p2p_pb2.ListSourcesRequest()).instances) == len(STRANGE_IDS) - count


def test_a_tensor_listed_twice(rpc: Rpc) -> None:
    request = publication(tensors=3)
    request.worker.tensor_source.tensors.add(name="layer.1", size=1)
    text = refusal(rpc, request)
    assert "layer.1" in text
    nothing_is_left(rpc)
    both = publication(tensors=3)
    both.worker.tensors.extend(both.worker.tensor_source.tensors)
    answer = rpc.publish(both)
    assert answer.success, "once in the old field and once in the new one is how stock engines publish"
    assert rpc.withdraw(answer.mx_source_id, "w0")


def test_zeroes_are_valid(rpc: Rpc) -> None:
    request = publication(rank=0, tensors=0, tensor_parallel_size=0, pipeline_parallel_size=0, expert_parallel_size=0)
    answer = rpc.publish(request)
    assert answer.success, answer.message
    assert rpc.get(answer.mx_source_id, "w0").worker.worker_rank == 0
    update = p2p_pb2.UpdateStatusRequest(
        mx_source_id=answer.mx_source_id, worker_id="w0", worker_rank=0, status=p2p_pb2.SOURCE_STATUS_READY
    )
    assert rpc.update(update).success
    assert [ref.worker_rank for ref in rpc.list(p2p_pb2.ListSourcesRequest(worker_rank_filter=0)).instances] == [0]
    assert rpc.withdraw(answer.mx_source_id, "w0", 0)


def manifest_request(**manifest: Any) -> sources_pb2.PublishRequest:
    record = publication(tensors=0, extra_parameters={"peerload.form": "checkpoint"})
    return sources_pb2.PublishRequest(
        record=record, manifest=sources_pb2.Manifest(form=sources_pb2.FORM_CHECKPOINT, **manifest)
    )


@pytest.mark.parametrize(
    ("manifest", "named"),
    [
        ({"items": [sources_pb2.Item(name="a"), sources_pb2.Item(name="a")]}, "a"),
        ({"items": [sources_pb2.Item(name="a", digest=b"short")]}, "digest"),
        ({"items": [sources_pb2.Item(name="n" * MEGABYTE)]}, "name"),
        ({"endpoints": [sources_pb2.Endpoint(engine="e" * MEGABYTE)]}, "engine"),
        ({"files": [sources_pb2.File(path="p" * MEGABYTE)]}, "path"),
        ({"content": "c" * MEGABYTE}, "content"),
    ],
)
def test_manifests_that_cannot_be(rpc: Rpc, manifest: dict[str, Any], named: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        rpc.call(SOURCES + "Publish", manifest_request(**manifest), sources_pb2.PublishResponse)
    assert code_of(error.value) in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert named in str(error.value.details())
    assert len(str(error.value.details())) < PLAIN_ANSWER_BYTES
    nothing_is_left(rpc)


def test_a_resume_token_of_nobodys(rpc: Rpc) -> None:
    """A token of another life of the server, or none at all, begins again from everything."""
    for token in ("", "nonsense", ":", "x:-1", "1:" + "9" * 400):
        request = sources_pb2.WatchRequest(resume_token=token)
        stream = rpc.channel.unary_stream(SOURCES + "Watch")(request.SerializeToString(), timeout=10)
        first = sources_pb2.WatchResponse.FromString(next(stream))
        assert first.complete
        stream.cancel()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_messages_do_no_harm(rpc: Rpc, data: st.DataObject) -> None:
    """Whatever a broken client sends, the answer blames the caller or accepts, and never is an inner error."""
    message = bytearray(publication(tensors=2, extra_parameters={"a": "b"}).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(message) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "repeat"]))
        if kind == "flip":
            message[position] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del message[position : position + data.draw(st.integers(1, 8))]
            message = message or bytearray(b"\x00")
        else:
            message[position:position] = message[position : position + 16]
    for path in UNARY:
        try:
            answer = rpc.raw(path, bytes(message))
        except grpc.RpcError as error:
            assert code_of(error) in (
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                grpc.StatusCode.NOT_FOUND,
            ), error
            continue
        if path.endswith("PublishMetadata"):
            published = p2p_pb2.PublishMetadataResponse.FromString(answer)
            if published.success:
                assert rpc.withdraw(published.mx_source_id, published.worker_id)
        elif path.endswith("/Publish"):
            made = sources_pb2.PublishResponse.FromString(answer)
            assert rpc.withdraw(made.source_id, made.worker_id)


def test_big_questions_are_not_kept(rpc: Rpc, server: LiveServer) -> None:
    """Identities that nobody publishes, of 8 MB each, all different."""
    before = server.rss()
    for number in range(30):
        identity = p2p_pb2.SourceIdentity(model_name=f"{number:02}" * 4_000_000)
        try:
            assert not rpc.list(p2p_pb2.ListSourcesRequest(identity=identity)).instances
        except grpc.RpcError as error:
            assert code_of(error) in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert server.rss() < before + 100_000_000
