"""xxh3-128 of many buffers at once, on a few threads (xxHash releases the GIL)."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import xxhash

from peerload.engines.pieces import Pieces, sizes_of

__all__ = ["digest", "digest_all", "digests"]

_THREADS: Final = max(1, min(4, os.cpu_count() or 1))
_BATCH_BYTES: Final = 16 << 20


def digest(view: memoryview | bytes) -> bytes:
    """The xxh3-128 of contiguous bytes, 16 bytes in canonical order. It finds corruption, not a peer that lies."""
    return xxhash.xxh3_128_digest(view)


def digest_all(views: Sequence[memoryview], progress: Callable[[int, int], None] | None = None) -> list[bytes]:
    """The digest of each, in order. Blocks; `progress` is told bytes done and in all, on the calling thread."""
    sizes = sizes_of(views)
    total = sum(sizes)
    found: list[bytes] = []
    done = 0
    for first, some in digests(views):
        found += some
        done += sum(sizes[first : first + len(some)])
        if progress is not None:
            progress(done, total)
    return found


def digests(views: Sequence[memoryview]) -> Generator[tuple[int, list[bytes]], None, None]:
    """The same a few at a time: the number of the first, and their digests. To be exhausted or closed; closing it waits for what
    is being digested."""
    batches = _batches(sizes_of(views))
    if len(batches) < 2:
        # A thread would take longer to start than what is so small, and one view is not shared out.
        for first, end in batches:
            yield first, _digest_batch(views, first, end)
        return
    pool = ThreadPoolExecutor(min(_THREADS, len(batches)), thread_name_prefix="peerload-digest")
    try:
        work = [(first, pool.submit(_digest_batch, views, first, end)) for first, end in batches]
        for first, found in work:
            yield first, found.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Where runs of some `_BATCH_BYTES` begin and end."""
    batches: list[tuple[int, int]] = []
    first = size = 0
    for end, each in enumerate(sizes, 1):
        size += each
        if size >= _BATCH_BYTES or end == len(sizes):
            batches.append((first, end))
            first, size = end, 0
    return batches


def _digest_batch(views: Sequence[memoryview], first: int, end: int) -> list[bytes]:
    return [digest(view) for view in (views.run(first, end) if isinstance(views, Pieces) else views[first:end])]
