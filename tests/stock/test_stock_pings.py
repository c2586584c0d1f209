"""The stock model client pings an idle connection for ever; the server must not count that as abuse."""

from __future__ import annotations

import socket
import struct

from tests.support.live import LiveServer

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS, _PING, _GOAWAY = 0x4, 0x6, 0x7
_ACK = 0x1


def _frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + bytes(4) + payload


def _read_frame(connection: socket.socket) -> tuple[int, int, bytes]:
    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = connection.recv(count - len(data))
            assert part, "the server closed the connection"
            data += part
        return data

    head = exactly(9)
    return head[3], head[4], exactly(int.from_bytes(head[:3], "big"))


def test_pings_without_calls_are_never_too_many(server: LiveServer) -> None:
    """Two hours of the stock client's pings in one go: gRPC's default cuts off at the third."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(_PREFACE + _frame(_SETTINGS))
        for number in range(240):
            sent = number.to_bytes(8, "big")
            connection.sendall(_frame(_PING, payload=sent))
            while True:
                kind, flags, payload = _read_frame(connection)
                assert kind != _GOAWAY, payload
                if kind == _SETTINGS and not flags & _ACK:
                    connection.sendall(_frame(_SETTINGS, _ACK))
                elif kind == _PING and not flags & _ACK:
                    connection.sendall(_frame(_PING, _ACK, payload))
                elif kind == _PING:
                    assert payload == sent
                    break
