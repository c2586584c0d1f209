"""Talking to one side of the TCP engine by hand."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from peerload.engines.base import Descriptor
from peerload.engines.tcp import protocol
from peerload.engines.tcp.protocol import Endpoint


def dial(descriptor: Descriptor) -> socket.socket:
    endpoint = Endpoint.decode(descriptor, descriptor.engine)
    return socket.create_connection((endpoint.host, endpoint.port), 30)


def greet(descriptor: Descriptor) -> socket.socket:
    endpoint = Endpoint.decode(descriptor, descriptor.engine)
    sock = dial(descriptor)
    sock.sendall(protocol.greeting(endpoint.publication, endpoint.secret))
    assert exactly(sock, protocol.REPLY.size) == protocol.accepted()
    return sock


def exactly(sock: socket.socket, length: int) -> bytes:
    heard = b""
    while len(heard) < length and (more := sock.recv(length - len(heard))):
        heard += more
    return heard


def until_closed(sock: socket.socket) -> bytes:
    heard = b""
    try:
        while more := sock.recv(65536):
            heard += more
    except ConnectionError:
        pass
    return heard


def refusal(heard: bytes) -> protocol.Refusal | None:
    """What a reply refuses with; None where nothing was heard."""
    if not heard:
        return None
    magic, kind, code, _, length = protocol.REPLY.unpack_from(heard)
    assert (magic, kind) == (protocol.REPLY_MAGIC, protocol.Kind.REFUSED)
    assert len(heard) == protocol.REPLY.size + length
    return protocol.Refusal(code)


@contextmanager
def fake_source(
    act: Callable[[socket.socket], None], sizes: tuple[int, ...], host: str = "127.0.0.1"
) -> Iterator[Descriptor]:
    """A source that does with each connection what `act` says, and the descriptor of what it pretends to offer."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, 0), family=family)

    def serve() -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(30)
                try:
                    act(sock)
                except OSError:
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield Endpoint(host, listening.getsockname()[1], bytes(8), bytes(32), sizes).encode()
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(30)
        assert not thread.is_alive()
