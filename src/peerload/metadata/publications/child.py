"""The process in which a server has large publications read, so that its own interpreter is free for whoever calls meanwhile.

    python -m peerload.metadata.publications.child SOCKET MEMORY OWNER

MEMORY is a memfd that both have, with a request in it and then what came of it; so its bytes cross once each way, and
the socket, of whole messages, says how many there are. Nobody is here but a server and its own child: what is in the answer may
be pickled. A child is killed at any time, and ends with its owner.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Final

from peerload.errors import InvalidArgument
from peerload.heap import keep_freed_memory
from peerload.metadata.publications.packed import Packed, Reading
from peerload.orphans import die_with

__all__ = ["ANSWER", "QUESTION", "READY", "main", "write_all"]

READY: Final = b"ready"
"""What a child says first."""
QUESTION: Final = struct.Struct("<QQ??")
"""The bytes of a request, and the members of its `Reading`: most_tensors, v1, hosts."""
_KEPT_BYTES: Final = 32 * 1024 * 1024
ANSWER: Final = struct.Struct("<Q")
"""The bytes of what came of it: a pickled `Packed`, or `InvalidArgument`."""


def main() -> None:
    """Answer until the owner hangs up."""
    descriptor, memory, owner = map(int, sys.argv[1:])
    die_with(owner)
    # Where memory runs out, the kernel is to end this one, and not a server that is larger.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    # What a terminal or a supervisor tells all processes is for the owner to act on: calls in flight are to end well.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    keep_freed_memory(_KEPT_BYTES)
    with socket.socket(fileno=descriptor) as control:
        control.sendall(READY)
        while question := control.recv(QUESTION.size):
            size, most_tensors, v1, hosts = QUESTION.unpack(question)
            answer = pickle.dumps(_read(os.pread(memory, size, 0), Reading(v1, most_tensors, hosts)), protocol=5)
            write_all(memory, answer)
            control.sendall(ANSWER.pack(len(answer)))


def write_all(memory: int, data: bytes | memoryview, start: int = 0) -> None:
    """Write into the memory from `start` on. Raises `OSError` where there is not enough."""
    written = os.pwrite(memory, data, start)
    if written < len(data):
        raise OSError(f"of {len(data)} bytes only {written} found room in memory")


def _read(request: bytes, reading: Reading) -> Packed | InvalidArgument:
    try:
        return reading.of(request)
    except InvalidArgument as refused:
        return refused


if __name__ == "__main__":
    main()
