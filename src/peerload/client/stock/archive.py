"""A folder as one tar file, and back: what the stock package puts an artifact's files into.

What is read back was written by a peer. Only plain files and folders are taken, under names that are safe; they take their
places when the whole archive was looked through, and nothing is written through a link.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from peerload.checkpoint import Skipped
from peerload.checkpoint.leftovers import write_all
from peerload.checkpoint.names import check_path, check_paths
from peerload.checkpoint.tree import check_way, open_folder, open_parent
from peerload.client.threads import Stopped
from peerload.errors import InvalidCheckpoint, LimitExceeded

__all__ = ["MAX_MEMBERS", "Member", "check_places", "members", "pack", "place"]

MAX_MEMBERS: Final = 1_000_000
_MAX_HEADER: Final = 1 << 20
"""Bytes of one of the archive's own records: names and their like."""
_COPY: Final = 4 << 20
_MAX_TIME: Final = 2**34
_SAFE: Final = os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Member:
    """A file or folder of an archive: its bytes are `size` from `offset` of the archive."""

    path: str
    size: int
    offset: int
    mode: int
    mtime: int
    is_folder: bool


def pack(folder: Path, output: BinaryIO, stop: threading.Event) -> list[Skipped]:
    """Write a folder's files as a tar; what was left out: links, special files, names that no reader would take.

    Owners are left out, modes and times of change kept (build tools compare them). Raises `InvalidCheckpoint` naming a file that
    changed meanwhile or a folder that has none, and `OSError`.
    """
    skipped: list[Skipped] = []
    count = 0
    with tarfile.open(fileobj=output, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, entry in _walk(folder, "", skipped):
            if stop.is_set():
                raise Stopped
            info = archive.gettarinfo(entry.path, path)
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mtime = int(info.mtime)
            if info.islnk():
                # A second name of a file that is in there already: tar would only point to the first.
                info.type, info.linkname, info.size = tarfile.REGTYPE, "", entry.stat().st_size
            if not info.isreg():
                archive.addfile(info)
                continue
            count += 1
            with Path(entry.path).open("rb") as file:
                try:
                    archive.addfile(info, file)
                except OSError as error:
                    raise InvalidCheckpoint(path, f"the file changed while it was read: {error}") from error
    if not count:
        raise InvalidCheckpoint(str(folder), "there are no files to share")
    return skipped


def _walk(folder: Path, prefix: str, skipped: list[Skipped]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        path = prefix + entry.name
        if entry.is_symlink():
            skipped.append(Skipped(path, "a link"))
        elif not entry.is_dir() and not entry.is_file():
            skipped.append(Skipped(path, "neither a file nor a folder"))
        elif reason := _unsafe(path):
            skipped.append(Skipped(path, reason))
        else:
            yield path, entry
            if entry.is_dir():
                yield from _walk(Path(entry.path), path + "/", skipped)


def _unsafe(path: str) -> str:
    try:
        check_path(path)
    except InvalidCheckpoint as error:
        return str(error)
    return ""


class _Bounded:
    """A file whose reads are small: what an archive says of itself must not take the memory of the machine."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell = file.tell
        self.seek = file.seek

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"it has a record of {size} bytes")
        return self._file.read(size)


def members(file: BinaryIO, shown: str) -> list[Member]:
    """What an archive has, checked. Raises `InvalidCheckpoint`, naming the member or the archive (as `shown`)."""
    found: list[Member] = []
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    bounded = cast(BinaryIO, _Bounded(file))
    try:
        with tarfile.open(fileobj=bounded, mode="r:", errorlevel=2) as archive:
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else it keeps every one
                if member := _member(info, size):
                    found.append(member)
                if len(found) > MAX_MEMBERS:
                    raise LimitExceeded("artifact", f"{shown}: more than {MAX_MEMBERS} files", limit=MAX_MEMBERS)
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        # The library recurses for records that announce each other, and converts numbers as they come.
        raise InvalidCheckpoint(shown, f"is not a tar archive as it should be: {str(error)[:200]}") from error
    folders = {member.path for member in found if member.is_folder}
    check_paths([*sorted(folders - _parents(found)), *(member.path for member in found if not member.is_folder)])
    return found


def _parents(found: Sequence[Member]) -> set[str]:
    """The folders that others lie in: they need no check of their own."""
    parents: set[str] = set()
    for member in found:
        head = member.path.rpartition("/")[0]
        while head and head not in parents:
            parents.add(head)
            head = head.rpartition("/")[0]
    return parents


def _member(info: tarfile.TarInfo, archive_size: int) -> Member | None:
    """None for the archive's own root."""
    name = info.name
    while name.startswith("./"):
        name = name[2:]
    name = name.rstrip("/") if info.isdir() else name
    if info.isdir() and name in ("", "."):
        return None
    check_path(name)
    if info.issparse() or not (info.isreg() or info.isdir()):
        raise InvalidCheckpoint(name, "is neither a plain file nor a folder in the archive")
    size = info.size if info.isreg() else 0
    if size < 0 or info.offset_data + size > archive_size:
        raise InvalidCheckpoint(name, "the archive ends before the file does")
    mtime = min(max(0, int(info.mtime)), _MAX_TIME)
    return Member(name, size, info.offset_data, info.mode & 0o777, mtime, info.isdir())


def check_places(root: int, found: Sequence[Member]) -> None:
    """Raise `InvalidCheckpoint` where something stands in the way of a file below the open folder `root`."""
    known: set[str] = set()
    for member in found:
        if not member.is_folder:
            check_way(root, member.path, known)


def place(archive: int, found: Sequence[Member], root: int, staging: int) -> None:
    """Write every member below the open folder `root`: all are written out of sight in the open folder `staging` first, then
    each takes its name. Raises `OSError`, and `InvalidCheckpoint` for a link that was put in the way."""
    files = [member for member in found if not member.is_folder]
    for index, member in enumerate(files):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"member-{index}", dir_fd=staging)
        mode = member.mode | stat.S_IRUSR | stat.S_IWUSR
        fd = os.open(f"member-{index}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, mode, dir_fd=staging)
        try:
            _copy(archive, member, fd)
            os.utime(fd, (member.mtime, member.mtime))
        finally:
            os.close(fd)
    for member in found:
        if member.is_folder:
            parent, name = open_parent(root, member.path, create=True)
            try:
                os.close(open_folder(parent, name, member.path, create=True))
            finally:
                os.close(parent)
    for index, member in enumerate(files):
        parent, name = open_parent(root, member.path, create=True)
        try:
            os.rename(f"member-{index}", name, src_dir_fd=staging, dst_dir_fd=parent)
        finally:
            os.close(parent)


def _copy(archive: int, member: Member, target: int) -> None:
    done = 0
    while done < member.size:
        data = os.pread(archive, min(_COPY, member.size - done), member.offset + done)
        if not data:
            raise InvalidCheckpoint(member.path, "the archive ends before the file does")
        write_all(target, data, done)
        done += len(data)
