# ruff: noqa: PT017  calls that may either fail in one way or succeed
"""Clients that take up of the port what they can: each meets a limit, and all others are served meanwhile."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import grpc
import pytest

from peerload.wire import p2p_pb2
from tests.support.http2 import (
    ACK,
    CANCEL,
    DATA,
    PING,
    PREFACE,
    RST_STREAM,
    WITHOUT_WINDOW,
    Frame,
    RawConnection,
    call_headers,
    prefix,
)
from tests.support.live import LiveServer, Rpc, code_of, eventually, publication, ready, sqlite_url

MEBIBYTE = 1024 * 1024
P2P = "/model_express.p2p.P2pService/"
PUBLISH, LIST, GET = P2P + "PublishMetadata", P2P + "ListSources", P2P + "GetMetadata"
WATCH = "/peerload.v1.SourceService/Watch"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
ROOM = 24 * MEBIBYTE
CONNECTIONS, CALLS, WATCHES = 60, 40, 5
READERS = 36
RESETS = 100_000
PINGS = 200_000


@pytest.fixture(scope="module", params=["grpc", "h2corn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose limits are low, and whose times are short."""
    environment = {
        "PEERLOAD_FRONT": request.param,
        "PEERLOAD_LIMIT_MESSAGE_BYTES": str(8 * MEBIBYTE),
        "PEERLOAD_LIMIT_BYTES_IN_FLIGHT": str(ROOM),
        "PEERLOAD_LIMIT_CONNECTIONS": str(CONNECTIONS),
        "PEERLOAD_LIMIT_CALLS": str(CALLS),
        "PEERLOAD_LIMIT_WATCHES": str(WATCHES),
        "PEERLOAD_TIMEOUT_HANDSHAKE": "1",
        "PEERLOAD_TIMEOUT_REQUEST": "1",
        "PEERLOAD_TIMEOUT_STALL": "2",
    }
    with LiveServer(sqlite_url(tmp_path_factory.mktemp("limited")), environment=environment) as live:
        yield live.start()


@pytest.fixture
def front(request: pytest.FixtureRequest, server: LiveServer) -> str:
    return str(request.node.callspec.params["server"])


def raw(server: LiveServer, **options: bytes) -> RawConnection:
    return RawConnection(server.port, **options)


def fast_heartbeat(rpc: Rpc) -> None:
    """A small call gets through, whatever the large ones wait for."""
    update = p2p_pb2.UpdateStatusRequest(mx_source_id="s", worker_id="w", status=p2p_pb2.SOURCE_STATUS_READY)
    assert not rpc.update(update, timeout=5).success


def test_an_upload_of_far_more_than_a_message_may_have(server: LiveServer, rpc: Rpc) -> None:
    before = server.rss()
    for path in (PUBLISH, LIST):
        with pytest.raises(grpc.RpcError) as error:
            rpc.raw(path, bytes(300 * MEBIBYTE), timeout=60)
        assert code_of(error.value) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(8 * MEBIBYTE) in str(error.value.details())
    print(f"{(server.rss() - before) / MEBIBYTE:.1f} MiB")
    assert server.rss() < before + 16 * MEBIBYTE


def test_a_decompression_bomb(server: LiveServer, rpc: Rpc) -> None:
    before = server.rss()
    with pytest.raises(grpc.RpcError) as error:
        rpc.channel.unary_unary(PUBLISH)(bytes(80 * MEBIBYTE), timeout=60, compression=grpc.Compression.Gzip)
    assert code_of(error.value) is grpc.StatusCode.RESOURCE_EXHAUSTED
    print(f"{(server.rss() - before) / MEBIBYTE:.1f} MiB")
    assert server.rss() < before + 32 * MEBIBYTE


def test_bodies_that_never_end(server: LiveServer, rpc: Rpc) -> None:
    """A message that is promised and not sent holds its room for as long as a request may take."""
    with contextlib.ExitStack() as stack:
        slow = []
        for _ in range(6):
            connection = stack.enter_context(raw(server))
            connection.send(call_headers(PUBLISH, 1), Frame(DATA, 0, 1, prefix(8 * MEBIBYTE) + b"begun"))
            slow.append(connection)
        fast_heartbeat(rpc)
        # It waits for its turn, behind those of the others.
        assert rpc.publish(publication(worker_id="patient"), timeout=60).success
        assert all(connection.ended() for connection in slow)
    assert rpc.withdraw(rpc.list(ready()).instances[0].mx_source_id, "patient")


