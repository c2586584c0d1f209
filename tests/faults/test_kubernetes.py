"""Whole servers over a Kubernetes whose API server and etcd are killed, stopped and taken away; and several over one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from peerload.wire import p2p_pb2, sources_pb2
from tests.support.kube import ControlPlane, Namespace
from tests.support.live import LiveServer, Rpc, code_of, eventually, publication, ready
from tests.support.working import WorkingTime

RECOVER = 8.0
"""Seconds of work from the API server's return until everything is taken and known again."""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")).running() as running:
        yield running


@pytest.fixture
def namespace(plane: ControlPlane) -> Namespace:
    return plane.fresh_namespace()


def heartbeat(source_id: str, worker_id: str = "w0") -> p2p_pb2.UpdateStatusRequest:
    return p2p_pb2.UpdateStatusRequest(mx_source_id=source_id, worker_id=worker_id, status=p2p_pb2.SOURCE_STATUS_READY)


def listed(rpc: Rpc, **more: float) -> set[str]:
    return {ref.worker_id for ref in rpc.list(ready(), **more).instances}


def refusal(call: Callable[[], object]) -> str:
    """The words with which a call is answered UNAVAILABLE."""
    with pytest.raises(grpc.RpcError) as error:
        call()
    assert code_of(error.value) is grpc.StatusCode.UNAVAILABLE, error.value
    return str(error.value.details())


def answered(call: Callable[[], object]) -> bool:
    """Whether a call ends well."""
    with contextlib.suppress(grpc.RpcError):
        call()
        return True
    return False


