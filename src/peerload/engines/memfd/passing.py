"""Descriptors over a unix socket."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Callable, Sequence

from peerload.engines.memfd.protocol import PASSED
from peerload.engines.tcp.sockets import ConnectionLost
from peerload.errors import Fault, TransferFailed

__all__ = ["receive_descriptors", "send_descriptors"]


def send_descriptors(sock: socket.socket, fds: Sequence[int], waiting: Callable[[], None]) -> None:
    """Send them, in their order. Calls and raises as `peerload.engines.tcp.sockets.send` does."""
    for first in range(0, len(fds), PASSED):
        data = array.array("i", fds[first : first + PASSED])
        while True:
            waiting()
            try:
                sock.sendmsg([b"F"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, data)], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                continue
            except OSError as error:
                raise ConnectionLost((error.strerror or str(error)).lower()) from None
            break


def receive_descriptors(sock: socket.socket, count: int, waiting: Callable[[], None]) -> list[int]:
    """So many, closed on exec; whoever calls closes them. Calls and raises as `peerload.engines.tcp.sockets.receive` does, and
    `TransferFailed` where this process may have no more of them, or others came."""
    fds: list[int] = []
    try:
        while len(fds) < count:
            expected = min(PASSED, count - len(fds))
            more, whole = _receive(sock, waiting)
            fds += more
            if len(more) != expected:
                # The kernel drops what there is no room for; the rest is closed with the socket.
                text = (
                    "sent other descriptors than it said"
                    if whole
                    else "sent descriptors that this process has no room for"
                )
                raise TransferFailed(f"the source {text}", fault=Fault.OTHER if whole else Fault.OURS)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def _receive(sock: socket.socket, waiting: Callable[[], None]) -> tuple[list[int], bool]:
    """Those that came with one byte, and whether these are all."""
    space = socket.CMSG_SPACE(PASSED * array.array("i").itemsize)
    while True:
        waiting()
        try:
            said, ancillary, flags, _ = sock.recvmsg(1, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            continue
        except OSError as error:
            raise ConnectionLost((error.strerror or str(error)).lower()) from None
        if not said:
            raise ConnectionLost("the connection was closed")
        fds = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        return list(fds), not flags & socket.MSG_CTRUNC
