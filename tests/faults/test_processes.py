"""Servers that are stopped, continued, drained and doubled, as processes."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from peerload.wire import p2p_pb2, sources_pb2
from tests.support.live import LiveServer, Rpc, code_of, eventually, publication, ready
from tests.support.server import store_url

CALLERS = 4
QUICK = {"MX_HEARTBEAT_TIMEOUT_SECS": "1.5", "MX_REAPER_SCAN_INTERVAL_SECS": "0.2"}
TOLERANCE = {"sqlite": 5.0, "redis": 5.0, "kubernetes": 9.0}
"""Seconds for which a server is silent before that is an outage, by store (`MetadataSettings.at_pace`)."""


@pytest.fixture(params=["sqlite", "redis", "kubernetes"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return store_url(request, tmp_path)


@pytest.fixture
def server(url: str) -> Iterator[LiveServer]:
    with LiveServer(url) as live:
        yield live.start()


class Callers:
    """Threads that call without pause until a call fails; how each call ended."""

    def __init__(self, address: str, name: str = "w") -> None:
        self._address = address
        self._name = name
        self.ends: Counter[str] = Counter()
        self.acknowledged: set[str] = set()
        self.underway = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        with Rpc(self._address) as rpc:
            for turn in range(1_000_000):
                worker_id = f"{self._name}-{number}-{turn}"
                try:
                    assert rpc.publish(publication(worker_id=worker_id, tensors=50), timeout=20).success
                    with self._lock:
                        self.acknowledged.add(worker_id)
                        self.ends["OK"] += 2
                        if self.ends["OK"] > 20 * CALLERS:
                            self.underway.set()
                    rpc.list(ready(), timeout=20)
                except grpc.RpcError as error:
                    with self._lock:
                        self.ends[code_of(error).name] += 1
                    return

    def join(self) -> None:
        for thread in self._threads:
            thread.join(40)
            assert not thread.is_alive(), "a call never ended"


def test_a_drain_under_load(server: LiveServer, url: str) -> None:
    """Every call in flight ends, well or with UNAVAILABLE; what was acknowledged is there afterwards."""
    callers = Callers(server.address)
    assert callers.underway.wait(60)
    with Rpc(server.address) as rpc:
        stream = rpc.channel.unary_stream("/peerload.v1.SourceService/Watch")(b"", timeout=60)
        assert sources_pb2.WatchResponse.FromString(next(stream)).complete
        assert server.stop() == 0, server.log()
        with pytest.raises(grpc.RpcError) as error:
            list(stream)
        assert code_of(error.value) is grpc.StatusCode.UNAVAILABLE
    callers.join()
    assert set(callers.ends) <= {"OK", "UNAVAILABLE"}, callers.ends
    with LiveServer(url) as after, Rpc(after.start().address) as rpc:
        listed = {ref.worker_id for ref in rpc.list(p2p_pb2.ListSourcesRequest()).instances}
        assert callers.acknowledged <= listed
        assert len(listed - callers.acknowledged) <= CALLERS, "only calls without an answer are in doubt"


def test_a_second_signal_ends_it_at_once(server: LiveServer) -> None:
    with Rpc(server.address) as rpc:
        stream = rpc.channel.unary_stream("/peerload.v1.SourceService/Watch")(b"", timeout=60)
        assert next(stream)
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGINT)
        server.wait()
        with pytest.raises(grpc.RpcError):
            list(stream)


def test_an_idle_server_stops_cleanly(server: LiveServer) -> None:
    assert server.stop() == 0, server.log()
    assert "Traceback" not in server.log()


class Heart(threading.Thread):
    """Heartbeats of one worker, as fast as they are answered, until told to stop."""

    def __init__(self, address: str, request: p2p_pb2.UpdateStatusRequest) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._request = request
        self.accepted = 0
        self.refused = 0
        self._over = threading.Event()

    def run(self) -> None:
        with Rpc(self._address) as rpc:
            while not self._over.wait(0.05):
                try:
                    if rpc.update(self._request, timeout=30).success:
                        self.accepted += 1
                    else:
                        self.refused += 1
                except grpc.RpcError:
                    continue

    def stop(self) -> None:
        self._over.set()
        self.join(40)


def heartbeat(source_id: str, worker_id: str = "w0") -> p2p_pb2.UpdateStatusRequest:
    return p2p_pb2.UpdateStatusRequest(mx_source_id=source_id, worker_id=worker_id, status=p2p_pb2.SOURCE_STATUS_READY)


def test_a_server_that_was_suspended_finds_nobody_dead(url: str) -> None:
    """A stopped process cannot be moved by a clock of ours, so this one waits for real, for longer than the timeout."""
    timeout = TOLERANCE[url.partition(":")[0]] + 1
    patient = {"MX_HEARTBEAT_TIMEOUT_SECS": str(timeout), "MX_REAPER_SCAN_INTERVAL_SECS": "0.2"}
    with LiveServer(url, environment=patient) as server, Rpc(server.start().address) as rpc:
        source = rpc.publish(publication(worker_id="silent")).mx_source_id
        rpc.publish(publication(worker_id="alive"))
        heart = Heart(server.address, heartbeat(source, "alive"))
        heart.start()
        eventually(lambda: heart.accepted > 3)
        server.signal(signal.SIGSTOP)
        threading.Event().wait(timeout + 2)
        server.signal(signal.SIGCONT)
        assert {ref.worker_id for ref in rpc.list(ready()).instances} == {"alive", "silent"}
        assert rpc.get(source, "silent").worker.status == p2p_pb2.SOURCE_STATUS_READY
        before = heart.accepted
        eventually(lambda: heart.accepted > before + 3)
        assert "alive" in {ref.worker_id for ref in rpc.list(ready()).instances}
        heart.stop()
        assert heart.refused == 0


def test_a_source_that_falls_silent_is_dropped(url: str) -> None:
    """The control of the test above: with the server up, the same silence does count."""
    with LiveServer(url, environment=QUICK) as server, Rpc(server.start().address) as rpc:
        source = rpc.publish(publication(worker_id="silent")).mx_source_id
        rpc.publish(publication(worker_id="alive"))
        heart = Heart(server.address, heartbeat(source, "alive"))
        heart.start()
        eventually(lambda: [ref.worker_id for ref in rpc.list(ready()).instances] == ["alive"], within=30)
        assert rpc.get(source, "silent").worker.status == p2p_pb2.SOURCE_STATUS_STALE
        assert rpc.update(heartbeat(source, "silent")).success
        eventually(lambda: len(rpc.list(ready()).instances) == 2, what="a heartbeat to revive it")
        heart.stop()


def test_two_servers_on_one_store(url: str) -> None:
    """What is written at one is found at the other; when one is killed, the other goes on, and it may come back."""
    with LiveServer(url) as one, LiveServer(url) as other:
        one.start()
        other.start()
        with Rpc(one.address) as at_one, Rpc(other.address) as at_other:
            source = at_one.publish(publication(worker_id="first", tensors=100)).mx_source_id
            eventually(lambda: [ref.worker_id for ref in at_other.list(ready()).instances] == ["first"], within=5)
            assert len(at_other.get(source, "first").worker.tensor_source.tensors) == 100
            assert at_other.update(heartbeat(source, "first")).success, "heartbeats may go elsewhere"

            stale = heartbeat(source, "first")
            stale.status = p2p_pb2.SOURCE_STATUS_STALE
            assert at_other.update(stale).success
            eventually(lambda: not at_one.list(ready()).instances, within=5)
            assert at_one.update(heartbeat(source, "first")).success
            eventually(lambda: at_other.list(ready()).instances, within=5)

            one.kill()
            assert at_other.publish(publication(worker_id="second")).success
            assert at_other.withdraw(source, "first")
            assert [ref.worker_id for ref in at_other.list(ready()).instances] == ["second"]

            one.start()
        with Rpc(one.address) as at_one:
            assert [ref.worker_id for ref in at_one.list(ready()).instances] == ["second"]


def test_a_server_killed_while_both_write(url: str) -> None:
    """Both publish without pause; the one that is left loses nothing of what the dead one acknowledged."""
    with LiveServer(url) as one, LiveServer(url) as other:
        one.start()
        other.start()
        at_one, at_other = Callers(one.address, "one"), Callers(other.address, "other")
        assert at_one.underway.wait(60)
        assert at_other.underway.wait(60)
        one.kill()
        at_one.join()
        so_far = at_other.ends["OK"]
        eventually(lambda: at_other.ends["OK"] > so_far + 40, within=30, what="the other server to go on")
        assert other.stop() == 0, other.log()
        at_other.join()
        assert set(at_other.ends) <= {"OK", "UNAVAILABLE"}, at_other.ends
        other.start()
        with Rpc(other.address) as rpc:
            listed = {ref.worker_id for ref in rpc.list(p2p_pb2.ListSourcesRequest()).instances}
            assert at_one.acknowledged | at_other.acknowledged <= listed
