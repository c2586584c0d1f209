"""Memory to read into, for engines that can read into any."""

from __future__ import annotations

import contextlib
import mmap

from peerload.errors import InvalidArgument

__all__ = ["allocate"]


def allocate(nbytes: int) -> memoryview:
    """Zero-filled private memory of its own, page-aligned, in huge pages where the kernel gives them: reading into fresh memory
    that can be shared (`peerload.engines.shared`), page by page, takes about twice the time."""
    if nbytes < 0:
        raise InvalidArgument("nbytes", "must not be negative")
    if not nbytes:
        return memoryview(bytearray())
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # A kernel without huge pages: slower, nothing else.
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)
