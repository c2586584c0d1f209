"""xxh3-128 of ranges, of which one piece arrives after the other: digested where it arrives, while it is in the processor's cache."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Final

import xxhash

__all__ = ["DIGEST_BYTES", "Digests", "pieces"]

DIGEST_BYTES: Final = 16


def pieces(lengths: Sequence[int], index: int, start: int, size: int) -> Iterator[int]:
    """How `size` bytes more, of which the first is at `start` in the range at `index`, fall to ranges of these lengths.

    Bytes that end a range, and the negative of those that do not. Empty ranges have no piece.
    """
    while size:
        now = min(size, lengths[index] - start)
        size -= now
        if start + now < lengths[index]:
            yield -now
            return
        if now:
            yield now
        index, start = index + 1, 0


class Digests:
    """Told what will come (`expect`, in the words of `pieces`), then given it (`feed`, cut as it may be). Of a range that goes on in
    the next window the digest does too."""

    def __init__(self) -> None:
        self._expected: Iterator[int] = iter(())
        self._left = 0
        """Bytes of the piece that is being fed."""
        self._ends = False
        """Whether its end is its range's."""
        self._hasher: Any = None
        """Of a range that came in more than one piece; None at the beginning of each."""
        self._found = bytearray()

    def expect(self, expected: array[int]) -> None:
        """What comes next, once everything that was expected before has been fed."""
        self._expected = iter(expected)

    def feed(self, view: memoryview) -> None:
        """The bytes that follow those fed before."""
        at, end = 0, view.nbytes
        while at < end:
            fresh = self._hasher is None
            if not self._left:
                piece = next(self._expected)
                self._left, self._ends = abs(piece), piece > 0
            now = min(self._left, end - at)
            self._left -= now
            whole = self._ends and not self._left
            with view[at : at + now] as part:
                if whole and fresh:
                    self._found += xxhash.xxh3_128_digest(part)
                else:
                    if fresh:
                        self._hasher = xxhash.xxh3_128()
                    self._hasher.update(part)
            if whole and not fresh:
                self._found += self._hasher.digest()
            if whole:
                self._hasher = None
            at += now

    def take(self) -> bytes:
        """The digests, `DIGEST_BYTES` each, of the ranges that became whole since the last time, in order."""
        found, self._found = bytes(self._found), bytearray()
        return found
