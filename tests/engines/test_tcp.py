"""The TCP engine keeps the contract, whatever strangers send it."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any, ClassVar

from peerload.engines.base import Descriptor
from peerload.engines.tcp import protocol
from peerload.engines.tcp.protocol import Endpoint
from peerload.testing.engine_suite import EngineSuite


def dial(descriptor: Descriptor) -> socket.socket:
    endpoint = Endpoint.decode(descriptor)
    return socket.create_connection((endpoint.host, endpoint.port), 30)


def greet(descriptor: Descriptor) -> socket.socket:
    endpoint = Endpoint.decode(descriptor)
    sock = dial(descriptor)
    sock.sendall(protocol.greeting(endpoint.publication, endpoint.secret))
    assert sock.recv(protocol.REPLY.size, socket.MSG_WAITALL) == protocol.accepted()
    return sock


def hear_all(sock: socket.socket) -> bytes:
    heard = b""
    try:
        while more := sock.recv(65536):
            heard += more
    except ConnectionError:
        pass
    return heard


class TestTcpEngine(EngineSuite):
    engine = "tcp"
    settings: ClassVar[dict[str, Any]] = {"large_read": 4 * 1024 * 1024}  # so that most reads here use two connections

    def slow(self, bytes_per_second: int) -> dict[str, Any]:
        return {"max_bytes_per_second": bytes_per_second}

    def impatient(self, seconds: float) -> dict[str, Any]:
        return {"progress_timeout": seconds}

    def disturb(self, descriptor: Descriptor) -> None:
        endpoint = Endpoint.decode(descriptor)
        wrong = protocol.greeting(endpoint.publication, bytes(32))
        for said in (
            b"GET / HTTP/1.1\r\n\r\n",
            os.urandom(10_000),
            wrong,
            protocol.greeting(os.urandom(8), endpoint.secret),
            protocol.GREETING.pack(protocol.MAGIC, 99, 0, endpoint.publication, endpoint.secret),
        ):
            with dial(descriptor) as sock:
                sock.sendall(said)
                heard = hear_all(sock)
                assert len(heard) < 200
                assert heard == b"" or protocol.REPLY.unpack_from(heard)[1] == protocol.Kind.REFUSED
        for request in (
            b"x" * protocol.REQUEST.size,
            protocol.REQUEST.pack(protocol.REQUEST_MAGIC, protocol.Kind.READ, 2**32 - 1),
            protocol.REQUEST.pack(protocol.REQUEST_MAGIC, protocol.Kind.READ, 0),
            protocol.REQUEST.pack(protocol.REQUEST_MAGIC, 77, 1),
        ):
            with greet(descriptor) as sock:
                sock.sendall(request)
                heard = hear_all(sock)
                assert heard == b"" or protocol.REPLY.unpack_from(heard)[1] == protocol.Kind.REFUSED
        # Half of a greeting, half of a request, and nothing, left open while others are served.
        self.left = [dial(descriptor), dial(descriptor), greet(descriptor), greet(descriptor)]
        self.left[1].sendall(protocol.MAGIC[:5])
        self.left[3].sendall(struct.pack("<4sB", protocol.REQUEST_MAGIC, 1))
        with greet(descriptor) as sock:
            for region, offset, length in ((9, 0, 1), (0, 2**64 - 1, 2), (0, 1, 2**20), (0, 2**63, 2**63), (1, 101, 0)):
                sock.sendall(protocol.read_request([(0, 0, 1), (region, offset, length)]))
                magic, kind, refusal, retryable, size = protocol.REPLY.unpack(
                    sock.recv(protocol.REPLY.size, socket.MSG_WAITALL)
                )
                assert (magic, kind, refusal, retryable) == (
                    protocol.REPLY_MAGIC,
                    protocol.Kind.REFUSED,
                    protocol.Refusal.OUT_OF_RANGE,
                    0,
                )
                assert b"not published" in sock.recv(size, socket.MSG_WAITALL)
            # And the connection is as good as before.
            sock.sendall(protocol.read_request([(1, 0, 100)]))
            assert len(sock.recv(protocol.REPLY.size + 100, socket.MSG_WAITALL)) == protocol.REPLY.size + 100
        for sock in self.left:
            sock.close()

    def connect_and_leave(self, descriptor: Descriptor, number: int) -> None:
        kind = number % 4
        sock = greet(descriptor) if kind == 3 else dial(descriptor)
        with sock:
            if kind == 1:
                sock.sendall(os.urandom(100))
            elif kind == 2:
                sock.sendall(protocol.MAGIC)
            elif kind == 3:
                sock.sendall(protocol.read_request([(0, 0, 2**20)]))
