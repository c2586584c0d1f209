"""The TCP engine keeps the contract, whatever strangers send it."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import Any, ClassVar

from peerload.engines.base import Descriptor
from peerload.engines.tcp import protocol
from peerload.engines.tcp.protocol import Endpoint
from peerload.testing.engine_suite import EngineSuite
from tests.engines.tcp_peers import dial, exactly, greet, refusal, until_closed


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
                with suppress(ConnectionError):  # The source may have hung up already.
                    sock.sendall(said)
                refusal(until_closed(sock))
        for request in (
            b"x" * protocol.REQUEST.size,
            protocol.REQUEST.pack(protocol.REQUEST_MAGIC, protocol.Kind.READ, 2**32 - 1),
            protocol.REQUEST.pack(protocol.REQUEST_MAGIC, protocol.Kind.READ, 0),
            protocol.REQUEST.pack(protocol.REQUEST_MAGIC, 77, 1),
        ):
            with greet(descriptor) as sock:
                sock.sendall(request)
                refusal(until_closed(sock))
        # Half of a greeting, half of a request, and nothing, left open while others are served.
        left = [dial(descriptor), dial(descriptor), greet(descriptor), greet(descriptor)]
        left[1].sendall(protocol.MAGIC[:5])
        left[3].sendall(struct.pack("<4sB", protocol.REQUEST_MAGIC, 1))
        with greet(descriptor) as sock:
            for region, offset, length in ((9, 0, 1), (0, 2**64 - 1, 2), (0, 1, 2**20), (0, 2**63, 2**63), (1, 101, 0)):
                sock.sendall(protocol.read_request([(0, 0, 1), (region, offset, length)]))
                head = exactly(sock, protocol.REPLY.size)
                text = exactly(sock, protocol.REPLY.unpack(head)[4])
                assert refusal(head + text) is protocol.Refusal.OUT_OF_RANGE
                assert b"not published" in text
            # And the connection is as good as before.
            sock.sendall(protocol.read_request([(1, 0, 100)]))
            assert len(exactly(sock, protocol.REPLY.size + 100)) == protocol.REPLY.size + 100
        for sock in left:
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
