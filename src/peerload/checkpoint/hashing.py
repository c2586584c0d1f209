"""Digests of many spans of files at once, on a few threads (xxHash and reads release the GIL).

Files are read, not mapped: a file that is cut short meanwhile is then a short read with a clear error, where a
mapping would end the process (SIGBUS).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

import xxhash

from peerload.errors import InvalidCheckpoint

__all__ = ["Progress", "Span", "digest_spans"]

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all), on the thread that asked for the work, about ten times a second."""

_BLOCK: Final = 1 << 20
"""Bytes read at once: small enough to stay in a core's cache until they are digested."""
_BATCH: Final = 32 << 20
"""Bytes of small spans that one task takes together."""
_TICK_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of an open file, and the path that errors name."""

    fd: int
    offset: int
    size: int
    path: str


def digest_spans(
    spans: Sequence[Span],
    *,
    progress: Progress | None = None,
    done: int = 0,
    total: int | None = None,
    threads: int | None = None,
) -> list[bytes]:
    """The xxh3-128 digest of every span, in order.

    `done` and `total` place the work in a larger one for `progress`. Raises `InvalidCheckpoint` naming a file that
    ends before its span does, and lets `OSError` through.
    """
    total = sum(span.size for span in spans) if total is None else total
    work = _Work(spans)
    workers = max(1, min(threads or 4, os.cpu_count() or 1))
    batches = _batches(spans)
    with ThreadPoolExecutor(min(workers, max(1, len(batches))), thread_name_prefix="peerload-digest") as pool:
        pending: set[Future[None]] = {pool.submit(work.run, first, last) for first, last in batches}
        try:
            while pending:
                finished, pending = wait(pending, timeout=_TICK_S, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                if progress is not None:
                    progress(done + work.done, total)
        finally:
            # An error or an interrupt: the threads notice within a block, and the pool's exit waits for them.
            work.stop()
            pool.shutdown(wait=False, cancel_futures=True)
    return work.digests


class _Work:
    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = spans
        self._stopped = False
        self._lock = threading.Lock()
        self.done = 0
        self.digests = [b""] * len(spans)

    def stop(self) -> None:
        self._stopped = True

    def run(self, first: int, last: int) -> None:
        block = memoryview(bytearray(_BLOCK))
        for index in range(first, last):
            if self._stopped:
                return
            self.digests[index] = self._digest(self._spans[index], block)

    def _digest(self, span: Span, block: memoryview) -> bytes:
        total = xxhash.xxh3_128()
        at, end = span.offset, span.offset + span.size
        while at < end and not self._stopped:
            count = os.preadv(span.fd, [block[: min(_BLOCK, end - at)]], at)
            if count == 0:
                raise InvalidCheckpoint(span.path, f"the file changed while it was read: it ends at byte {at}")
            total.update(block[:count])
            at += count
            with self._lock:
                self.done += count
        return total.digest()


def _batches(spans: Sequence[Span]) -> list[tuple[int, int]]:
    """Runs of consecutive spans, each about `_BATCH` bytes or one large span."""
    batches: list[tuple[int, int]] = []
    first = size = 0
    for index, span in enumerate(spans):
        size += span.size
        if size >= _BATCH:
            batches.append((first, index + 1))
            first, size = index + 1, 0
    if first < len(spans):
        batches.append((first, len(spans)))
    return batches
