"""The TCP engine's target side against sources that lie, stall, or are none."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peerload.engines.base import Descriptor, Job, JobState, Progress, Range
from peerload.engines.tcp import TcpEngine, TcpImporter, TcpSettings, protocol
from peerload.engines.tcp.protocol import Endpoint, Kind, Refusal
from peerload.errors import Fault, InvalidArgument, TransferFailed
from peerload.testing.engine_suite.base import end
from tests.engines.tcp_peers import exactly, fake_source

SIZES = (1000, 10)


@pytest.fixture
def importer() -> Iterator[TcpImporter]:
    importer = TcpEngine(TcpSettings(progress_timeout=0.5, connect_timeout=0.5)).importer()
    yield importer
    importer.close()


def read(importer: TcpImporter, descriptor: Descriptor, deadline: float = 30) -> tuple[Progress, memoryview, Job]:
    into = importer.allocate(1000)
    job = importer.open(descriptor).read([Range(0, 0, 1000)], [into], deadline=deadline)
    return end(job), into, job


def accept(sock: socket.socket) -> None:
    exactly(sock, protocol.GREETING.size)
    sock.sendall(protocol.accepted())
    exactly(sock, protocol.REQUEST.size + protocol.RANGE.size)


def data(length: int) -> bytes:
    return protocol.REPLY.pack(protocol.REPLY_MAGIC, Kind.DATA, 0, 0, length)


def echo(sock: socket.socket) -> None:
    while more := sock.recv(1000):
        sock.sendall(more)


def after_greeting(said: bytes) -> Callable[[socket.socket], None]:
    def act(sock: socket.socket) -> None:
        exactly(sock, protocol.GREETING.size)
        sock.sendall(said)

    return act


def after_request(said: bytes, *, stay: bool = False) -> Callable[[socket.socket], None]:
    def act(sock: socket.socket) -> None:
        accept(sock)
        sock.sendall(said)
        if stay:
            sock.recv(1)

    return act


@pytest.mark.parametrize(
    ("act", "retryable", "words"),
    [
        (lambda sock: None, True, "lost the connection"),
        (lambda sock: sock.recv(1000) and sock.recv(1000), True, "said nothing"),
        (lambda sock: sock.sendall(b"SSH-2.0-OpenSSH_9.6\r\n" * 9), False, "does not speak"),
        (echo, False, "does not speak"),
        (after_greeting(protocol.accepted()[:7]), True, "lost the connection"),
        (after_greeting(protocol.REPLY.pack(protocol.REPLY_MAGIC, Kind.ACCEPTED, 0, 0, 9)), False, "does not speak"),
        (after_greeting(protocol.refused(Refusal.BUSY, "later")), True, "refused: later"),
        (
            after_greeting(protocol.refused(Refusal.UNKNOWN, "never\x1b[2J\nheard of it")),
            False,
            "never?[2J?heard of it",
        ),
        (after_greeting(protocol.REPLY.pack(protocol.REPLY_MAGIC, Kind.REFUSED, 1, 1, 2**63)), False, "does not speak"),
        (after_request(protocol.refused(Refusal.RETIRED, "gone")), False, "refused: gone"),
        (after_request(data(1001)), False, "with 1001"),
        (after_request(data(999) + bytes(999)), False, "with 999"),
        (after_request(data(1000) + bytes(500)), True, "lost the connection"),
        (after_request(data(1000) + bytes(500), stay=True), True, "sent nothing for 0.5 s"),
        (after_request(b"", stay=True), True, "sent nothing for 0.5 s"),
        (after_request(struct.pack("<16s", b"PLrs\x10")), False, "does not speak"),
    ],
)
def test_sources_that_are_none(importer: TcpImporter, act: Any, retryable: bool, words: str) -> None:
    with fake_source(act, SIZES) as descriptor:
        progress, _, job = read(importer, descriptor)
        assert (progress.state, progress.retryable) == (JobState.FAILED, retryable)
        assert words in progress.reason
        assert progress.reason.isprintable()
        assert job.completed() == []
        faults = {"lost": Fault.LOST, "said": Fault.STALLED, "sent": Fault.STALLED}
        assert progress.fault is faults.get(words.split()[0], Fault.OTHER)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=64), st.sampled_from([after_greeting, after_request]))
def test_sources_that_say_anything(importer: TcpImporter, noise: bytes, when: Any) -> None:
    with fake_source(when(noise), SIZES) as descriptor:
        progress, into, _ = read(importer, descriptor)
        assert progress.state is JobState.FAILED
        assert into == bytes(1000)


def test_a_source_that_drips_runs_into_the_deadline(importer: TcpImporter) -> None:
    def act(sock: socket.socket) -> None:
        accept(sock)
        sock.sendall(data(1000))
        sock.settimeout(0.1)
        while True:
            sock.sendall(b"x")
            try:
                if not sock.recv(1):
                    return
            except TimeoutError:
                continue

    with fake_source(act, SIZES) as descriptor:
        progress, _, job = read(importer, descriptor, deadline=1.5)
        assert progress.state is JobState.FAILED
        assert "deadline" in progress.reason
        assert progress.fault is Fault.OURS
        assert 0 < progress.bytes_done < 1000
        assert job.completed() == []


def test_what_arrived_before_a_source_broke_off_is_told(importer: TcpImporter) -> None:
    def act(sock: socket.socket) -> None:
        exactly(sock, protocol.GREETING.size)
        sock.sendall(protocol.accepted())
        exactly(sock, protocol.REQUEST.size + 2 * protocol.RANGE.size)
        sock.sendall(data(1010) + b"y" * 10 + b"x" * 999)

    with fake_source(act, SIZES) as descriptor:
        into = [importer.allocate(10), importer.allocate(1000)]
        job = importer.open(descriptor).read([Range(1, 0, 10), Range(0, 0, 1000)], into, deadline=30)
        progress = end(job)
        assert (progress.state, progress.bytes_done) == (JobState.FAILED, 1009)
        assert [index for index, _ in job.completed()] == [0]
        assert into[0] == b"y" * 10


def test_nobody_listens(importer: TcpImporter) -> None:
    with fake_source(lambda sock: None, SIZES) as descriptor:
        pass
    progress, _, _ = read(importer, descriptor)
    assert (progress.state, progress.retryable, progress.fault) == (JobState.FAILED, True, Fault.REFUSED)
    assert "cannot connect" in progress.reason


@pytest.mark.parametrize("host", ["h" * 64, "a..b"])
def test_a_name_that_cannot_be_one(importer: TcpImporter, host: str) -> None:
    """It comes from a peer; no thread may end over it, and no reader wait for one that did."""
    progress, _, _ = read(importer, Endpoint(host, 1, bytes(8), bytes(32), SIZES).encode())
    assert (progress.state, progress.retryable) == (JobState.FAILED, False)
    assert "no host name" in progress.reason


def test_a_name_that_stands_for_nothing(importer: TcpImporter) -> None:
    progress, _, _ = read(importer, Endpoint("no-such-host.invalid", 1, bytes(8), bytes(32), SIZES).encode())
    assert (progress.state, progress.fault) == (JobState.FAILED, Fault.UNREACHABLE)
    assert "cannot connect" in progress.reason


def test_a_kept_connection_that_turns_out_dead_is_replaced(importer: TcpImporter) -> None:
    greetings = 0

    def act(sock: socket.socket) -> None:
        nonlocal greetings
        greetings += 1
        accept(sock)
        sock.sendall(data(1000) + bytes(1000))
        # The end of the first read, and then the request of the second: it is heard, and not answered.
        exactly(sock, 2 * protocol.REQUEST.size + protocol.RANGE.size)

    with fake_source(act, SIZES) as descriptor:
        reader = importer.open(descriptor)
        for _ in range(2):
            job = reader.read([Range(0, 0, 1000)], [importer.allocate(1000)], deadline=30)
            assert end(job).state is JobState.DONE
            assert [index for index, _ in job.completed()] == [0]
        assert greetings == 2
        reader.close()


@given(
    st.sampled_from(["10.0.0.1", "::1", "fe80::1", "a.example", "x"]),
    st.integers(1, 65535),
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=32, max_size=32),
    st.lists(st.integers(0, 2**64 - 1), max_size=50),
)
def test_descriptors(host: str, port: int, publication: bytes, secret: bytes, sizes: list[int]) -> None:
    endpoint = Endpoint(host, port, publication, secret, tuple(sizes))
    descriptor = endpoint.encode()
    assert Endpoint.decode(descriptor) == endpoint
    assert repr(secret)[2:-1] not in repr(endpoint) + repr(descriptor)
    for wrong in (
        Descriptor("tcp", descriptor.address + "0", descriptor.data),
        Descriptor("tcp", descriptor.address, descriptor.data[:-1]),
        Descriptor("tcp", descriptor.address, descriptor.data + b"\0"),
        Descriptor("tcp", descriptor.address, b"\2" + descriptor.data[1:]),
        Descriptor("tcp", descriptor.address, b""),
    ):
        with pytest.raises(TransferFailed) as caught:
            Endpoint.decode(wrong)
        assert not caught.value.retryable
    with pytest.raises(InvalidArgument):
        Endpoint.decode(Descriptor("nixl", descriptor.address, descriptor.data))
