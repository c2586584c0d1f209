"""The stock package's heartbeat thread: it publishes, keeps its source READY and registers again when it must."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from peerload.wire import p2p_pb2
from tests.stock.test_stock_client import full_worker, identity_of
from tests.support.live import LiveServer, Rpc, eventually
from tests.support.stock import import_stock

BEAT_SECONDS = 0.02


class Recorder:
    """A stock client that writes down what it was answered."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.answers: list[str] = []

    def publish_metadata(self, *arguments: Any, **named: Any) -> str:
        source_id: str = self._client.publish_metadata(*arguments, **named)
        self.answers.append("published")
        return source_id

    def update_status(self, *arguments: Any, **named: Any) -> bool:
        accepted: bool = self._client.update_status(*arguments, **named)
        self.answers.append("accepted" if accepted else "rejected")
        return accepted


@contextmanager
def publisher(
    client: Recorder,
    p2p: Any,
    worker_id: str = "w1",
    load: Callable[[], float | None] | None = None,
    manager: Any = None,
) -> Iterator[Any]:
    module = import_stock("metadata.publisher")
    thread = module.PublisherThread(
        client,
        worker_id=worker_id,
        worker_rank=0,
        nixl_manager=manager,
        publish_fn=lambda: client.publish_metadata(identity_of(p2p), full_worker(p2p), worker_id),
        interval_secs=BEAT_SECONDS,
        publish_timeout_secs=60,
        source_load_provider=load,
    )
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()
        module.atexit.unregister(thread._on_exit)


def ready_workers(rpc: Rpc) -> list[str]:
    question = p2p_pb2.ListSourcesRequest(status_filter=p2p_pb2.SOURCE_STATUS_READY)
    return [ref.worker_id for ref in rpc.list(question).instances]


def test_it_publishes_beats_and_says_goodbye(client: Any, p2p: Any, rpc: Rpc) -> None:
    recorder = Recorder(client)
    with publisher(recorder, p2p, load=lambda: 0.5):
        eventually(lambda: ready_workers(rpc) == ["w1"])
        first = rpc.list(p2p_pb2.ListSourcesRequest()).instances[0].updated_at
        eventually(lambda: rpc.list(p2p_pb2.ListSourcesRequest()).instances[0].updated_at > first)
        assert rpc.list(p2p_pb2.ListSourcesRequest()).instances[0].source_load == 0.5
    assert ready_workers(rpc) == []
    (left,) = rpc.list(p2p_pb2.ListSourcesRequest()).instances
    assert rpc.get(left.mx_source_id, "w1").worker.status == p2p_pb2.SOURCE_STATUS_STALE
    assert recorder.answers[0] == "published"
    assert set(recorder.answers[1:]) == {"accepted"}


def test_a_lost_record_is_published_again(client: Any, p2p: Any, rpc: Rpc) -> None:
    recorder = Recorder(client)
    with publisher(recorder, p2p) as thread:
        eventually(lambda: ready_workers(rpc) == ["w1"])
        assert rpc.withdraw(thread.mx_source_id, "w1")
        eventually(lambda: recorder.answers.count("published") == 2, what="a second publication")
        eventually(lambda: ready_workers(rpc) == ["w1"])
    told = [answer for answer in recorder.answers if answer != "accepted"]
    assert told == ["published", "rejected", "rejected", "published"]


def test_an_unhealthy_agent_is_taken_off_the_list_and_put_back(client: Any, p2p: Any, rpc: Rpc) -> None:
    class Manager:
        healthy = True
        data_plane_error = "link down"

        def is_healthy(self) -> bool:
            return self.healthy

    manager = Manager()
    with publisher(Recorder(client), p2p, manager=manager):
        eventually(lambda: ready_workers(rpc) == ["w1"])
        manager.healthy = False
        eventually(lambda: ready_workers(rpc) == [])
        manager.healthy = True
        eventually(lambda: ready_workers(rpc) == ["w1"])


def test_it_outlives_a_server_that_is_killed(doomed: LiveServer, p2p: Any) -> None:
    """From a durable store the source goes on as it was; from an empty one it registers again by itself."""
    client = import_stock("client").MxClient(server_url=doomed.address)
    recorder = Recorder(client)
    try:
        with publisher(recorder, p2p), Rpc(doomed.address) as rpc:
            eventually(lambda: ready_workers(rpc) == ["w1"])
            doomed.restart()
            before = len(recorder.answers)
            eventually(lambda: recorder.answers[before:].count("accepted") > 2, within=60, what="heartbeats to resume")
            assert ready_workers(rpc) == ["w1"]
            assert recorder.answers.count("published") == (2 if doomed.store == "memory:" else 1)
    finally:
        client.close()