def test_a_publication_that_finds_no_room_in_time(server: LiveServer, rpc: Rpc) -> None:
    request = publication(tensors=0)
    request.worker.nixl_metadata = bytes(6 * MEBIBYTE)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(raw(server))
            connection.send(call_headers(PUBLISH, 1), Frame(DATA, 0, 1, prefix(8 * MEBIBYTE) + b"begun"))
        eventually(lambda: refused(rpc, request), what="the room to be taken")
        fast_heartbeat(rpc)
    answer = rpc.publish(request, timeout=60)
    assert answer.success
    assert rpc.withdraw(answer.mx_source_id, "w0")


def refused(rpc: Rpc, request: p2p_pb2.PublishMetadataRequest) -> bool:
    try:
        rpc.publish(request, timeout=0.4)
    except grpc.RpcError as error:
        if code_of(error) is grpc.StatusCode.RESOURCE_EXHAUSTED:
            assert "--limit-bytes-in-flight" in str(error.details())
            return True
        assert code_of(error) is grpc.StatusCode.DEADLINE_EXCEEDED
    return False


def test_readers_of_large_answers_that_read_nothing(server: LiveServer, rpc: Rpc) -> None:
    request = publication(tensors=0)
    request.worker.nixl_metadata = bytes(6 * MEBIBYTE)
    published = rpc.publish(request)
    assert published.success
    asked = p2p_pb2.GetMetadataRequest(mx_source_id=published.mx_source_id, worker_id="w0").SerializeToString()
    before = server.rss()
    with contextlib.ExitStack() as stack:
        for _ in range(READERS):
            connection = stack.enter_context(raw(server, settings=WITHOUT_WINDOW))
            connection.call(GET, asked)
        fast_heartbeat(rpc)
        print(f"{(server.rss() - before) / MEBIBYTE:.1f} MiB")
        # Of 216 MiB, and gRPC's copies of them: what is on its way, what waits for that, and what the allocator keeps.
        assert server.rss() < before + 4 * ROOM
    eventually(lambda: found(rpc, published.mx_source_id), what="the room to be given back")
    assert rpc.withdraw(published.mx_source_id, "w0")


def found(rpc: Rpc, source_id: str) -> bool:
    """Whether a worker is answered with what it published; not while there is no room for that."""
    try:
        return rpc.get(source_id, "w0").found
    except grpc.RpcError as error:
        assert code_of(error) is grpc.StatusCode.RESOURCE_EXHAUSTED
        return False


def test_more_connections_than_there_may_be(server: LiveServer, front: str) -> None:
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(raw(server)) for _ in range(CONNECTIONS + 10)]
        served = eventually(lambda: greeted(crowd) >= CONNECTIONS - 5, what="those within the limit to be served")
        assert served
        assert greeted(crowd) <= CONNECTIONS
    with Rpc(server.address) as rpc:
        assert eventually(lambda: rpc.healthy(), what="room for a connection")


def greeted(crowd: list[RawConnection]) -> int:
    count = 0
    for connection in crowd:
        connection.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError, ConnectionError):
            count += bool(connection.socket.recv(1, 2))  # MSG_PEEK
    return count


@pytest.mark.parametrize("sent", [b"", PREFACE[:10]])
def test_connections_that_begin_and_do_not_go_on(server: LiveServer, rpc: Rpc, sent: bytes) -> None:
    with contextlib.ExitStack() as stack:
        crowd = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20)) for _ in range(20)
        ]
        for connection in crowd:
            connection.sendall(sent)
        assert rpc.healthy()
        for connection in crowd:
            with contextlib.suppress(ConnectionError):
                while connection.recv(1000):
                    pass


