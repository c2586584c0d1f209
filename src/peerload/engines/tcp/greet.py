"""Connecting to a source and saying which publication the connection is for."""

from __future__ import annotations

import socket
from collections.abc import Callable

from peerload.clock import Clock
from peerload.engines.tcp import sockets
from peerload.engines.tcp.lane import read_reply
from peerload.engines.tcp.protocol import Kind
from peerload.engines.tcp.sockets import ConnectionLost
from peerload.errors import Fault, TransferFailed

__all__ = ["dial", "greet"]


def dial(host: str, port: int, address: str, timeout: float) -> socket.socket:
    """A connected socket. Each address of the host is given up to `timeout` seconds. Raises `TransferFailed`."""
    try:
        return sockets.connect(host, port, timeout)
    except UnicodeError:
        raise TransferFailed(f"cannot connect to {address}: that is no host name", retryable=False) from None
    except OSError as error:
        fault = Fault.REFUSED if isinstance(error, ConnectionRefusedError) else Fault.UNREACHABLE
        raise TransferFailed(f"cannot connect to {address}: {error.strerror or error}", fault=fault) from None


def greet(
    sock: socket.socket, greeting: bytes, address: str, timeout: float, clock: Clock, closed: Callable[[], bool]
) -> socket.socket:
    """Say what a connection is for; it, once the source has accepted it. It is closed where that does not happen.

    The answer may take `timeout` seconds; the caller gives up earlier by being `closed`. Raises `TransferFailed`.
    """
    until = clock.monotonic() + timeout

    def waiting() -> None:
        if closed() or clock.monotonic() > until:
            text = f"{address} accepted the connection and said nothing for {timeout:g} s"
            raise TransferFailed(text, fault=Fault.STALLED)

    greeted = False
    try:
        sockets.send_all(sock, greeting, waiting)
        if read_reply(sock, Kind.ACCEPTED, address, waiting):
            raise TransferFailed(f"{address} does not speak this engine's protocol", retryable=False)
        greeted = True
    except ConnectionLost as error:
        raise TransferFailed(f"lost the connection to {address}: {error}", fault=Fault.LOST) from None
    finally:
        if not greeted:
            sock.close()
    return sock
