"""Memory to read into, for engines that can read into any."""

from __future__ import annotations

import contextlib
import mmap

from peerload.engines.shared import allocate_shared

__all__ = ["allocate"]


def allocate(nbytes: int) -> memoryview:
    """Zero-filled memory of its own, page-aligned: such as can be given to other processes of this host where that is to be
    had, else private, in huge pages where the kernel gives them."""
    with contextlib.suppress(OSError):
        return allocate_shared(nbytes)
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # A kernel without huge pages: slower, nothing else.
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)