FAULTS: dict[str, tuple[Callable[[ControlPlane], None], Callable[[ControlPlane], None], str]] = {
    "API server stopped": (
        lambda plane: plane.server.pause(),
        lambda plane: plane.server.resume(),
        "in time",
    ),
    "API server killed": (
        lambda plane: plane.server.kill(),
        lambda plane: plane.server.start(),
        "cannot be reached",
    ),
    "etcd stopped": (
        lambda plane: plane.etcd[0].pause(),
        lambda plane: plane.etcd[0].resume(),
        "in time",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_writers_are_told_lists_go_on_and_all_recovers(plane: ControlPlane, namespace: Namespace, name: str) -> None:
    harm, mend, reason = FAULTS[name]
    with LiveServer(namespace.store_url()) as server, Rpc(server.start().address) as rpc:
        source = rpc.publish(publication(tensors=100)).mx_source_id
        harm(plane)
        try:
            assert reason in refusal(lambda: rpc.publish(publication(worker_id="w1"), timeout=5))
            assert listed(rpc) == {"w0"}
            eventually(lambda: not answered(lambda: rpc.update(heartbeat(source), timeout=3)))
            assert listed(rpc) == {"w0"}
        finally:
            mend(plane)
        with WorkingTime() as time:
            assert eventually(lambda: answered(lambda: rpc.publish(publication(worker_id="w1"), timeout=3)))
            assert eventually(lambda: answered(lambda: rpc.update(heartbeat(source), timeout=3)))
            assert rpc.update(heartbeat(source)).success, "what was published before is still known"
            assert len(rpc.get(source, "w0").worker.tensor_source.tensors) == 100
            assert eventually(lambda: listed(rpc) == {"w0", "w1"})
            assert time.seconds() < RECOVER
        assert server.stop() == 0
        assert "Traceback" not in server.log()


def test_a_server_starts_when_the_api_server_is_there(plane: ControlPlane, namespace: Namespace) -> None:
    url = namespace.store_url()
    plane.server.kill()
    try:
        with LiveServer(url) as server:
            server.start(wait=False)
            assert server.wait() == 1
            assert "cannot be reached" in server.log()
            assert "eyJ" not in server.log(), "tokens are in no log"
    finally:
        plane.server.start()


def test_three_servers_are_one_directory(plane: ControlPlane, namespace: Namespace) -> None:
    """Published at one, alive by another, found at the third; and it stays so when one is killed and the API server too."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(LiveServer(namespace.store_url())).start() for _ in range(3)]
        one, two, three = (stack.enter_context(Rpc(server.address)) for server in servers)
        source = one.publish(publication(tensors=50)).mx_source_id
        assert two.update(heartbeat(source)).success
        eventually(lambda: listed(three) == {"w0"})
        assert len(three.get(source, "w0").worker.tensor_source.tensors) == 50
        servers[0].kill()
        assert two.publish(publication(worker_id="w1")).success
        eventually(lambda: listed(three) == {"w0", "w1"})
        assert three.withdraw(source, "w0")
        eventually(lambda: listed(two) == {"w1"})
        assert not two.update(heartbeat(source)).success
        plane.server.restart()
        for rpc in (two, three):
            assert eventually(lambda rpc=rpc: answered(lambda: rpc.update(heartbeat(source, "w1"), timeout=3)))  # type: ignore[misc]
            assert listed(rpc) == {"w1"}


def test_a_pod_that_is_deleted_takes_its_sources_with_it(plane: ControlPlane, namespace: Namespace) -> None:
    """Kubernetes' own garbage collector does it, and the watch tells every server; nobody else's source goes."""
    controllers = plane.start_controllers()
    try:
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(LiveServer(namespace.store_url())).start() for _ in range(2)]
            one, two = (stack.enter_context(Rpc(server.address)) for server in servers)
            pods = {name: namespace.pod(name)["metadata"] for name in ("gone", "there")}
            stream = two.channel.unary_stream("/peerload.v1.SourceService/Watch")(b"", timeout=60)
            told: list[Any] = []
            watcher = threading.Thread(target=_collect, args=(stream, told), daemon=True)
            watcher.start()
            for name, pod in pods.items():
                request = publication(worker_id=name, tensors=20_000)  # more than fits into the record itself
                request.pod_name, request.pod_uid, request.pod_namespace = name, pod["uid"], namespace.name
                assert one.publish(request, timeout=60).success
            stranger = publication(worker_id="stranger")  # says that it is of a Pod that is none, or another one by now
            stranger.pod_name, stranger.pod_uid, stranger.pod_namespace = "there", "0" * 8, namespace.name
            assert one.publish(stranger).success
            eventually(lambda: listed(two) == {"gone", "there", "stranger"})
            assert len(_chunks(namespace)) >= 2
            plane.admin.delete(f"{namespace.core}/pods/gone", gracePeriodSeconds=0)
            for rpc in (one, two):
                eventually(lambda rpc=rpc: listed(rpc) == {"there", "stranger"}, what="the source to go with its Pod")  # type: ignore[misc]
            eventually(lambda: "gone" in {each.worker_id for answer in told for each in answer.gone})
            eventually(lambda: len(_chunks(namespace)) == len(_chunks(namespace, "there")), what="its blobs to go too")
            stream.cancel()
            watcher.join(20)
    finally:
        controllers.kill()


def _collect(stream: Any, told: list[Any]) -> None:
    with contextlib.suppress(grpc.RpcError):
        for data in stream:
            told.append(sources_pb2.WatchResponse.FromString(data))  # noqa: PERF401  seen while the stream goes on


def _chunks(namespace: Namespace, worker_id: str = "") -> list[str]:
    """The names of the ConfigMaps that there are; with a worker, of those that its record owns."""
    admin = namespace.plane.admin
    records = admin.get(namespace.records)["items"]
    owners = {record["metadata"]["uid"] for record in records if worker_id in record.get("key", "")}
    chunks = admin.get(f"{namespace.core}/configmaps", labelSelector="peerload.dev/type=blob")["items"]
    return [
        chunk["metadata"]["name"]
        for chunk in chunks
        if not worker_id or owners & {owner["uid"] for owner in chunk["metadata"].get("ownerReferences", ())}
    ]
