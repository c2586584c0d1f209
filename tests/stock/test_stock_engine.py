"""The parts of the stock package that an engine drives: publication, source search, pause and resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from peerload.wire import p2p_pb2
from tests.stock.test_stock_client import full_worker, identity_of
from tests.support.live import LiveServer, Rpc, eventually, ready
from tests.support.stock import import_stock

pytestmark = pytest.mark.usefixtures("torch_stub")


class FakeTensor:
    """As much of a torch tensor as publication looks at."""

    dtype = "torch.bfloat16"

    def __init__(self, address: int, elements: int) -> None:
        self._address = address
        self._elements = elements

    def data_ptr(self) -> int:
        return self._address

    def numel(self) -> int:
        return self._elements

    def element_size(self) -> int:
        return 2


class FakeManager:
    """As much of a transfer agent as publication and pausing look at."""

    _listen_port = 5555
    agent_name = "agent-0"
    nixl_metadata = b"agent blob"
    data_plane_error = None
    tensor_descriptors = ("registered",)
    is_shut_down = False

    def is_healthy(self) -> bool:
        return True

    def shutdown(self) -> None:
        self.is_shut_down = True


TENSORS = {"a": FakeTensor(4096, 8), "b": FakeTensor(8192, 1)}


@pytest.fixture
def context(server: LiveServer, p2p: Any, client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes load contexts; whatever they published is taken back at the end."""
    monkeypatch.setenv("MX_SERVER_ADDRESS", server.address)
    monkeypatch.setenv("MX_WORKER_HOST", "127.0.0.1")
    monkeypatch.setenv("MX_WORKER_GRPC_PORT", "0")
    monkeypatch.setenv("MX_HEARTBEAT_INTERVAL_SECS", "1")
    base, contexts = import_stock("load_strategy.base"), import_stock("load_strategy.context")
    publisher = import_stock("metadata.publisher")
    made = []

    def make(worker_id: str, *, rank: int = 0, **fields: Any) -> Any:
        one = contexts.LoadContext(
            model_config=None,
            load_config=None,
            target_device=None,
            global_rank=rank,
            worker_rank=rank,
            local_rank=0,
            device_id=0,
            identity=identity_of(p2p),
            mx_client=client,
            worker_id=worker_id,
            tensors=dict(TENSORS),
            nixl_manager=FakeManager(),
            adapter=SimpleNamespace(),
            **fields,
        )
        made.append(one)
        return one

    monkeypatch.setattr(publisher, "atexit", SimpleNamespace(register=lambda _: None))
    yield make
    for one in made:
        base.unpublish_metadata(one)
        if one.mx_client is not client and one.mx_client is not None:
            one.mx_client.close()


@pytest.mark.parametrize("through_server", [False, True], ids=["worker serves its manifest", "server keeps it"])
def test_a_target_finds_what_a_source_published(
    context: Callable[..., Any], p2p: Any, rpc: Rpc, monkeypatch: pytest.MonkeyPatch, through_server: bool
) -> None:
    monkeypatch.setenv("MX_P2P_METADATA", "0" if through_server else "1")
    source = context("source01")
    import_stock("load_strategy.base").publish_metadata(source)
    eventually(lambda: rpc.list(ready()).instances)

    strategy = import_stock("load_strategy.rdma_strategy").RdmaStrategy()
    target = context("target01")
    (found,) = strategy._find_source_instances(target)
    worker = strategy._fetch_worker_metadata(target, found.mx_source_id, found.worker_id)
    tensors = import_stock("metadata.payload").worker_tensor_descriptors(worker)
    assert [(one.name, one.addr, one.size, one.dtype) for one in tensors] == [
        ("a", 4096, 16, "torch.bfloat16"),
        ("b", 8192, 2, "torch.bfloat16"),
    ]
    assert strategy._accelerator_compatible(target, worker, found.worker_id)
    assert not strategy._find_source_instances(context("target02", rank=1)), "another rank holds other weights"


def test_a_source_in_host_memory_is_skipped(context: Callable[..., Any], p2p: Any, client: Any) -> None:
    for accelerator in ("cpu", "cuda"):
        worker = full_worker(p2p, status=p2p.SOURCE_STATUS_READY)
        worker.accelerator = accelerator
        client.publish_metadata(identity_of(p2p), worker, f"on-{accelerator}")
    strategy = import_stock("load_strategy.rdma_strategy").RdmaStrategy()
    assert [one.worker_id for one in strategy._find_source_instances(context("target01"))] == ["on-cuda"]


def test_a_gone_source_is_passed_over(context: Callable[..., Any]) -> None:
    strategy = import_stock("load_strategy.rdma_strategy").RdmaStrategy()
    assert strategy._fetch_worker_metadata(context("target01"), "0123456789abcdef", "nobody") is None


def test_pause_and_resume(context: Callable[..., Any], rpc: Rpc, monkeypatch: pytest.MonkeyPatch) -> None:
    base, lifecycle = import_stock("load_strategy.base"), import_stock("lifecycle")
    monkeypatch.setattr(base, "is_nixl_available", lambda: True)
    monkeypatch.setattr(base, "_init_nixl_manager", lambda *_: FakeManager())
    one = context("source01")
    base.publish_metadata(one)
    eventually(lambda: [ref.worker_id for ref in rpc.list(ready()).instances] == ["source01"])

    one.mx_client = import_stock("client").MxClient()
    lifecycle.pause_serving(one)
    assert not rpc.list(ready()).instances
    (left,) = rpc.list(p2p_pb2.ListSourcesRequest()).instances
    assert rpc.get(left.mx_source_id, "source01").worker.status == p2p_pb2.SOURCE_STATUS_STALE

    lifecycle.resume_serving(one, model=None)
    (again,) = eventually(lambda: rpc.list(ready()).instances)
    assert again.worker_id == one.worker_id != "source01"


def test_publishing_is_tried_again(p2p: Any, doomed: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first try meets a server that is down, the second one that has come back."""
    publish = import_stock("metadata.publish")
    client = import_stock("client").MxClient(server_url=doomed.address)
    doomed.kill()
    waits = []

    def come_back(seconds: float) -> None:
        waits.append(seconds)
        doomed.start()
        eventually(answers, what="the client to be out of its reconnect back-off")

    def answers() -> bool:
        try:
            return client.list_sources() is not None
        except grpc.RpcError:
            return False

    monkeypatch.setattr(publish, "time", SimpleNamespace(sleep=come_back))
    try:
        source_id = publish._publish_metadata_to_server(client, identity_of(p2p), full_worker(p2p), "w1", 0)
        assert client.get_metadata(source_id, "w1").found
        assert waits == [1.0]
        with pytest.raises(RuntimeError, match="model_name"):
            publish._publish_metadata_to_server(client, p2p.SourceIdentity(), full_worker(p2p), "w1", 0)
    finally:
        client.close()


def test_the_model_service_is_not_there_yet(server: LiveServer) -> None:
    models = import_stock("model_client").ModelCacheClient(server_url=server.address)
    with models, pytest.raises(grpc.RpcError) as error:
        models.ensure_downloaded("org/model")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
