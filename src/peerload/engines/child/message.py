"""Messages between a process and its children: a few words as JSON, a payload, and descriptors, in one packet."""

from __future__ import annotations

import array
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["MAX_FDS", "MAX_PAYLOAD", "Message", "pair", "receive", "send"]

MAX_PAYLOAD: Final = 1 << 17
MAX_FDS: Final = 64
"""Descriptors in one message at most; the kernel takes 253."""
_ROOM: Final = MAX_PAYLOAD + (1 << 15)
_BUFFER: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Message:
    """What came in one packet. The descriptors are the receiver's to close."""

    words: dict[str, Any]
    payload: bytes = b""
    fds: tuple[int, ...] = ()


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends that keep messages apart."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return ends


def send(sock: socket.socket, words: dict[str, Any], payload: bytes = b"", fds: Sequence[int] = ()) -> None:
    """Send one message. Raises OSError; the other side's death is a `ConnectionError`."""
    if len(payload) > MAX_PAYLOAD or len(fds) > MAX_FDS:
        raise ValueError(f"{len(payload)} bytes and {len(fds)} descriptors are too much for one message")
    head = json.dumps(words).encode() + b"\n"
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([head, payload], rights, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> Message | None:
    """The next message; None once the other side is gone. Raises OSError as the socket does."""
    fds = array.array("i")
    try:
        data, ancillary, flags, _ = sock.recvmsg(
            _ROOM, socket.CMSG_SPACE(MAX_FDS * fds.itemsize), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionError:
        return None
    for level, kind, found in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(found[: len(found) - len(found) % fds.itemsize])
    if not data:
        return None
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise OSError("a message was cut off")
    head, _, payload = data.partition(b"\n")
    return Message(json.loads(head), payload, tuple(fds))
