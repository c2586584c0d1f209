"""What Python does not tell of memory, or let be done to it, asked of the kernel and of CPython."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["address_of", "addresses_of", "is_accounted_strictly", "make_memfd", "make_private", "was_written_to"]

_NAME_BYTES: Final = 200
_MFD_NOEXEC_SEAL: Final = 0x8
"""Linux 6.3 and later complain of memfds made without saying whether they may be executed."""
_MAP_FIXED: Final = 0x10
_ENTRY: Final = 8
_PRESENT, _SWAPPED, _OF_FILE = 0x80, 0x40, 0x20
"""In the last byte of an entry of /proc/PID/pagemap (https://docs.kernel.org/admin-guide/mm/pagemap.html)."""


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
    return addresses_of([view])[0]


def addresses_of(views: Iterable[memoryview]) -> list[int]:
    """`address_of` each, in a fraction of the time where they are many."""
    found = _Buffer()
    to = ctypes.byref(found)
    get, release, wrapped = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release, ctypes.py_object
    addresses = []
    for view in views:
        get(wrapped(view), to, 0)
        addresses.append(int(found.buf or 0))
        release(to)
    return addresses


def make_memfd(name: str) -> int:
    """A memfd that can be sealed, closed on exec. Raises OSError."""
    if not hasattr(os, "memfd_create"):
        raise OSError("this system has no memfds")
    name = name.encode()[:_NAME_BYTES].decode("utf-8", "ignore")
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError:
        return os.memfd_create(name, flags)


def is_accounted_strictly() -> bool:
    """Whether the kernel promises no more memory than it has."""
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    except OSError:
        return False


def make_private(start: int, end: int, fd: int) -> None:
    """Put a private, writable mapping of a file where one of all of it is, under whoever looks at it. Raises OSError."""
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED
    if _libc.mmap(start, end - start, protection, flags, fd, 0) != start:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def was_written_to(start: int, end: int) -> bool:
    """Whether a page of a private mapping is no longer the file's. Where the kernel does not tell, it may be."""
    first, last = start // mmap.PAGESIZE, -(-end // mmap.PAGESIZE)
    try:
        with Path("/proc/self/pagemap").open("rb", buffering=0) as file:
            file.seek(first * _ENTRY)
            while first < last:
                entries = file.read(min(last - first, 1 << 18) * _ENTRY)
                if not entries:
                    return True
                first += len(entries) // _ENTRY
                kinds = set(entries[_ENTRY - 1 :: _ENTRY])
                if any(kind & (_PRESENT | _SWAPPED) and not kind & _OF_FILE for kind in kinds):
                    return True
    except OSError:
        return True
    return False


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
