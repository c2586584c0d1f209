# ruff: noqa: PT017  calls that may either fail in one way or succeed
"""Clients that hold connections and streams open and do nothing with them."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from pathlib import Path

import grpc
import psutil

from peerload.wire import p2p_pb2, sources_pb2
from tests.support.http2 import GOAWAY, HEADERS, RST_STREAM, RawConnection
from tests.support.live import LiveServer, Rpc, code_of, eventually, publication, ready

MEBIBYTE = 1024 * 1024
IDLE = 10_000
IDLE_COST = 48 * 1024
"""Bytes of server memory that an idle connection may cost."""
STALLED = 20
CHURN = 30
LOAD = {"rack": "r" * 1000, "host": "h" * 1000}


def test_ten_thousand_idle_connections(server: LiveServer) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(IDLE, hard - 500)
    process = psutil.Process(server.pid)
    files, memory = process.num_fds(), server.rss()
    script = Path(__file__).with_name("idle_connections.py")
    with subprocess.Popen(
        [sys.executable, str(script), str(server.port), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as crowd:
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == b"open\n"
        assert process.num_fds() >= count
        with Rpc(server.address) as rpc:
            published = rpc.publish(publication())
            assert [ref.worker_id for ref in rpc.list(ready()).instances] == ["w0"]
            assert rpc.withdraw(published.mx_source_id, "w0")
        print(f"{(server.rss() - memory) / count / 1024:.1f} KiB a connection")
        assert server.rss() - memory < count * IDLE_COST
        crowd.communicate(b"", timeout=60)
    assert crowd.returncode == 0
    eventually(lambda: process.num_fds() < files + 50, within=30, what="the connections to be let go")


def test_readers_that_never_read(server: LiveServer, rpc: Rpc) -> None:
    """Each stalled watcher misses 30 changes of 100 sources of 2 KB: 6 MB, if every one were queued."""
    watchers = [Rpc(server.address, options=(("grpc.http2.bdp_probe", 0),)) for _ in range(STALLED)]
    streams = []
    try:
        for watcher in watchers:
            stream = watcher.channel.unary_stream("/peerload.v1.SourceService/Watch")(b"", timeout=300)
            first = sources_pb2.WatchResponse.FromString(next(stream))
            assert first.complete
            streams.append(stream)
        before = server.rss()
        requests = []
        for number in range(100):
            request = publication(worker_id=f"w{number}", tensors=0)
            request.worker.topology.update(LOAD)
            requests.append(request)
        statuses = (p2p_pb2.SOURCE_STATUS_READY, p2p_pb2.SOURCE_STATUS_INITIALIZING)
        publish = rpc.channel.unary_unary("/model_express.p2p.P2pService/PublishMetadata")
        for turn in range(CHURN):
            calls = []
            for request in requests:
                request.worker.status = statuses[turn % 2]
                calls.append(publish.future(request.SerializeToString(), timeout=60))
            answers = [p2p_pb2.PublishMetadataResponse.FromString(call.result()) for call in calls]
            assert all(answer.success for answer in answers)
        growth = server.rss() - before
        print(f"{growth / MEBIBYTE:.1f} MiB for {STALLED} stalled watchers")
        assert growth < 60 * MEBIBYTE

        # A watcher that reads on gets to the present, by whichever way.
        held: dict[str, int] = {}
        for data in streams[0]:
            event = sources_pb2.WatchResponse.FromString(data)
            if event.complete:
                held.clear()
            held |= {source.worker_id: source.status for source in event.present}
            for gone in event.gone:
                held.pop(gone.worker_id, None)
            if len(held) == 100 and set(held.values()) == {statuses[(CHURN - 1) % 2]}:
                break
    finally:
        for stream in streams:
            stream.cancel()
        for watcher in watchers:
            watcher.close()
    for request in requests:
        assert rpc.withdraw(answers[0].mx_source_id, request.worker_id)


def test_a_fleet_that_calls_all_at_once(server: LiveServer) -> None:
    """Every one of eight thousand calls in flight is answered, if late."""
    crowd = [Rpc(server.address) for _ in range(8)]
    try:
        for rpc in crowd:
            rpc.list(ready())
        calls = [
            rpc.channel.unary_unary("/model_express.p2p.P2pService/ListSources").future(b"", timeout=60)
            for _ in range(1000)
            for rpc in crowd
        ]
        assert {call.code() for call in calls} == {grpc.StatusCode.OK}
    finally:
        for rpc in crowd:
            rpc.close()


def test_calls_given_up_at_once(server: LiveServer) -> None:
    """Thousands of calls that are cancelled as soon as they are sent."""
    before = server.rss()
    with Rpc(server.address) as rpc:
        call = rpc.channel.unary_unary("/model_express.p2p.P2pService/ListSources")
        for _ in range(3000):
            call.future(b"", timeout=30).cancel()
        assert rpc.list(p2p_pb2.ListSourcesRequest()) is not None
    assert server.rss() < before + 100 * MEBIBYTE


def test_a_deadline_that_is_over_before_it_begins(rpc: Rpc) -> None:
    for timeout in (0.0, 1e-9):
        try:
            rpc.list(p2p_pb2.ListSourcesRequest(), timeout=timeout)
        except grpc.RpcError as error:
            assert code_of(error) in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


def test_a_path_that_is_no_text(server: LiveServer) -> None:
    """It ends the server of grpcio 1.84 and 1.85; the front on it has another one serve."""
    connection = RawConnection(server.port)
    connection.call("/model_express.p2p.\udcfd/ListSources", b"")
    with contextlib.closing(connection.socket), contextlib.suppress(StopIteration):
        while next(connection.frames()).kind not in (HEADERS, RST_STREAM, GOAWAY):
            pass

    def answered() -> bool:
        with contextlib.suppress(grpc.RpcError), Rpc(server.address) as rpc:
            rpc.list(ready(publication().identity), timeout=5)
            return True
        return False

    eventually(answered, what="the server to answer")
    for _ in range(3):
        assert answered()
