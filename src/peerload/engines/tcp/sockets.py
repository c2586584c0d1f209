"""Blocking sockets that come back every quarter of a second, so that their thread can look at the clock.

The kernel's own timeouts (SO_RCVTIMEO, SO_SNDTIMEO) are used rather than Python's, which make a socket non-blocking and
cost a poll before every call: here one call moves a whole piece (MSG_WAITALL). `shutdown` from another thread wakes a
blocked call at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import weakref
from collections.abc import Callable, Sequence
from typing import Final

__all__ = [
    "ConnectionLost",
    "adopt",
    "connect",
    "listen",
    "receive",
    "receive_exactly",
    "send",
    "send_all",
    "shut",
    "track",
]

_TICK: Final = struct.pack("@ll", 0, 250_000)
_SEND_FLAGS: Final = socket.MSG_NOSIGNAL

_open: weakref.WeakSet[socket.socket] = weakref.WeakSet()


class ConnectionLost(Exception):
    """The other side closed or reset the connection, or this side shut it down."""


def _forget_in_child() -> None:
    # A forked child inherits every socket and none of the threads that serve them: a peer would wait on it in vain, and
    # would not notice this process's death as long as the child lives.
    for sock in list(_open):
        sock.close()


os.register_at_fork(after_in_child=_forget_in_child)


def track(sock: socket.socket) -> None:
    """Have a socket closed in forked children."""
    _open.add(sock)


def adopt(sock: socket.socket) -> socket.socket:
    """Tune a connected socket for this engine: blocking with ticks, no delay, keep-alive, tracked."""
    track(sock)
    sock.setblocking(True)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TICK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TICK)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Buffers are left to the kernel: fixing their sizes turns its own tuning off.
    return sock


def connect(host: str, port: int, timeout: float) -> socket.socket:
    """A connected socket, tuned. Raises OSError. Each address of the host is given up to `timeout` seconds."""
    sock = socket.create_connection((host, port), timeout)
    try:
        return adopt(sock)
    except OSError:
        sock.close()
        raise


def listen(bind: str, port: int) -> socket.socket:
    """A listening, non-blocking socket. `bind` is an address, or "" for all, IPv6 included where there is any."""
    if bind in ("", "::") and socket.has_dualstack_ipv6():
        sock = socket.create_server(("::", port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True)
    elif ":" in bind:
        sock = socket.create_server((bind, port), family=socket.AF_INET6, backlog=1024)
    else:
        sock = socket.create_server((bind, port), backlog=1024)
    track(sock)
    sock.setblocking(False)
    return sock


def shut(sock: socket.socket) -> None:
    """End a connection so that whoever is blocked on it wakes; its own thread closes it. Fine on one that has ended."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def receive(sock: socket.socket, views: Sequence[memoryview], waiting: Callable[[], None]) -> int:
    """Fill `views` as far as one tick allows; how many bytes came, at least 1.

    Calls `waiting`, which may raise to give up, before each wait. Raises `ConnectionLost`.
    """
    while True:
        waiting()
        try:
            if len(views) == 1:
                count = sock.recv_into(views[0], 0, socket.MSG_WAITALL)
            else:
                count = sock.recvmsg_into(views, 0, socket.MSG_WAITALL)[0]
        except BlockingIOError:
            continue
        except OSError as error:
            raise ConnectionLost(_words(error)) from None
        if not count:
            raise ConnectionLost("the connection was closed")
        return count


def receive_exactly(sock: socket.socket, length: int, waiting: Callable[[], None]) -> bytes:
    """`length` bytes (at least 1). Calls and raises as `receive` does."""
    buffer = bytearray(length)
    with memoryview(buffer) as view:
        done = 0
        while done < length:
            with view[done:] as rest:
                done += receive(sock, (rest,), waiting)
    return bytes(buffer)


def send(sock: socket.socket, views: Sequence[memoryview | bytes], waiting: Callable[[], None]) -> int:
    """Send of `views` (1,024 at most) what one tick allows; how many bytes went, at least 1. Otherwise as `receive`."""
    while True:
        waiting()
        try:
            return sock.sendmsg(views, (), _SEND_FLAGS)
        except BlockingIOError:
            continue
        except OSError as error:
            raise ConnectionLost(_words(error)) from None


def send_all(sock: socket.socket, data: bytes, waiting: Callable[[], None]) -> None:
    """Send a small message whole. Calls and raises as `receive` does."""
    done = 0
    while done < len(data):
        done += send(sock, (data[done:],), waiting)


def _words(error: OSError) -> str:
    if error.errno == errno.EFAULT:
        return "the memory is gone (a mapped file was truncated?)"
    return (error.strerror or str(error)).lower()
