"""From memory that is a read-only mapping of a file to a descriptor of that file.

Python gives away neither, so the kernel is asked (/proc/PID/maps), and what is opened by the name that it has is taken only if a
mapping of it is the same as the one that was asked about: files are renamed and replaced.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from peerload.engines.shared import SharedPlace, address_of

__all__ = ["Files"]

_MAPS: Final = Path("/proc/self/maps")


@dataclass(frozen=True, slots=True)
class _Mapping:
    """A line of /proc/PID/maps (proc_pid_maps(5)) that is of a file and cannot be written to."""

    start: int
    end: int
    offset: int
    file: tuple[str, str]
    """Device and inode, as they stand there."""
    path: str

    @classmethod
    def parse(cls, line: str) -> Self | None:
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or "w" in fields[1] or not fields[5].startswith("/"):
            return None
        start, _, end = fields[0].partition("-")
        path = fields[5].replace("\\012", "\n")
        return cls(int(start, 16), int(end, 16), int(fields[2], 16), (fields[3], fields[4]), path)


class Files:
    """The files of one publication: opened by `place`, and open until closed or forgotten."""

    def __init__(self) -> None:
        self._mappings: list[_Mapping] | None = None
        self._fds: dict[tuple[str, str], int | None] = {}

    def place(self, view: memoryview) -> SharedPlace | None:
        """In which file the bytes of a view lie, and where; None for memory that is no file's, or not as it is on disk."""
        if self._mappings is None:
            self._mappings = _mappings()
        start = address_of(view)
        at = bisect_right(self._mappings, start, key=lambda mapping: mapping.start) - 1
        if at < 0 or start + view.nbytes > self._mappings[at].end:
            return None
        mapping = self._mappings[at]
        if mapping.file not in self._fds:
            self._fds[mapping.file] = _open(mapping)
        fd = self._fds[mapping.file]
        offset = mapping.offset + start - mapping.start
        # What lies behind the end of the file is no more the file's than this process's.
        if fd is None or offset + view.nbytes > os.fstat(fd).st_size:
            return None
        return SharedPlace(fd, offset)

    def close(self) -> None:
        """Close the files."""
        fds, self._fds = self._fds, {}
        for fd in fds.values():
            if fd is not None:
                os.close(fd)

    def __del__(self) -> None:
        self.close()


def _mappings() -> list[_Mapping]:
    """Those of this process, by address; none where /proc is not readable."""
    try:
        text = _MAPS.read_text("utf-8", "surrogateescape")
    except OSError:
        return []
    return [mapping for line in text.split("\n") if (mapping := _Mapping.parse(line))]


def _open(mapping: _Mapping) -> int | None:
    fd = -1
    try:
        fd = os.open(mapping.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        with contextlib.closing(mmap.mmap(fd, 1, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)) as trial:
            with memoryview(trial) as view:
                start = address_of(view)
            same = next((each for each in _mappings() if each.start <= start < each.end), None)
        if same is not None and same.file == mapping.file:
            return fd
    except (OSError, ValueError):
        pass  # It is no longer there, or not this process's to open.
    if fd >= 0:
        os.close(fd)
    return None
