"""What is already there of a checkpoint's files, part by part: digested, never assumed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from peerload.checkpoint.hashing import Progress, Span, digest_spans
from peerload.checkpoint.model import CheckpointFile

__all__ = ["Leftovers", "Opener", "write_all"]

_GROUP: Final = 32
"""Files held open at once while digesting."""
_COPY_BYTES: Final = 8 << 20

Opener = Callable[[int], int | None]
"""Opens a file by its index; None if it is not there."""


@dataclass(slots=True)
class Leftovers:
    """Files that may hold right parts: `candidates` to digest, by file index, and then those that were `right`.

    Only a file of the right size counts and, unless `own` says that we wrote it, with the right header.
    """

    files: Sequence[CheckpointFile]
    opener: Opener
    own: bool
    candidates: dict[int, list[int]] = field(default_factory=dict)
    right: dict[int, set[int]] = field(default_factory=dict)

    def look(self, indices: Iterable[int]) -> None:
        """Find the candidates among these files."""
        for index in indices:
            fd = self.opener(index)
            if fd is None:
                continue
            file = self.files[index]
            try:
                if os.fstat(fd).st_size != file.size:
                    continue
                if not self.own and os.pread(fd, len(file.header), 0) != file.header:
                    continue
                self.candidates[index] = [
                    number for number, part in enumerate(file.parts) if _has_data(fd, part.offset, part.size)
                ]
            finally:
                os.close(fd)

    @property
    def size(self) -> int:
        """Bytes to digest."""
        return sum(self.files[index].parts[number].size for index, found in self.candidates.items() for number in found)

    def digest(self, progress: Progress | None, done: int, total: int) -> int:
        """Fill `right`; gives the bytes done, counted on from `done`."""
        indices = list(self.candidates)
        for first in range(0, len(indices), _GROUP):
            group = indices[first : first + _GROUP]
            with ExitStack() as stack:
                spans: list[Span] = []
                owners: list[tuple[int, int]] = []
                for index in group:
                    fd = self.opener(index)
                    if fd is None:
                        continue
                    stack.callback(os.close, fd)
                    spans += _spans(self.files[index], fd, self.candidates[index])
                    owners += [(index, number) for number in self.candidates[index]]
                digests = digest_spans(spans, progress=progress, done=done, total=total)
            self.right |= {index: set() for index in group}
            for (index, number), found in zip(owners, digests, strict=True):
                if found == self.files[index].parts[number].digest:
                    self.right[index].add(number)
            done += sum(span.size for span in spans)
        return done

    def complete(self) -> set[int]:
        """The files of which every part is right."""
        return {index for index, right in self.right.items() if len(right) == len(self.files[index].parts)}

    def copy(self, index: int, numbers: Iterable[int], target: int) -> set[int]:
        """Copy parts of one file to the same places in an open file; gives those that arrived right."""
        source = self.opener(index)
        if source is None:
            return set()
        file = self.files[index]
        order = sorted(numbers)
        try:
            for number in order:
                part = file.parts[number]
                for at in range(part.offset, part.end, _COPY_BYTES):
                    write_all(target, os.pread(source, min(_COPY_BYTES, part.end - at), at), at)
        finally:
            os.close(source)
        # Digested again where they are now: their source may have changed since it was.
        digests = digest_spans(_spans(file, target, order))
        return {number for number, found in zip(order, digests, strict=True) if found == file.parts[number].digest}


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all bytes at an offset."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def _spans(file: CheckpointFile, fd: int, numbers: Iterable[int]) -> list[Span]:
    return [Span(fd, file.parts[number].offset, file.parts[number].size, file.path) for number in numbers]


def _has_data(fd: int, offset: int, size: int) -> bool:
    """False where nothing was ever written: room that was only reserved need not be digested."""
    if size == 0:
        return True
    try:
        return os.lseek(fd, offset, os.SEEK_DATA) < offset + size
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise
