"""The TCP engine's source side: its limits and time limits, its addresses, and those who abuse it."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peerload.engines.base import Descriptor, JobState, Publication, Range, Region
from peerload.engines.tcp import TcpEngine, TcpExporter, TcpReader, TcpSettings, open_tcp, protocol, sockets
from peerload.engines.tcp.lane import Line
from peerload.engines.tcp.protocol import Endpoint, Refusal
from peerload.errors import InvalidArgument, Unavailable
from peerload.testing.engine_process import EngineProcess, until
from peerload.testing.engine_suite.base import digest, end, midway
from peerload.testing.engine_worker import content, undescribe
from tests.engines.tcp_peers import dial, exactly, greet, refusal, until_closed
from tests.support.live import eventually

MIB = 1024 * 1024
DATA = content(1, [20 * MIB, 100])


@pytest.fixture
def source() -> Iterator[Callable[..., tuple[TcpExporter, Publication]]]:
    """Starts sources that publish `DATA`."""
    with ExitStack() as stack:

        def start(host: str = "127.0.0.1", **given: Any) -> tuple[TcpExporter, Publication]:
            exporter = open_tcp(**given).exporter(host)
            stack.callback(exporter.close)
            return exporter, exporter.publish([Region(memoryview(each)) for each in DATA])

        yield start


@pytest.fixture
def reader() -> Iterator[Callable[..., TcpReader]]:
    """Opens readers."""
    with ExitStack() as stack:

        def start(descriptor: Descriptor, **given: Any) -> TcpReader:
            importer = open_tcp(**given).importer()
            stack.callback(importer.close)
            return importer.open(descriptor)

        yield start


def take(reader: TcpReader, size: int = 100, region: int = 1) -> Any:
    into = memoryview(bytearray(size))
    progress = end(reader.read([Range(region, 0, size)], [into], deadline=60))
    if progress.state is JobState.DONE:
        assert into == DATA[region][:size]
    return progress


def test_beyond_its_connections_it_says_so(source: Any, reader: Any) -> None:
    exporter, published = source(max_connections=2, max_bytes_per_second=4 * MIB)
    into = memoryview(bytearray(20 * MIB))
    jobs = []
    for _ in range(2):
        jobs.append(reader(published.descriptor).read([Range(0, 0, 20 * MIB)], [into], deadline=60))
        midway(jobs[-1])
    assert exporter.load() == 1
    refused = take(reader(published.descriptor))
    assert (refused.state, refused.retryable, refused.busy) == (JobState.FAILED, True, True)
    assert "as many readers as it takes" in refused.reason
    for job in jobs:
        job.abandon()
    until(lambda: take(reader(published.descriptor)).state is JobState.DONE, "room for a reader again")


def test_a_read_goes_on_with_one_connection_where_it_gets_no_second(source: Any, reader: Any) -> None:
    _, published = source(max_connections=1)
    half = 10 * MIB
    into = [memoryview(bytearray(half)), memoryview(bytearray(half))]
    ranges = [Range(0, 0, half), Range(0, half, half)]
    job = reader(published.descriptor, connections=2, large_read=1).read(ranges, into, deadline=60)
    assert end(job).state is JobState.DONE
    assert b"".join(into) == DATA[0]


def test_kept_connections_make_room(source: Any, reader: Any) -> None:
    _, published = source(max_connections=1)
    readers = [reader(published.descriptor) for _ in range(4)]
    for each in readers * 2:
        until(lambda each=each: take(each).state is JobState.DONE, "its turn")  # type: ignore[misc]


def test_who_does_not_greet_is_dropped(source: Any) -> None:
    _, published = source(handshake_timeout=0.3)
    for said in (b"", protocol.MAGIC, protocol.MAGIC + bytes(40)):
        with dial(published.descriptor) as sock:
            sock.sendall(said)
            assert until_closed(sock) == b""
    for said in (protocol.REQUEST_MAGIC, protocol.read_request([(0, 0, 1)] * 5)[:-1]):
        with greet(published.descriptor) as sock:
            sock.sendall(said)
            assert until_closed(sock) == b""


def test_of_many_who_say_nothing_the_oldest_is_dropped(source: Any, reader: Any) -> None:
    _, published = source(max_pending=4)
    crowd = [dial(published.descriptor) for _ in range(50)]
    for sock in crowd[:-5]:
        assert until_closed(sock) == b""
    assert take(reader(published.descriptor)).state is JobState.DONE
    for sock in crowd:
        sock.close()


def test_an_idle_connection_is_dropped_and_the_reader_connects_again(source: Any, reader: Any) -> None:
    _, published = source(idle_timeout=0.3)
    own = reader(published.descriptor)
    for _ in range(2):
        assert take(own).state is JobState.DONE
    with greet(published.descriptor) as sock:
        # Its end shows that the reader's connection, idle for longer, is gone as well.
        assert until_closed(sock) == b""
    assert take(own).state is JobState.DONE


def test_a_kept_connection_is_used_again(source: Any, reader: Any) -> None:
    exporter, published = source()
    own = reader(published.descriptor)
    assert take(own).state is JobState.DONE
    kept = own.take_line(1)
    assert take(own).state is JobState.DONE  # on another
    own.keep_line(kept)
    assert own.take_line(1) is kept
    kept.sock.close()
    exporter.retire(published)
    assert not take(own).retryable


def test_a_large_read_goes_on_where_a_kept_connection_died(source: Any, reader: Any) -> None:
    _, published = source()
    own = reader(published.descriptor, connections=1)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        own.keep_line(Line(sockets.connect(*listening.getsockname(), 30)))
        there, _ = listening.accept()
    into = memoryview(bytearray(20 * MIB))
    job = own.read([Range(0, 0, 20 * MIB)], [into], deadline=60)
    with there:
        exactly(there, 2 * (protocol.REQUEST.size + protocol.RANGE.size))  # Both requests that it may have ahead.
    assert end(job).state is JobState.DONE
    assert into == DATA[0]
    assert job.completed() == [(0, digest(DATA[0]))]


def test_a_reader_that_does_not_read_is_dropped(source: Any) -> None:
    exporter, published = source(progress_timeout=0.5)
    with greet(published.descriptor) as sock:
        sock.sendall(protocol.read_request([(0, 0, 20 * MIB)]))
        until(lambda: exporter.load() > 0, "the read's begin")
        until(lambda: exporter.load() == 0, "the source giving up")


def test_a_reader_that_asks_for_no_more_is_dropped(source: Any) -> None:
    exporter, published = source(progress_timeout=0.5)
    with greet(published.descriptor) as sock:
        sock.sendall(protocol.read_request([(1, 0, 100)]))
        assert exactly(sock, protocol.REPLY.size + 100)[-100:] == DATA[1]
        assert until_closed(sock) == b""  # It never said that its read was over.
        until(lambda: exporter.load() == 0, "the source giving up")


def test_requests_have_limits(source: Any) -> None:
    _, published = source()
    with greet(published.descriptor) as sock:
        sock.sendall(protocol.read_request([(0, 0, 20 * MIB)] * 4))
        head = exactly(sock, protocol.REPLY.size)
        assert refusal(head + exactly(sock, protocol.REPLY.unpack(head)[4])) is Refusal.MALFORMED
    with greet(published.descriptor) as sock:
        sock.sendall(protocol.read_request([(1, 0, 0)] * protocol.MAX_RANGES))
        assert protocol.REPLY.unpack(exactly(sock, protocol.REPLY.size))[1::3] == (protocol.Kind.DATA, 0)


@pytest.fixture(scope="module")
def lasting() -> Iterator[Descriptor]:
    exporter = TcpEngine(TcpSettings(handshake_timeout=0.3)).exporter("127.0.0.1")
    yield exporter.publish([Region(memoryview(each)) for each in DATA]).descriptor
    exporter.close()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=300), st.booleans(), st.booleans())
def test_whatever_is_said_does_no_harm(lasting: Descriptor, noise: bytes, greeted: bool, framed: bool) -> None:
    with (greet if greeted else dial)(lasting) as sock:
        with suppress(OSError):  # The source may have hung up already.
            sock.sendall((protocol.REQUEST_MAGIC if greeted else protocol.MAGIC) + noise if framed else noise)
            sock.shutdown(socket.SHUT_WR)
        until_closed(sock)
    with greet(lasting) as sock:
        sock.sendall(protocol.read_request([(1, 0, 100)]))
        assert exactly(sock, protocol.REPLY.size + 100)[-100:] == DATA[1]


def test_the_secret_is_what_lets_in(source: Any) -> None:
    exporter, published = source()
    endpoint = Endpoint.decode(published.descriptor)
    other = Endpoint.decode(exporter.publish([Region(memoryview(b"other"))]).descriptor)
    for publication, secret, expected in (
        (endpoint.publication, other.secret, Refusal.UNKNOWN),
        (other.publication, endpoint.secret, Refusal.UNKNOWN),
        (bytes(8), bytes(32), Refusal.UNKNOWN),
    ):
        with dial(published.descriptor) as sock:
            sock.sendall(protocol.greeting(publication, secret))
            assert refusal(until_closed(sock)) is expected
    with dial(published.descriptor) as sock:
        sock.sendall(protocol.GREETING.pack(protocol.MAGIC, 2, 0, endpoint.publication, endpoint.secret))
        assert refusal(until_closed(sock)) is Refusal.VERSION


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("::1", "[::1]"), ("[::1]", "[::1]")],
)
def test_hosts(source: Any, reader: Any, host: str, address: str) -> None:
    if ":" in host and not socket.has_ipv6:
        return
    exporter, published = source(host)
    assert published.descriptor.address == exporter.address == f"{address}:{exporter.port}"
    assert take(reader(published.descriptor)).state is JobState.DONE


def test_a_host_that_is_no_loopback_address_is_served_on_all(source: Any, reader: Any) -> None:
    # 192.0.2.0/24 is set aside for documentation: nobody has this address, but it may be what peers are told.
    _, published = source("192.0.2.7")
    assert published.descriptor.address.startswith("192.0.2.7:")
    endpoint = Endpoint.decode(published.descriptor)
    here = Endpoint("127.0.0.1", endpoint.port, endpoint.publication, endpoint.secret, endpoint.sizes)
    assert take(reader(here.encode())).state is JobState.DONE
    named = source("some-host.example")[0].publish([Region(memoryview(b"x"))])
    assert named.descriptor.address.startswith("some-host.example:")


def test_bind_and_port(source: Any) -> None:
    exporter, _ = source("192.0.2.7", bind="127.0.0.1")
    with pytest.raises(Unavailable, match="in use"):
        source("127.0.0.1", port=exporter.port)
    with pytest.raises(InvalidArgument, match="bind"):
        source("127.0.0.1", bind="192.0.2.7")


@pytest.mark.parametrize("host", ["", "a b", "host:80", "a/b", "x" * 300, "..", "é" * 300, "\n"])
def test_bad_hosts(host: str) -> None:
    with pytest.raises(InvalidArgument, match="host"):
        TcpEngine().exporter(host)


def test_a_mapped_file_that_is_truncated_ends_the_read_only(tmp_path: Path, reader: Any) -> None:
    path = tmp_path / "weights"
    with EngineProcess("tcp", {}) as worker:
        sizes = [8 * MIB]
        descriptor = undescribe(worker.ask("publish", seed=1, sizes=sizes, path=str(path))["descriptor"])
        os.truncate(path, 4096)
        into = memoryview(bytearray(8 * MIB))
        progress = end(reader(descriptor).read([Range(0, 0, 8 * MIB)], [into], deadline=60))
        assert progress.state is JobState.FAILED
        eventually(lambda: worker.ask("load") == 0, what="the reader to be let go")
        assert worker.leave() == 0


def test_without_descriptors_to_spare_it_goes_on(reader: Any) -> None:
    with EngineProcess("tcp", {"handshake_timeout": 0.3}) as worker:
        sizes = [len(each) for each in DATA]
        descriptor = undescribe(worker.ask("publish", seed=1, sizes=sizes)["descriptor"])
        held = worker.ask("usage")["descriptors"]
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (held + 10, held + 10))
        crowd = [dial(descriptor) for _ in range(50)]
        until(lambda: take(reader(descriptor, connect_timeout=2.0)).state is JobState.DONE, "a reader getting through")
        for sock in crowd:
            sock.close()
        assert worker.leave() == 0


FORKING = """
import os, sys
from peerload.engines.base import Range, Region
from peerload.plugins import open_engine

