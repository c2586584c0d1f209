"""Worker manifests: the record goes through our server, the tensor list straight from the stock worker's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tests.stock.test_stock_client import full_worker, identity_of
from tests.support.live import code_of
from tests.support.stock import import_stock

TENSORS = 40


@pytest.fixture
def worker_server(p2p: Any) -> Iterator[Any]:
    module = import_stock("metadata.worker_server")
    tensors = list(full_worker(p2p, tensors=TENSORS).tensor_source.tensors)
    made = module.WorkerGrpcServer(
        tensors, None, metadata_endpoint="127.0.0.1:5555", agent_name="agent-0", accelerator="cuda", worker_id="w1"
    )
    made.start()
    yield made
    made.stop(grace=0)


def small_record(p2p: Any, port: int) -> Any:
    """What an engine publishes by default: where to ask, and nothing else."""
    return p2p.WorkerMetadata(
        metadata_endpoint="127.0.0.1:5555",
        agent_name="agent-0",
        worker_grpc_endpoint=f"127.0.0.1:{port}",
        accelerator="cuda",
    )


def test_a_reader_finds_the_tensor_list(client: Any, p2p: Any, worker_server: Any) -> None:
    module = import_stock("metadata.worker_server")
    source_id = client.publish_metadata(identity_of(p2p), small_record(p2p, worker_server.port), "w1")
    worker_server.set_mx_source_id(source_id)
    assert client.update_status(source_id, "w1", 0, p2p.SOURCE_STATUS_READY)

    (ref,) = client.list_sources(identity_of(p2p), p2p.SOURCE_STATUS_READY).instances
    found = client.get_metadata(ref.mx_source_id, ref.worker_id).worker
    tensors, size = module.fetch_tensor_manifest(found.worker_grpc_endpoint, ref.mx_source_id, worker_id=ref.worker_id)
    assert tensors == list(full_worker(p2p, tensors=TENSORS).tensor_source.tensors)
    assert size > 0

    lease, _ = module.prepare_tensor_read(found.worker_grpc_endpoint, ref.mx_source_id, worker_id=ref.worker_id)
    with lease:
        assert len(lease.manifest.tensors) == TENSORS
        with pytest.raises(TimeoutError):
            worker_server.drain_tensor_reads(0)
    worker_server.drain_tensor_reads(0)


def test_a_restarted_worker_is_told_apart(client: Any, p2p: Any, worker_server: Any) -> None:
    module = import_stock("metadata.worker_server")
    source_id = client.publish_metadata(identity_of(p2p), small_record(p2p, worker_server.port), "older")
    worker_server.set_mx_source_id(source_id)
    endpoint = client.get_metadata(source_id, "older").worker.worker_grpc_endpoint
    with pytest.raises(grpc.RpcError) as error:
        module.fetch_tensor_manifest(endpoint, source_id, worker_id="older")
    assert code_of(error.value) is grpc.StatusCode.FAILED_PRECONDITION
