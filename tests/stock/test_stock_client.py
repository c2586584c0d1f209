"""The four calls of the stock client against a real server, through its own class."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import grpc
import pytest

from peerload.wire import identity as wire_identity
from peerload.wire import p2p_pb2
from tests.support.live import LiveServer, Rpc, code_of, eventually
from tests.support.stock import import_stock


def identity_of(p2p: Any, model: str = "org/Model-7B", **fields: Any) -> Any:
    return p2p.SourceIdentity(
        mx_version="0.7.0",
        mx_source_type=p2p.MX_SOURCE_TYPE_WEIGHTS,
        model_name=model,
        backend_framework=p2p.BACKEND_FRAMEWORK_VLLM,
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        dtype="bfloat16",
        **fields,
    )


def full_worker(p2p: Any, rank: int = 0, tensors: int = 3, **fields: Any) -> Any:
    """What an engine publishes with MX_P2P_METADATA=0: blob, and the tensor list in both of its places."""
    listed = [
        p2p.TensorDescriptor(
            name=f"model.layers.{i}.w", addr=1 << 40 | i, size=1024, device_id=1, dtype="torch.bfloat16"
        )
        for i in range(tensors)
    ]
    return p2p.WorkerMetadata(
        worker_rank=rank,
        nixl_metadata=b"\x00\xffagent\x80",
        tensors=listed,
        tensor_source=p2p.TensorSourceMetadata(tensors=listed),
        accelerator="cuda",
        topology={"rack": "r1", "host": "node7"},
        **fields,
    )


def test_publish_ready_list_get(client: Any, p2p: Any) -> None:
    identity, worker = identity_of(p2p), full_worker(p2p)
    source_id = client.publish_metadata(identity, worker, "ab12cd34")

    assert source_id == import_stock("metadata.source_id").compute_mx_source_id(identity)
    assert not client.list_sources(identity, p2p.SOURCE_STATUS_READY).instances, "published as UNKNOWN: not yet READY"
    assert client.update_status(source_id, "ab12cd34", 0, p2p.SOURCE_STATUS_READY, source_load=0.25)

    (ref,) = client.list_sources(identity, p2p.SOURCE_STATUS_READY).instances
    assert (ref.mx_source_id, ref.worker_id, ref.worker_rank) == (source_id, "ab12cd34", 0)
    assert (ref.model_name, ref.accelerator, dict(ref.topology)) == (
        "org/Model-7B",
        "cuda",
        {"rack": "r1", "host": "node7"},
    )
    assert ref.source_load == pytest.approx(0.25)
    assert ref.updated_at > 0

    found = client.get_metadata(source_id, "ab12cd34")
    assert found.found
    assert found.identity == identity
    assert found.worker.status == p2p.SOURCE_STATUS_READY
    assert found.worker.updated_at >= ref.updated_at
    found.worker.status, found.worker.updated_at = 0, 0
    assert found.worker == worker, "what was published comes back as it was"


def test_all_sources_without_an_identity(client: Any, p2p: Any) -> None:
    for model, worker_id in (("org/one", "w1"), ("org/two", "w2")):
        client.publish_metadata(identity_of(p2p, model), full_worker(p2p, status=p2p.SOURCE_STATUS_READY), worker_id)
    assert {ref.worker_id for ref in client.list_sources().instances} == {"w1", "w2"}
    assert {ref.worker_id for ref in client.list_sources(p2p.SourceIdentity()).instances} == {"w1", "w2"}
    assert {ref.worker_id for ref in client.list_sources(identity_of(p2p, "org/one")).instances} == {"w1"}
    assert not client.list_sources(identity_of(p2p, "org/three")).instances
    assert not client.list_sources(identity_of(p2p, "org/one", revision="r1")).instances, "a revision is another source"
    assert client.list_sources(identity_of(p2p, "ORG/ONE")).instances, "identities know no case"


def test_an_explicit_zero_filters_for_unknown(client: Any, p2p: Any) -> None:
    identity = identity_of(p2p)
    client.publish_metadata(identity, full_worker(p2p), "w1")
    client.publish_metadata(identity, full_worker(p2p, status=p2p.SOURCE_STATUS_READY), "w2")
    assert [ref.worker_id for ref in client.list_sources(identity, p2p.SOURCE_STATUS_UNKNOWN).instances] == ["w1"]


def test_statuses_follow_one_another(client: Any, p2p: Any) -> None:
    identity = identity_of(p2p)
    source_id = client.publish_metadata(identity, full_worker(p2p), "w1")
    for status in (
        p2p.SOURCE_STATUS_INITIALIZING,
        p2p.SOURCE_STATUS_READY,
        p2p.SOURCE_STATUS_STALE,
        p2p.SOURCE_STATUS_READY,
        p2p.SOURCE_STATUS_STALE,
    ):
        assert client.update_status(source_id, "w1", 0, status)
        assert client.get_metadata(source_id, "w1").worker.status == status
        ready = client.list_sources(identity, p2p.SOURCE_STATUS_READY).instances
        assert bool(ready) == (status == p2p.SOURCE_STATUS_READY)


def test_a_load_is_kept_until_an_update_without_one(client: Any, p2p: Any) -> None:
    """Mere refreshes are answered before they are listed, within a moment."""
    identity = identity_of(p2p)
    source_id = client.publish_metadata(identity, full_worker(p2p), "w1")

    def shown() -> float | None:
        (ref,) = client.list_sources(identity).instances
        return ref.source_load if ref.HasField("source_load") else None

    for load in (0.0, None, 1.0, None):
        assert client.update_status(source_id, "w1", 0, p2p.SOURCE_STATUS_READY, source_load=load)
        eventually(lambda load=load: shown() == load, within=5)


def test_publishing_again_replaces(client: Any, p2p: Any) -> None:
    identity = identity_of(p2p)
    for tensors in (2, 2, 5):
        source_id = client.publish_metadata(identity, full_worker(p2p, tensors=tensors), "w1")
    assert len(client.list_sources(identity).instances) == 1
    assert len(client.get_metadata(source_id, "w1").worker.tensor_source.tensors) == 5


def test_one_worker_id_under_several_sources(client: Any, p2p: Any) -> None:
    weights = client.publish_metadata(identity_of(p2p), full_worker(p2p), "w1")
    caches = identity_of(p2p)
    caches.mx_source_type = p2p.MX_SOURCE_TYPE_TORCH_COMPILE_CACHE
    artifact = p2p.WorkerMetadata(
        worker_grpc_endpoint="10.0.0.1:6555",
        artifact_source=p2p.ArtifactSourceMetadata(artifact_id="a", total_size=7, file_count=1, chunk_count=1),
    )
    cache_id = client.publish_metadata(caches, artifact, "w1")
    assert weights != cache_id
    assert client.update_status(weights, "w1", 0, p2p.SOURCE_STATUS_READY)
    assert client.get_metadata(cache_id, "w1").worker.status == p2p.SOURCE_STATUS_UNKNOWN
    assert client.get_metadata(cache_id, "w1").worker.artifact_source.artifact_id == "a"


@pytest.mark.parametrize("size", ["small record", "transfer engine", "nothing at all"])
def test_every_kind_of_backend_comes_back(client: Any, p2p: Any, size: str) -> None:
    worker = {
        "small record": p2p.WorkerMetadata(
            metadata_endpoint="10.0.0.1:5555", agent_name="agent", worker_grpc_endpoint="10.0.0.1:6555"
        ),
        "transfer engine": p2p.WorkerMetadata(transfer_engine_session_id="10.0.0.1:12345"),
        "nothing at all": p2p.WorkerMetadata(),
    }[size]
    source_id = client.publish_metadata(identity_of(p2p), worker, "w1")
    found = client.get_metadata(source_id, "w1").worker
    found.updated_at = 0
    assert found == worker
    assert found.WhichOneof("backend_metadata") == worker.WhichOneof("backend_metadata")


def test_what_is_missing_is_named(client: Any, p2p: Any) -> None:
    with pytest.raises(RuntimeError, match="model_name"):
        client.publish_metadata(p2p.SourceIdentity(), full_worker(p2p), "w1")
    with pytest.raises(RuntimeError, match="identity"):
        client.publish_metadata(None, full_worker(p2p), "w1")
    with pytest.raises(RuntimeError, match="worker"):
        client.publish_metadata(identity_of(p2p), None, "w1")
    with pytest.raises(RuntimeError, match="worker_id"):
        client.publish_metadata(identity_of(p2p), full_worker(p2p), "")
    assert not client.list_sources().instances


def test_unknown_workers_are_facts_and_not_errors(client: Any, p2p: Any) -> None:
    source_id = client.publish_metadata(identity_of(p2p), full_worker(p2p), "w1")
    for asked in ((source_id, "nobody"), ("0123456789abcdef", "w1"), ("no source id", "w1"), ("", "")):
        answer = client.get_metadata(*asked)
        assert (answer.found, answer.mx_source_id, answer.worker_id) == (False, *asked)
        assert not client.update_status(asked[0], asked[1], 0, p2p.SOURCE_STATUS_READY)
    assert not client.update_status(source_id, "w1", 7, p2p.SOURCE_STATUS_READY), "another rank is another record"
    assert client.update_status(source_id, "w1", 0, p2p.SOURCE_STATUS_READY)


def test_several_ranks_under_one_worker_id(client: Any, p2p: Any) -> None:
    identity = identity_of(p2p)
    for rank in (3, 1):
        source_id = client.publish_metadata(identity, full_worker(p2p, rank=rank), "w1")
    assert client.update_status(source_id, "w1", 3, p2p.SOURCE_STATUS_READY)
    assert not client.list_sources(identity, p2p.SOURCE_STATUS_READY).instances, "rank 1 is not READY yet"
    assert client.update_status(source_id, "w1", 1, p2p.SOURCE_STATUS_READY)
    (ref,) = client.list_sources(identity, p2p.SOURCE_STATUS_READY).instances
    assert ref.worker_rank == 1
    assert client.get_metadata(source_id, "w1").worker.worker_rank == 1


def test_a_server_that_is_gone_is_an_error_and_not_absence(p2p: Any, doomed: LiveServer) -> None:
    client = import_stock("client").MxClient(server_url=doomed.address)
    source_id = client.publish_metadata(identity_of(p2p), full_worker(p2p), "w1")
    doomed.kill()
    calls = (
        lambda: client.list_sources(identity_of(p2p), p2p.SOURCE_STATUS_READY),
        lambda: client.get_metadata(source_id, "w1"),
        lambda: client.update_status(source_id, "w1", 0, p2p.SOURCE_STATUS_READY),
        lambda: client.publish_metadata(identity_of(p2p), full_worker(p2p), "w1"),
    )
    for call in calls:
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert code_of(error.value) is grpc.StatusCode.UNAVAILABLE
    client.close()


def test_a_token_is_tolerated(
    server: LiveServer, p2p: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    token = tmp_path / "token"
    token.write_text("eyJhbGciOi.J9\n")
    auth, client_module = import_stock("auth"), import_stock("client")
    monkeypatch.setattr(auth, "_SHARED_PROVIDER", auth.TokenProvider(str(token)))
    client = client_module.MxClient(server_url=server.address)
    try:
        with caplog.at_level(logging.WARNING, logger="modelexpress"):
            source_id = client.publish_metadata(identity_of(p2p), full_worker(p2p), "w1")
            assert client.update_status(source_id, "w1", 0, p2p.SOURCE_STATUS_READY)
        assert not caplog.records, "the token was sent: the client had nothing to warn of"
    finally:
        client.close()


def test_the_address_comes_from_the_environment(server: LiveServer, p2p: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MX_SERVER_ADDRESS", f"http://{server.address}")
    client = import_stock("metadata.client_factory").create_metadata_client()
    try:
        assert client.publish_metadata(identity_of(p2p), full_worker(p2p), "w1")
    finally:
        client.close()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"revision": "abc123DEF"},
        {"extra_parameters": {"Foo": "A", "foo": "b", "x": ""}},
        {"gpu_arch": "SM90", "cuda_version": "12.8", "triton_version": "3.1", "torch_version": "2.7"},
        {"quantization": "fp8", "expert_parallel_size": 4294967295},
        {"extra_parameters": {"training_step": "17", 'quo"te': "back\\slash\n\t\x01"}},
    ],
)
def test_source_ids_agree(client: Any, p2p: Any, fields: dict[str, Any]) -> None:
    identity = identity_of(p2p, **fields)
    expected = import_stock("metadata.source_id").compute_mx_source_id(identity)
    ours = p2p_pb2.SourceIdentity.FromString(identity.SerializeToString())
    assert wire_identity.source_id(ours) == expected
    assert client.publish_metadata(identity, full_worker(p2p), "w1") == expected


def test_the_answer_is_ours_bit_for_bit(rpc: Rpc, client: Any, p2p: Any) -> None:
    """What the stock messages write is what our messages read, unknown fields included."""
    identity = identity_of(p2p, extra_parameters={"a": "1"})
    source_id = client.publish_metadata(identity, full_worker(p2p), "w1")
    ours = rpc.get(source_id, "w1")
    assert p2p.SourceIdentity.FromString(ours.identity.SerializeToString()) == identity
    theirs = client.get_metadata(source_id, "w1")
    assert theirs == p2p.GetMetadataResponse.FromString(ours.SerializeToString())
