"""Messages between a process and its children: a few words as JSON, a payload, and descriptors, in one packet.

What is too large for a packet goes in a memfd, whose descriptor is then the message's last.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["MAX_FDS", "Message", "pair", "receive", "send"]

_IN_PACKET: Final = 1 << 17
"""Bytes in a packet at most."""
MAX_FDS: Final = 64
"""Descriptors in one message at most; the kernel takes 253."""
_ROOM: Final = _IN_PACKET
_BUFFER: Final = 1 << 20
_ELSEWHERE: Final = b"memfd "
"""A packet that begins so is no JSON: it tells how many bytes the message has in the memfd."""


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


def send(
    sock: socket.socket, words: dict[str, Any], payload: bytes = b"", fds: Sequence[int] = (), *, wait: bool = True
) -> None:
    """Send one message; where there is no room, `wait` or raise. Raises OSError; the other side's death is a `ConnectionError`."""
    if len(fds) > MAX_FDS:
        raise ValueError(f"{len(fds)} descriptors are too many for one message")
    head = json.dumps(words).encode() + b"\n"
    large = None
    if len(head) + len(payload) > _IN_PACKET:
        large = os.memfd_create("peerload-message", os.MFD_CLOEXEC)
    try:
        if large is not None:
            with os.fdopen(os.dup(large), "wb") as file:
                file.write(head)
                file.write(payload)
            head, payload, fds = b"%s%d" % (_ELSEWHERE, len(head) + len(payload)), b"", [*fds, large]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sock.sendmsg([head, payload], rights, socket.MSG_NOSIGNAL | (0 if wait else socket.MSG_DONTWAIT))
    finally:
        if large is not None:
            os.close(large)


def receive(sock: socket.socket) -> Message | None:
    """The next message; None once the other side is gone. Raises OSError as the socket does, and for what is no message."""
    fds = array.array("i")
    room = socket.CMSG_SPACE((MAX_FDS + 1) * fds.itemsize)
    try:
        got = sock.recvmsg(_ROOM, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        # It went with something unread, which the kernel tells before it gives what was sent earlier.
        try:
            got = sock.recvmsg(_ROOM, room, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            return None
    data, ancillary, flags, _ = got
    for level, kind, found in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(found[: len(found) - len(found) % fds.itemsize])
    if not data:
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise OSError("a message was cut off")
        return _read(data, fds)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _read(data: bytes, fds: array.array[int]) -> Message:
    try:
        if data.startswith(_ELSEWHERE):
            size = int(data.removeprefix(_ELSEWHERE))
            with os.fdopen(fds.pop(), "rb") as file:
                file.seek(0)
                data = file.read(max(0, min(size, os.fstat(file.fileno()).st_size)))
        head, _, payload = data.partition(b"\n")
        words = json.loads(head.decode())
    except (ValueError, IndexError, RecursionError) as error:
        raise OSError(f"what came is no message: {error}") from error
    if not isinstance(words, dict):
        raise OSError("what came is no message: its words are no object")
    return Message(words, payload, tuple(fds))