engine = open_engine("tcp", max_bytes_per_second=4 << 20)
exporter, importer = engine.exporter("127.0.0.1"), engine.importer()
published = exporter.publish([Region(memoryview(bytes(8 << 20)))])
job = importer.open(published.descriptor).read([Range(0, 0, 8 << 20)], [importer.allocate(8 << 20)], deadline=60)
while not job.poll().bytes_done:
    job.wait(0.1)
child = os.fork()
if not child:
    # Nothing of the parent's is open here, and leaving the usual way closes nothing of his.
    held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
    exporter.close()
    sys.exit(sum("socket" in each for each in held))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
while job.poll().state.value == "running":
    job.wait(1)
assert job.poll().state.value == "done", job.poll()
"""


def test_a_forked_child_disturbs_nobody() -> None:
    result = subprocess.run([sys.executable, "-c", FORKING], timeout=60, stdin=subprocess.DEVNULL, check=False)
    assert result.returncode == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": -1},
        {"port": 65536},
        {"max_connections": 0},
        {"max_pending": 0},
        {"connections": 0},
        {"large_read": 0},
        {"connect_timeout": 0},
        {"handshake_timeout": -1},
        {"progress_timeout": float("nan")},
        {"idle_timeout": 0},
        {"max_bytes_per_second": 0},
        {"speed": 1},
    ],
    ids=str,
)
def test_bad_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(wrong))):
        open_tcp(**wrong)
