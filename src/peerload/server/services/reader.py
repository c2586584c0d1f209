"""A child process that reads large publications, as the server holds it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import socket
import subprocess
import sys
from typing import Final, Self, cast

from peerload.errors import InvalidArgument
from peerload.metadata.publications.child import ANSWER, QUESTION, READY, write_all
from peerload.metadata.publications.packed import Packed, Reading

__all__ = ["ReaderChild", "ReaderDied"]

_START_SECONDS: Final = 60.0
"""For a fresh interpreter, on a machine that is busy."""
_READ_SECONDS: Final = 60.0
"""For a hundred MiB, which take a second or two."""
_PIECE_BYTES: Final = 1024 * 1024
"""What is copied at once, in a third of a millisecond."""
_KEPT_BYTES: Final = 4 * 1024 * 1024
"""Memory that stays with the two between questions."""


class ReaderDied(Exception):
    """The child ended, or did not answer."""


class ReaderChild:
    """A `peerload.metadata.publications.child`. Belongs to one event loop, asks one question at a time, and is `end`ed at last; at once
    after a question that was not waited for."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, memory: int) -> None:
        self._process = process
        self._control = control
        self._memory = memory

    @classmethod
    async def start(cls) -> Self:
        """A new one. Raises `OSError` where there can be none."""
        child = cls(*_spawned())
        try:
            if await child._heard(len(READY), _START_SECONDS) != READY:
                raise ReaderDied("the process that reads large publications does not start")
        except BaseException as error:
            child.end()
            if isinstance(error, ReaderDied):
                raise OSError(str(error)) from error
            raise
        return child

    @property
    def pid(self) -> int:
        """The process that it is."""
        return self._process.pid

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    async def read(self, request: bytes, reading: Reading) -> Packed:
        """What `reading.of(request)` returns or raises. Raises `ReaderDied`."""
        try:
            with memoryview(request) as whole:
                for start in range(0, len(whole), _PIECE_BYTES):
                    write_all(self._memory, whole[start : start + _PIECE_BYTES], start)
                    await asyncio.sleep(0)  # others may have waited for that
            question = QUESTION.pack(len(request), reading.most_tensors, reading.v1, reading.hosts)
            await asyncio.get_running_loop().sock_sendall(self._control, question)
        except OSError as error:
            raise ReaderDied(f"the process that reads large publications cannot be asked ({error})") from error
        (size,) = ANSWER.unpack(await self._heard(ANSWER.size, _READ_SECONDS))
        answer = cast(Packed | InvalidArgument, pickle.loads(os.pread(self._memory, size, 0)))
        if max(size, len(request)) > _KEPT_BYTES:
            os.ftruncate(self._memory, _KEPT_BYTES)
        if isinstance(answer, InvalidArgument):
            try:
                raise answer
            finally:
                del answer  # Else it would know itself by this frame, and keep the request.
        return answer

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self._control.close()
        os.close(self._memory)

    async def _heard(self, size: int, seconds: float) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                said = await asyncio.get_running_loop().sock_recv(self._control, size)
        except TimeoutError as error:
            raise ReaderDied(f"the process that reads large publications has said nothing for {seconds:g} s") from error
        except OSError as error:
            raise ReaderDied(f"the process that reads large publications is gone ({error})") from error
        if not said:
            raise ReaderDied("the process that reads large publications is gone")
        return said


def _spawned() -> tuple[subprocess.Popen[bytes], socket.socket, int]:
    """A process, the way to it, and the memory that is shared with it."""
    with contextlib.ExitStack() as undo:
        memory = os.memfd_create("peerload-publication", os.MFD_CLOEXEC)
        undo.callback(os.close, memory)
        control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(control.close)
        control.setblocking(False)
        with other:
            fds = (other.fileno(), memory)
            module = "peerload.metadata.publications.child"
            process = subprocess.Popen(
                # Nothing is imported from the working directory, which may be anybody's.
                [sys.executable, "-P", "-m", module, *map(str, fds), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=2,  # Standard output is the server's.
                pass_fds=fds,
            )
        undo.pop_all()
    return process, control, memory
