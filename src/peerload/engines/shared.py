"""Memory that other processes of this host can be given: arenas, each a memfd that is mapped here.

A target publishes on what it pulled, and a child process may have to fill it, so engines allocate memory of which both can be
given by passing a descriptor. `shared_place` finds the descriptor again, from any view of such memory.

- One arena is one memfd and one mapping, two descriptors in all; small pieces lie in one arena together. It goes with the
  last view of it.
- Its size is sealed when it is made: nobody who is given the descriptor can truncate it under those who map it. Its bytes can
  be written through the descriptor until somebody adds F_SEAL_FUTURE_WRITE; this process's own mapping stays writable.
- It counts as memory of this process as anonymous memory does (of the cgroup that touched it first, as shared memory). Where
  the kernel accounts strictly it is reserved at once, since touching it would else end in SIGBUS where a private mapping is
  refused.
- A forked child's writes stay its own, as with any other memory: the parent may have published it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import threading
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from peerload.errors import InvalidArgument

__all__ = ["SharedPlace", "address_of", "allocate_shared", "map_shared", "shared_place"]

_SMALL: Final = 256 * 1024
"""Bytes up to which pieces are put together."""
_TOGETHER: Final = 64 * _SMALL
"""Bytes of an arena of small pieces. Those that nobody asks for take no memory."""
_NAME_BYTES: Final = 200
_MFD_NOEXEC_SEAL: Final = 0x8
"""Linux 6.3 and later complain of memfds made without saying whether they may be executed."""
_MAP_FIXED: Final = 0x10


class SharedPlace(NamedTuple):
    """Where a view of host memory lies: in which memfd, and how many bytes from its beginning."""

    fd: int
    """Open as long as the memory is referenced; who needs it longer duplicates it."""
    offset: int


class _Arena(NamedTuple):
    """Where a memfd is mapped whole."""

    start: int
    end: int
    fd: int
    writable: bool


_lock = threading.Lock()
_arenas: list[_Arena] = []
"""Those of this process, by address, with some that have gone."""
_gone: deque[int] = deque()
"""Where arenas began that are still to be struck off."""


class _Mapping(mmap.mmap):
    arena: _Arena | None = None

    # At exit modules lose their names before this is called for the last time.
    def __del__(self, *, gone: deque[int] = _gone, close: Callable[[int], None] = os.close) -> None:
        if self.arena is not None:
            # Before it is unmapped: nothing that is put at these addresses next is taken for it. Without the lock, for a
            # garbage collection may come here on a thread that holds it.
            gone.append(self.arena.start)
            close(self.arena.fd)


_together = threading.Lock()
_rest = memoryview(bytearray())
"""What is left of the arena in which small pieces are put."""


def allocate_shared(nbytes: int, name: str = "peerload") -> memoryview:
    """Zero-filled writable memory in a memfd, page-aligned; freed with its last reference.

    `name` is for people, who find it in /proc/PID/maps; small pieces share one. Raises OSError where the kernel has no memfds,
    or this process is allowed no more descriptors or memory.
    """
    global _rest
    if nbytes < 0:
        raise InvalidArgument("nbytes", "must not be negative")
    if not nbytes:
        return memoryview(bytearray())
    if nbytes > _SMALL:
        return _allocate(nbytes, name)
    room = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    with _together:
        if len(_rest) < room:
            _rest = _allocate(_TOGETHER, "peerload")
        piece, _rest = _rest[:nbytes], _rest[room:]
    return piece


def map_shared(fd: int, nbytes: int) -> memoryview:
    """The first `nbytes` (at least 1) of a memfd, for reading only.

    The descriptor is taken over, also if this raises: OSError where it cannot be mapped.
    """
    return _map(fd, nbytes, writable=False)


def shared_place(view: memoryview) -> SharedPlace | None:
    """In which memfd the bytes of a contiguous view lie; None for other memory, and for no bytes."""
    if not view.nbytes:
        return None
    start = address_of(view)
    with _lock:
        _strike_off()
        at = bisect_right(_arenas, start, key=lambda arena: arena.start) - 1
        if at < 0 or start + view.nbytes > _arenas[at].end:
            return None
        return SharedPlace(_arenas[at].fd, start - _arenas[at].start)


class _Buffer(ctypes.Structure):
    """CPython's Py_buffer, which belongs to the stable ABI since 3.11 (https://docs.python.org/3/c-api/buffer.html)."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("format", "shape", "strides", "suboffsets", "internal")),
    )


def address_of(view: memoryview) -> int:
    """Where the bytes of a contiguous view are; unlike ctypes itself this tells of read-only ones too."""
    found = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(found), 0)
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(found))
    return int(found.buf or 0)


def _allocate(nbytes: int, name: str) -> memoryview:
    fd = _memfd(name)
    try:
        os.ftruncate(fd, nbytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        if _accounts_strictly():
            os.posix_fallocate(fd, 0, nbytes)
    except OSError:
        os.close(fd)
        raise
    return _map(fd, nbytes, writable=True)


def _memfd(name: str) -> int:
    if not hasattr(os, "memfd_create"):
        raise OSError("this system has no memfds")
    name = name.encode()[:_NAME_BYTES].decode("utf-8", "ignore")
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError:
        return os.memfd_create(name, flags)


def _accounts_strictly() -> bool:
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    except OSError:
        return False


def _map(fd: int, nbytes: int, *, writable: bool) -> memoryview:
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    try:
        mapping = _Mapping(fd, nbytes, flags=mmap.MAP_SHARED, prot=prot)
    except OSError:
        os.close(fd)
        raise
    view = memoryview(mapping)
    start = address_of(view)
    mapping.arena = _Arena(start, start + nbytes, fd, writable)
    with contextlib.suppress(
        OSError
    ):  # Kernels decide by a setting of their own whether shared memory gets huge pages.
        mapping.madvise(mmap.MADV_HUGEPAGE)
    with _lock:
        _strike_off()
        insort(_arenas, mapping.arena)
    return view


def _strike_off() -> None:
    while _gone:
        start = _gone.popleft()
        at = bisect_left(_arenas, start, key=lambda arena: arena.start)
        if at < len(_arenas) and _arenas[at].start == start:
            del _arenas[at]


def _keep_to_itself() -> None:
    """In a forked child: what it writes is neither the parent's memory nor what a descriptor leads to any more."""
    global _lock, _together, _rest
    _lock, _together = threading.Lock(), threading.Lock()  # Another thread of the parent's may have held them.
    _rest = memoryview(bytearray())
    _strike_off()
    writable = [arena for arena in _arenas if arena.writable]
    _arenas[:] = [arena for arena in _arenas if not arena.writable]
    for start, end, fd, _ in writable:
        flags = mmap.MAP_PRIVATE | _MAP_FIXED
        _libc.mmap(start, end - start, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, 0)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
os.register_at_fork(after_in_child=_keep_to_itself)
