"""The memfd engine keeps the contract, that of mapping included, whatever strangers send it."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from typing import Any, ClassVar

from peerload.engines.base import Descriptor
from peerload.engines.memfd.protocol import Endpoint
from peerload.engines.tcp import protocol
from peerload.testing.engine_suite import EngineSuite, MappingSuite
from tests.engines.memfd_peers import ask_for_pages, dial, greet
from tests.engines.tcp_peers import exactly, refusal, until_closed


class TestMemfdEngine(MappingSuite, EngineSuite):
    engine = "memfd"
    sealed = True
    settings: ClassVar[dict[str, Any]] = {"large_read": 4 * 1024 * 1024}  # so that most reads here use two threads

    def slow(self, bytes_per_second: int) -> dict[str, Any]:
        return {"max_bytes_per_second": bytes_per_second}

    def impatient(self, seconds: float) -> dict[str, Any]:
        return {"progress_timeout": seconds}

    def other_descriptors(self, good: Descriptor) -> list[bytes]:
        endpoint = Endpoint.decode(good)
        longer = Endpoint(endpoint.host, endpoint.socket, endpoint.publication, endpoint.secret, (10, 20, 30))
        swapped = Endpoint(endpoint.host, endpoint.socket, endpoint.publication, endpoint.secret, (10, 2**40))
        return [longer.encode().data, swapped.encode().data]

    def disturb(self, descriptor: Descriptor) -> None:
        endpoint = Endpoint.decode(descriptor)
        for said in (
            b"GET / HTTP/1.1\r\n\r\n",
            os.urandom(10_000),
            protocol.greeting(endpoint.publication, bytes(32)),
            protocol.greeting(os.urandom(8), endpoint.secret),
        ):
            with dial(descriptor) as sock:
                with suppress(ConnectionError):  # The source may have hung up already.
                    sock.sendall(said)
                refusal(until_closed(sock))
        for request in (
            b"x" * protocol.REQUEST.size,
            protocol.REQUEST.pack(protocol.REQUEST_MAGIC, protocol.Kind.PAGES, 1),
            protocol.REQUEST.pack(protocol.REQUEST_MAGIC, protocol.Kind.READ, 0),
            protocol.REQUEST.pack(protocol.REQUEST_MAGIC, 77, 0),
        ):
            with greet(descriptor) as sock:
                sock.sendall(request)
                refusal(until_closed(sock))
        # Half of a greeting, half of a request, a request whose answer nobody reads, and nothing, left open meanwhile.
        left = [dial(descriptor), dial(descriptor), greet(descriptor), greet(descriptor), greet(descriptor)]
        left[1].sendall(protocol.MAGIC[:5])
        left[3].sendall(struct.pack("<4sB", protocol.REQUEST_MAGIC, 1))
        for _ in range(100):
            ask_for_pages(left[4])
        with greet(descriptor) as sock:
            sock.sendall(protocol.read_request([(0, 1, 2**20)]))
            head = exactly(sock, protocol.REPLY.size)
            text = exactly(sock, protocol.REPLY.unpack(head)[4])
            assert refusal(head + text) is protocol.Refusal.OUT_OF_RANGE
            # And the connection is as good as before. Descriptors that are sent unasked are dropped.
            socket.send_fds(sock, [protocol.read_request([(1, 0, 100)])], [0, 1, 2])
            assert exactly(sock, protocol.REPLY.size + 8)[-8:] == struct.pack("<Q", 100)
        for sock in left:
            sock.close()

    def connect_and_leave(self, descriptor: Descriptor, number: int) -> None:
        kind = number % 4
        sock = greet(descriptor) if kind == 3 else dial(descriptor)
        with sock:
            if kind == 1:
                socket.send_fds(sock, [os.urandom(100)], [0])
            elif kind == 2:
                sock.sendall(protocol.MAGIC)
            elif kind == 3:
                ask_for_pages(sock)
