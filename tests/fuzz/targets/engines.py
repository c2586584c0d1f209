"""What engines read from peers: descriptors, the conversations of both sides, and messages of children."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any, Final
from unittest import mock

from peerload.clock import SystemClock
from peerload.engines.base import Descriptor, Region
from peerload.engines.child import leases, message
from peerload.engines.memfd import protocol as memfd
from peerload.engines.memfd.host import Host
from peerload.engines.nixl.strangers import agent_name
from peerload.engines.tcp import open_tcp, protocol
from peerload.engines.tcp.greet import dial, greet
from peerload.engines.tcp.lane import read_reply
from peerload.engines.tcp.protocol import Endpoint, Kind
from peerload.engines.tcp.sockets import ConnectionLost, receive_exactly
from peerload.errors import InvalidArgument, TransferFailed
from tests.fuzz.mutation import record, records
from tests.fuzz.target import Target

__all__ = ["TARGETS"]

_ENDPOINT: Final = Endpoint("127.0.0.1", 9, b"p" * 8, b"s" * 32, (4096, 0, 7))
_SIZES: Final = (100, 0, 3)


def run_descriptors(data: bytes) -> None:
    """Records of an address and a descriptor's bytes; connecting to where it leads, as far as that goes without a network."""
    for address, *rest in records(data) or ():
        body, text = b"".join(rest), address.decode(errors="replace")
        with suppress(TransferFailed):
            found = Endpoint.decode(Descriptor("tcp", text, body))
            assert found.encode() == Descriptor("tcp", text, body)
            _connect(found)
        with suppress(TransferFailed):
            shared = memfd.Endpoint.decode(Descriptor("memfd", text, body))
            assert shared.encode() == Descriptor("memfd", text, body)
        with suppress(ValueError):
            memfd.Layout.decode(body, _SIZES)
        with suppress(InvalidArgument):
            protocol.check_host(text)
        with suppress(TransferFailed):
            agent_name(body)


def _connect(endpoint: Endpoint) -> None:
    def nowhere(host: str, *given: Any, **more: Any) -> list[Any]:
        host.encode("idna")  # as the real one does
        raise ConnectionRefusedError

    with mock.patch.object(socket, "getaddrinfo", nowhere), suppress(TransferFailed):
        dial(endpoint.host, endpoint.port, endpoint.address, 1.0)


def seed_descriptors() -> Iterator[bytes]:
    shared = memfd.Endpoint(Host(b"b" * 16, 7), "peerload-x", b"p" * 8, b"s" * 32, (4096,))
    for descriptor in (_ENDPOINT.encode(), shared.encode()):
        yield record(descriptor.address.encode(), descriptor.data)
    for host in ("h" * 63 + ".example", "h" * 64, "a..b"):
        named = Endpoint(host, 9, b"p" * 8, b"s" * 32, ())
        yield record(named.address.encode(), named.encode().data)
    yield record(b"host", memfd.Layout((100, 50), ((0, 0), None, (1, 40))).encode())
    yield record(b"host", b"nixlSerDes|Agent" + (5).to_bytes(8, "little") + b"agent" + b"rest")


@cache
def _source() -> tuple[str, int, bytes, bytes]:
    exporter = open_tcp(handshake_timeout=0.3, progress_timeout=0.3).exporter("127.0.0.1")
    memory = memoryview(bytes(range(100)))
    publication = exporter.publish([Region(memory), Region(memory[:3])])
    _kept.append((exporter, publication))
    endpoint = Endpoint.decode(publication.descriptor)
    return endpoint.host, endpoint.port, endpoint.publication, endpoint.secret


_kept: list[Any] = []


def run_requests(data: bytes) -> None:
    """What a reader sends to a source, which closes the connection at the end of it, and serves the next one."""
    host, port, publication, secret = _source()
    for sent in (data, protocol.greeting(publication, secret) + data):
        with socket.create_connection((host, port), timeout=10) as sock, suppress(OSError):
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
    with socket.create_connection((host, port), timeout=10) as sock:
        sock.sendall(protocol.greeting(publication, secret) + protocol.read_request([(1, 0, 3)]))
        assert read_reply(sock, Kind.ACCEPTED, "a", _never) == 0
        assert read_reply(sock, Kind.DATA, "a", _never) == 3
        assert receive_exactly(sock, 3, _never) == bytes(range(3))


def seed_requests() -> Iterator[bytes]:
    end = protocol.REQUEST.pack(protocol.REQUEST_MAGIC, Kind.END, 0)
    yield protocol.read_request([(0, 0, 100), (1, 1, 2)]) + end
    yield protocol.read_request([(0, 10, 5)]) + protocol.read_request([(0, 0, 0)])
    yield protocol.greeting(b"p" * 8, b"s" * 32)
    yield leases.request(leases.LOOK) + leases.request(leases.WANT, 7) + end


def _never() -> None:
    return None


def run_replies(data: bytes) -> None:
    """What a source answers."""
    for kind in (Kind.ACCEPTED, Kind.DATA, leases.LOOKED, leases.GRANTED):
        _said(data, lambda sock, kind=kind: read_reply(sock, kind, "source", _never))  # type: ignore[misc]
    _said(data, lambda sock: greet(sock, b"hello", "source", 5.0, SystemClock(), lambda: False))


def _said(data: bytes, listen: Callable[[socket.socket], object]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        with suppress(TransferFailed, ConnectionLost):
            listen(ours)


def seed_replies() -> Iterator[bytes]:
    yield protocol.accepted()
    yield protocol.refused(protocol.Refusal.BUSY, "full")
    yield protocol.refused(protocol.Refusal.UNKNOWN, "é\n\x1b[31m")
    yield protocol.REPLY.pack(protocol.REPLY_MAGIC, Kind.DATA, 0, 0, 100)
    yield protocol.REPLY.pack(protocol.REPLY_MAGIC, leases.GRANTED, 0, 0, 2**63)


def run_messages(data: bytes) -> None:
    """A packet from a child, with and without a descriptor. Whoever receives it ends a child that talks nonsense."""
    for descriptors in ((), (os.memfd_create("x"),)):
        ours, theirs = message.pair()
        with ours, theirs:
            if data:
                socket.send_fds(theirs, [data], list(descriptors))
            theirs.close()
            with suppress(OSError):
                found = message.receive(ours)
                for descriptor in found.fds if found else ():
                    os.close(descriptor)
        for descriptor in descriptors:
            os.close(descriptor)


def seed_messages() -> Iterator[bytes]:
    yield b'{"do":"read","arenas":["1:2"]}\n' + bytes(40)
    yield b'{"state":"done","read":5}\npayload'
    yield b"memfd 30"


TARGETS = (
    Target("descriptors", run_descriptors, seed_descriptors),
    Target("requests", run_requests, seed_requests, mutations=60),
    Target("replies", run_replies, seed_replies),
    Target("messages", run_messages, seed_messages, mutations=200),
)
