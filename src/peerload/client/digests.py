"""xxh3-128 of many buffers at once, on a few threads (xxHash releases the GIL)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import xxhash

__all__ = ["digest", "digest_all"]

_THREADS: Final = max(1, min(4, os.cpu_count() or 1))
_BATCH_BYTES: Final = 16 << 20


def digest(view: memoryview | bytes) -> bytes:
    """The xxh3-128 of contiguous bytes, 16 bytes in canonical order. It finds corruption, not a peer that lies."""
    return xxhash.xxh3_128_digest(view)


def digest_all(views: Sequence[memoryview], progress: Callable[[int, int], None] | None = None) -> list[bytes]:
    """The digest of each, in order. Blocks; `progress` is told bytes done and in all, on the calling thread."""
    total = sum(view.nbytes for view in views)
    batches: list[list[memoryview]] = [[]]
    size = 0
    for view in views:
        if size >= _BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(view)
        size += view.nbytes
    digests: list[bytes] = []
    done = 0
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="peerload-digest") as pool:
        for batch, found in zip(batches, pool.map(_digest_batch, batches), strict=True):
            digests += found
            done += sum(view.nbytes for view in batch)
            if progress is not None:
                progress(done, total)
    return digests


def _digest_batch(views: Sequence[memoryview]) -> list[bytes]:
    return [digest(view) for view in views]