def test_streams_reset_as_soon_as_they_are_opened(server: LiveServer, rpc: Rpc) -> None:
    """Rapid reset (CVE-2023-44487)."""
    before = server.rss()
    flood(
        server,
        lambda connection, number: connection.send(
            *(
                part
                for stream in range(2_000 * number + 1, 2_000 * (number + 1), 2)
                for part in (call_headers(LIST, stream), Frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big")))
            )
        ),
        RESETS // 1_000,
    )
    fast_heartbeat(rpc)
    print(f"{(server.rss() - before) / MEBIBYTE:.1f} MiB")
    assert server.rss() < before + 32 * MEBIBYTE


def test_a_flood_of_pings(server: LiveServer, rpc: Rpc) -> None:
    before = server.rss()
    pings = Frame(PING, 0, 0, b"12345678").encode() * 1_000
    flood(server, lambda connection, _: connection.send(pings), PINGS // 1_000)
    fast_heartbeat(rpc)
    print(f"{(server.rss() - before) / MEBIBYTE:.1f} MiB")
    assert server.rss() < before + 16 * MEBIBYTE


def flood(server: LiveServer, send: Callable[[RawConnection, int], None], times: int) -> None:
    """Send without reading what comes back, until the server closes the connection, takes no more, or all is sent."""
    with raw(server) as connection:
        connection.socket.settimeout(1.0)
        with contextlib.suppress(ConnectionError, TimeoutError):
            for number in range(times):
                send(connection, number)


def test_pings_of_a_reader_are_all_answered(server: LiveServer) -> None:
    with raw(server) as connection:
        for number in range(300):
            sent = number.to_bytes(8, "big")
            connection.send(Frame(PING, 0, 0, sent))
            assert connection.until(PING, flags=ACK).payload == sent


def test_more_watches_than_there_may_be(server: LiveServer, rpc: Rpc) -> None:
    streams = []
    for _ in range(WATCHES):
        stream = rpc.channel.unary_stream(WATCH)(b"", timeout=60)
        next(stream)
        streams.append(stream)
    with pytest.raises(grpc.RpcError) as error:
        next(rpc.channel.unary_stream(WATCH)(b"", timeout=60))
    assert code_of(error.value) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "--limit-watches" in str(error.value.details())
    # Health is told in places of its own.
    health = rpc.channel.unary_stream(HEALTH_WATCH)(b"", timeout=60)
    next(health)
    health.cancel()
    for stream in streams:
        stream.cancel()
    eventually(lambda: watches(rpc), what="places to be given back")


def watches(rpc: Rpc) -> bool:
    stream = rpc.channel.unary_stream(WATCH)(b"", timeout=60)
    try:
        next(stream)
    except grpc.RpcError:
        return False
    stream.cancel()
    return True


def test_more_calls_than_there_may_be(server: LiveServer, rpc: Rpc) -> None:
    """Publications that wait for room are calls in flight; health answers beside them, and what comes too much is told
    why it is refused."""
    with contextlib.ExitStack() as stack:
        for _ in range(CALLS):
            connection = stack.enter_context(raw(server))
            connection.send(call_headers(PUBLISH, 1), Frame(DATA, 0, 1, prefix(8 * MEBIBYTE) + b"begun"))
        eventually(lambda: turned_away(rpc), what="all places to be taken")
        assert rpc.healthy()
    eventually(lambda: not turned_away(rpc), what="places to be given back")


def turned_away(rpc: Rpc) -> bool:
    try:
        rpc.list(ready(), timeout=5)
    except grpc.RpcError as error:
        assert code_of(error) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "--limit-calls" in str(error.details())
        return True
    return False


def test_a_reader_that_stalls_is_let_go(server: LiveServer, front: str) -> None:
    if front == "grpc":
        pytest.skip("gRPC does not know how slow a reader is")
    with Rpc(server.address) as rpc, raw(server, settings=WITHOUT_WINDOW) as connection:
        rpc.publish(publication())
        connection.call(LIST, b"")
        assert connection.until(RST_STREAM).stream == 1
        assert rpc.withdraw(rpc.list(ready()).instances[0].mx_source_id, "w0")
        # Others of the connection go on.
        connection.send(Frame(PING, 0, 0, b"12345678"))
        assert connection.until(PING, flags=ACK)


def test_what_is_no_grpc_is_turned_away(server: LiveServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while connection.recv(1000):
                pass
