"""What the conformance suite asks of engines whose sources give leases: strangers, caps, patience."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import Any

from peerload.engines.base import Descriptor
from peerload.engines.child import leases
from peerload.engines.tcp import protocol
from peerload.engines.tcp.protocol import Endpoint
from peerload.testing.engine_suite.base import SuiteBase
from tests.engines.tcp_peers import dial, exactly, greet, refusal, until_closed


class LeaseStrangers(SuiteBase):
    def slow(self, bytes_per_second: int) -> dict[str, Any]:
        return {"max_bytes_per_second": bytes_per_second}

    def impatient(self, seconds: float) -> dict[str, Any]:
        return {"progress_timeout": seconds}

    def disturb(self, descriptor: Descriptor) -> None:
        endpoint = Endpoint.decode(descriptor, descriptor.engine)
        for said in (
            b"GET / HTTP/1.1\r\n\r\n",
            os.urandom(10_000),
            protocol.greeting(endpoint.publication, bytes(32)),
            protocol.greeting(os.urandom(8), endpoint.secret),
            protocol.GREETING.pack(protocol.MAGIC, 99, 0, endpoint.publication, endpoint.secret),
        ):
            with dial(descriptor) as sock:
                with suppress(ConnectionError):  # The source may have hung up already.
                    sock.sendall(said)
                refusal(until_closed(sock))
        for request in (
            b"x" * protocol.REQUEST.size,
            protocol.REQUEST.pack(protocol.REQUEST_MAGIC, leases.LOOK, 1),
            protocol.REQUEST.pack(protocol.REQUEST_MAGIC, 77, 0),
            protocol.read_request([(0, 0, 1)]),
            leases.request(leases.WANT, 100),  # Without a lease.
        ):
            with greet(descriptor) as sock:
                sock.sendall(request)
                refusal(until_closed(sock))
        with greet(descriptor) as sock:
            sock.sendall(leases.request(leases.LOOK))
            head = exactly(sock, protocol.REPLY.size)
            assert protocol.REPLY.unpack(head)[1] == leases.LOOKED
            exactly(sock, protocol.REPLY.unpack(head)[4])
            sock.sendall(leases.request(leases.LOOK))  # Twice.
            until_closed(sock)
        # Half of a greeting, half of a request, a lease and nothing, left open while others are served.
        left = [dial(descriptor), dial(descriptor), *(greet(descriptor) for _ in range(3))]
        left[1].sendall(protocol.MAGIC[:5])
        left[3].sendall(struct.pack("<4sB", protocol.REQUEST_MAGIC, 1))
        left[4].sendall(leases.request(leases.LOOK))
        for sock in left:
            sock.close()

    def connect_and_leave(self, descriptor: Descriptor, number: int) -> None:
        kind = number % 4
        with greet(descriptor) if kind == 3 else dial(descriptor) as sock:
            if kind == 1:
                sock.sendall(os.urandom(100))
            elif kind == 2:
                sock.sendall(protocol.MAGIC)
            elif kind == 3:
                sock.sendall(leases.request(leases.LOOK))
