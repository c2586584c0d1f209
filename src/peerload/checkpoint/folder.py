"""The source's side: a folder becomes a `Checkpoint`, and its files memory to serve from.

Links to files are followed, as the snapshot folders of the Hugging Face cache need; links to folders are refused, and
so is everything else that is neither a file nor a folder. Nothing is left out silently.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from peerload.checkpoint.hashing import Progress, Span, digest_spans
from peerload.checkpoint.model import MAX_FILES, Checkpoint, CheckpointFile, Part, pieces
from peerload.checkpoint.names import MAX_DEPTH, check_path, check_paths, code_reason, is_safetensors, reserved
from peerload.checkpoint.safetensors import LENGTH_BYTES, header_size, parse_header
from peerload.errors import InvalidCheckpoint, LimitExceeded

__all__ = ["Scan", "Skipped", "Stamp", "map_file", "map_files", "scan"]

_COPIED_BYTES: Final = 64 << 10
"""Files up to this size are read rather than mapped: a mapping costs a descriptor, a small file next to nothing."""
_GROUP: Final = 64
"""Files held open at once while digesting, well below any limit on descriptors."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """What a checkpoint leaves out: the path below the folder, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells a changed file from the one that was read: size, modification time in ns, and which file it is."""

    size: int
    mtime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp of a file's status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


@dataclass(frozen=True, slots=True)
class Scan:
    """A folder as it was read: the checkpoint, what it leaves out, and a stamp for each of its files, in order."""

    checkpoint: Checkpoint
    skipped: tuple[Skipped, ...]
    stamps: tuple[Stamp, ...]


def scan(root: Path, *, allow_code: bool = False, homes: Sequence[Path] = (), progress: Progress | None = None) -> Scan:
    """Read every byte of a folder once, and give it as a checkpoint.

    Files that may run code where they are loaded (Python, libraries, scripts, pickles) are left out unless
    `allow_code`; folders of version control and caches always are; `Scan.skipped` names all of them. With `homes`,
    links may only lead to files below these folders. `progress` is called with bytes done and in all, on this thread.

    Raises `InvalidCheckpoint` naming the path for links to folders, to nothing or out of their homes, special files,
    names that are unsafe elsewhere, bad safetensors headers, and files that changed while they were read; `OSError` for what the
    operating system refuses.
    """
    if not root.is_dir():
        raise InvalidCheckpoint(str(root), "this is not a folder")
    found, skipped = _walk(root, allow_code)
    check_paths(found)
    if homes:
        _check_homes(root, found, homes)
    sizes = [_status(root, path).st_size for path in found]
    files: list[CheckpointFile] = []
    stamps: list[Stamp] = []
    done = 0
    for first in range(0, len(found), _GROUP):
        group, group_stamps = _digest(root, found[first : first + _GROUP], progress, done, sum(sizes))
        files += group
        stamps += group_stamps
        done += sum(file.size for file in group)
    return Scan(Checkpoint(tuple(files)), tuple(skipped), tuple(stamps))


def map_files(root: Path, checkpoint: Checkpoint, *, stamps: Sequence[Stamp] | None = None) -> list[memoryview]:
    """The bytes of every file of a checkpoint, in order, read-only and without a copy (small files are read).

    With the `stamps` of the scan, a file that changed since raises `InvalidCheckpoint` naming it; without, one that
    has another size. The memory stays valid until the views are released or forgotten. A file must not be cut short
    while it is mapped: reading behind its end would end the process. Raises `LimitExceeded` where the process may
    not hold that many files.
    """
    views: list[memoryview] = []
    for index, file in enumerate(checkpoint.files):
        fd = _open(root, file.path)
        try:
            status = os.fstat(fd)
            if status.st_size != file.size or (stamps is not None and Stamp.of(status) != stamps[index]):
                raise InvalidCheckpoint(file.path, "the file changed since it was read")
            views.append(map_file(fd, file.size, file.path))
        finally:
            os.close(fd)
    return views


def map_file(fd: int, size: int, path: str, *, writable: bool = False) -> memoryview:
    """The `size` bytes of an open file as memory: shared if `writable`, else read-only. The caller closes `fd`.

    Raises `LimitExceeded`, naming `path`, where the process may not hold another file.
    """
    if size == 0:
        return memoryview(bytearray() if writable else b"")
    if not writable and size <= _COPIED_BYTES:
        return memoryview(_read(fd, 0, size, path))
    # A mapping needs no descriptor; only since 3.13 can Python be told so.
    options: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    try:
        return memoryview(mmap.mmap(fd, size, mmap.MAP_SHARED, protection, **options))
    except OSError as error:
        raise _too_many(error, path) from error


def _walk(root: Path, allow_code: bool) -> tuple[list[str], list[Skipped]]:
    """The paths to read, sorted, and those left out."""
    found: list[str] = []
    skipped: list[Skipped] = []
    pending = [("", 0)]
    while pending:
        folder, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise InvalidCheckpoint(folder, f"the folder is deeper than {MAX_DEPTH} folders")
        with os.scandir(root / folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        if not entries and folder:
            skipped.append(Skipped(folder, "empty folder"))
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if reserved(entry.name):
                skipped.append(Skipped(path, "version control, cache or staging"))
            elif _is_folder(root, path, entry):
                pending.append((path, depth + 1))
            elif not allow_code and (reason := code_reason(path)):
                skipped.append(Skipped(path, reason))
            else:
                found.append(path)
                if len(found) > MAX_FILES:
                    raise InvalidCheckpoint(folder or ".", f"more than {MAX_FILES} files: is this a model's folder?")
    return sorted(found), sorted(skipped, key=lambda item: item.path)


def _is_folder(root: Path, path: str, entry: os.DirEntry[str]) -> bool:
    """True for a folder, False for a file or a link to one; refuses the rest."""
    if entry.is_dir(follow_symlinks=False):
        return True
    mode = _status(root, path).st_mode
    if stat.S_ISREG(mode):
        return False
    check_path(path)
    if stat.S_ISDIR(mode):
        raise InvalidCheckpoint(path, "this is a link to a folder; only links to files are followed")
    raise InvalidCheckpoint(path, "this is neither a file nor a folder (a pipe, socket or device)")


def _check_homes(root: Path, paths: Sequence[str], homes: Sequence[Path]) -> None:
    real = [home.resolve() for home in (root, *homes)]
    for path in paths:
        target = (root / path).resolve()
        if not any(target.is_relative_to(home) for home in real):
            raise InvalidCheckpoint(path, f"this is a link that leads out of {homes[0]}")


def _status(root: Path, path: str) -> os.stat_result:
    try:
        return (root / path).stat()
    except OSError as error:
        raise _gone(error, path) from error


def _gone(error: OSError, path: str) -> Exception:
    """The same error, or what a person can act on where a link leads nowhere or a file has gone."""
    if error.errno == errno.ENOENT:
        return InvalidCheckpoint(path, "this is a link to nothing, or a file that went away")
    if error.errno == errno.ELOOP:
        return InvalidCheckpoint(path, "this is a loop of links")
    return _too_many(error, path)


def _too_many(error: OSError, path: str) -> Exception:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return LimitExceeded(path, "too many open files: raise the limit with `ulimit -n`", limit=_open_files())
    return error


def _open_files() -> int:
    return os.sysconf("SC_OPEN_MAX")


def _open(root: Path, path: str) -> int:
    # Not blocking: should a pipe have taken the file's place, this must not wait for a writer.
    try:
        fd = os.open(root / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _gone(error, path) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidCheckpoint(path, "this is not a file any more")
    return fd


def _digest(
    root: Path, paths: Sequence[str], progress: Progress | None, done: int, total: int
) -> tuple[list[CheckpointFile], list[Stamp]]:
    """Read a group of files: headers first, then every part."""
    with ExitStack() as stack:
        outlines: list[tuple[str, Stamp, bytes, list[Part]]] = []
        spans: list[Span] = []
        descriptors: list[int] = []
        for path in paths:
            fd = _open(root, path)
            stack.callback(os.close, fd)
            descriptors.append(fd)
            stamp = Stamp.of(os.fstat(fd))
            header, parts = _outline(fd, path, stamp.size)
            outlines.append((path, stamp, header, parts))
            spans += [Span(fd, part.offset, part.size, path) for part in parts]
        digests = iter(digest_spans(spans, progress=progress, done=done, total=total))
        files = [
            CheckpointFile(
                path,
                stamp.size,
                header,
                tuple(Part(part.name, part.offset, part.size, next(digests), part.dtype, part.shape) for part in parts),
            )
            for path, stamp, header, parts in outlines
        ]
        for fd, (path, stamp, _, _) in zip(descriptors, outlines, strict=True):
            # The open file, and whatever the path leads to by now: a replaced file is a change as well.
            if stamp != Stamp.of(os.fstat(fd)) or stamp != Stamp.of(_status(root, path)):
                raise InvalidCheckpoint(path, "the file changed while it was read")
        return files, [stamp for _, stamp, _, _ in outlines]


def _outline(fd: int, path: str, size: int) -> tuple[bytes, list[Part]]:
    """A file's header and its parts, without digests yet."""
    if not is_safetensors(path):
        return b"", [Part(name, offset, length, b"") for name, offset, length in pieces(path, size)]
    prefix = _read(fd, 0, min(LENGTH_BYTES, size), path)
    header = _read(fd, 0, header_size(prefix, size, path), path)
    return header, [
        Part(tensor.name, tensor.offset, tensor.size, b"", tensor.dtype, tensor.shape)
        for tensor in parse_header(header, size, path).tensors
    ]


def _read(fd: int, offset: int, size: int, path: str) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    at = 0
    while at < size:
        count = os.preadv(fd, [view[at:]], offset + at)
        if count == 0:
            raise InvalidCheckpoint(path, f"the file changed while it was read: it ends at byte {offset + at}")
        at += count
    return bytes(data)
