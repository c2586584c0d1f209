"""On which host a process is, who is at the other end of a socket, and who is to be trusted there."""

from __future__ import annotations

import os
import socket
import struct
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

__all__ = ["Host", "is_trusted"]

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_NETWORK: Final = Path("/proc/thread-self/ns/net")
_UID_MAP: Final = Path("/proc/self/uid_map")
_OVERFLOW: Final = Path("/proc/sys/kernel/overflowuid")
_CREDENTIALS: Final = struct.Struct("=iII")
"""The kernel's struct ucred: pid, uid, gid (unix(7))."""


@dataclass(frozen=True, slots=True)
class Host:
    """A running kernel, and in it the network namespace that abstract sockets belong to."""

    boot: bytes
    """16 bytes, drawn anew at each start of the kernel."""
    network: int

    @classmethod
    def here(cls) -> Self | None:
        """This process's; None where /proc does not tell."""
        try:
            return cls(uuid.UUID(_BOOT.read_text().strip()).bytes, _NETWORK.stat().st_ino)
        except (OSError, ValueError):
            return None


def is_trusted(sock: socket.socket, allow: Collection[int]) -> bool:
    """Whether the process at the other end of a unix socket runs (or ran, when it connected or began to listen) as this one's user
    or one of those allowed."""
    try:
        said = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(said)
        if uid != os.geteuid() and uid not in allow:
            return False
        # Users that have no number in this process's user namespace all appear as one and the same.
        return uid != int(_OVERFLOW.read_text()) or _UID_MAP.read_text().split() == ["0", "0", "4294967295"]
    except (OSError, ValueError):
        return False
