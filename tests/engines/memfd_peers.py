"""Talking to one side of the memfd engine by hand."""

from __future__ import annotations

import array
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from peerload.engines.base import Descriptor
from peerload.engines.memfd.host import Host
from peerload.engines.memfd.protocol import Endpoint, Layout
from peerload.engines.tcp import protocol
from tests.engines.tcp_peers import exactly


def dial(descriptor: Descriptor) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    sock.connect(f"\0{Endpoint.decode(descriptor).socket}")
    return sock


def greet(descriptor: Descriptor) -> socket.socket:
    endpoint = Endpoint.decode(descriptor)
    sock = dial(descriptor)
    sock.sendall(protocol.greeting(endpoint.publication, endpoint.secret))
    assert exactly(sock, protocol.REPLY.size) == protocol.accepted()
    return sock


def ask_for_pages(sock: socket.socket) -> None:
    sock.sendall(protocol.REQUEST.pack(protocol.REQUEST_MAGIC, protocol.Kind.PAGES, 0))


def answer_pages(sock: socket.socket, layout: bytes, fds: Sequence[int] = ()) -> None:
    """Be a source that has accepted the greeting, and is asked for its pages."""
    exactly(sock, protocol.GREETING.size)
    sock.sendall(protocol.accepted())
    exactly(sock, protocol.REQUEST.size)
    sock.sendall(protocol.REPLY.pack(protocol.REPLY_MAGIC, protocol.Kind.ACCEPTED, 0, 0, len(layout)) + layout)
    if fds:
        sock.sendmsg([b"F"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def one_region(size: int) -> bytes:
    """The layout of one region, all of one memfd."""
    return Layout((size,), ((0, 0),)).encode()


@contextmanager
def fake_source(act: Callable[[socket.socket], None], sizes: tuple[int, ...]) -> Iterator[Descriptor]:
    """A source that does with each connection what `act` says, and the descriptor of what it pretends to offer."""
    name = f"peerload-test-{secrets.token_hex(8)}"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"\0{name}")
    listening.listen()

    def serve() -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            with sock, suppress(OSError):
                sock.settimeout(30)
                act(sock)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    host = Host.here()
    assert host is not None
    try:
        yield Endpoint(host, name, bytes(8), bytes(32), sizes).encode()
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(30)
        assert not thread.is_alive()
