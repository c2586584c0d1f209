"""An artifact on its way into folders: files that are filled chunk by chunk, out of sight, and taken apart when they are whole.

Unfinished files lie in `.peerload/artifact-<id>` inside the first folder. A pull that was killed leaves them, and the next one of
the same artifact takes over every chunk whose checksum is right. One pull at a time fills a folder.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from peerload.checkpoint.leftovers import write_all
from peerload.checkpoint.lock import StagingFolder
from peerload.checkpoint.names import STAGING_FOLDER
from peerload.checkpoint.tree import check_way, open_folder, open_parent
from peerload.client.stock.archive import Member, check_places, members, place
from peerload.client.stock.artifact import ArtifactManifest
from peerload.client.stock.crc import new_crc
from peerload.client.stock.sealing import PRIMARY
from peerload.client.threads import Stopped
from peerload.errors import InvalidArgument, LimitExceeded

__all__ = ["ArtifactStaging"]

_BLOCK: Final = 1 << 20
_SAFE: Final = os.O_NOFOLLOW | os.O_CLOEXEC
_MEMBERS: Final = "members"


class ArtifactStaging:
    """One pull of one artifact: `right` chunks, `write` the others, `look`, `install`; `close` in any case. For one thread at a
    time.

    The archive of `local_dir` goes there, that of another root to what `roots` says. The constructor raises `InvalidArgument`
    where the artifact has other roots, `InvalidCheckpoint` where something stands in the way, `NotAllowed` while another pull
    fills a folder, `LimitExceeded` where the disk is too small.
    """

    def __init__(self, manifest: ArtifactManifest, local_dir: Path, roots: Mapping[str, Path]) -> None:
        self._manifest = manifest
        self._outer: dict[Path, tuple[int, StagingFolder]] = {}
        self._folder = -1
        self._files: list[int] = []
        self._members: dict[str, list[Member]] = {}
        self._archives = _archives(manifest, local_dir, roots)
        self.local_dir = local_dir
        name = f"artifact-{manifest.artifact_id}"
        try:
            for each in dict.fromkeys([local_dir, *self._archives.values()]):
                self._open_root(each, name)
            root, outer = self._outer[local_dir]
            if not self._archives:
                known: set[str] = set()
                for path in manifest.names:
                    check_way(root, path, known)
            self._folder = open_folder(outer.fd, name, STAGING_FOLDER, create=True)
            self._allocate(root)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def right(self, stop: threading.Event, progress: Callable[[int, int], None]) -> set[int]:
        """The chunks that an earlier pull left here, and that have their checksum."""
        found: set[int] = set()
        done, total = 0, self._manifest.total_size
        for index, chunk in enumerate(self._manifest.chunks):
            fd = self._files[chunk.file]
            if _has_data(fd, chunk.offset, chunk.length):
                crc = new_crc()
                for at in range(chunk.offset, chunk.offset + chunk.length, _BLOCK):
                    if stop.is_set():
                        raise Stopped
                    crc.update(os.pread(fd, min(_BLOCK, chunk.offset + chunk.length - at), at))
                if crc.hexdigest().decode() == chunk.checksum:
                    found.add(index)
            done += chunk.length
            progress(done, total)
        return found

    def write(self, index: int, offset: int, data: memoryview) -> None:
        """Put bytes of a chunk, from `offset` in it, where they belong. Raises `LimitExceeded` where the disk is full."""
        chunk = self._manifest.chunks[index]
        try:
            write_all(self._files[chunk.file], data, chunk.offset + offset)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise LimitExceeded("local_dir", f"{self.local_dir} has no room left", limit=0) from error
            raise

    def look(self) -> None:
        """Every chunk is there: look the archives through. Raises `InvalidCheckpoint` for what is unsafe in one."""
        for name in self._archives:
            with open(os.dup(self._file(name)), "rb") as file:  # noqa: PTH123 - a descriptor, not a path
                self._members[name] = members(file, name)

    def install(self) -> int:
        """Put the files where they belong, after a `look`, and remove what was unfinished; how many files.

        Raises `InvalidCheckpoint`, before anything is written, where something stands in the way; `OSError`.
        """
        if not self._archives:
            count = self._install_files()
        else:
            for name, folder in self._archives.items():
                check_places(self._outer[folder][0], self._members[name])
            count = sum(self._install_archive(name, folder) for name, folder in self._archives.items())
        for root, outer in self._outer.values():
            outer.remove()
            os.fsync(root)
        return count

    def close(self) -> None:
        """Let go of the folders; what is unfinished stays. Safe to repeat."""
        for fd in self._files:
            os.close(fd)
        self._files = []
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1
        for root, outer in self._outer.values():
            outer.close()
            os.close(root)
        self._outer = {}

    def _open_root(self, folder: Path, keep: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            outer = StagingFolder(root, folder)
        except BaseException:
            os.close(root)
            raise
        self._outer[folder] = root, outer
        outer.tidy(keep=[keep])

    def _allocate(self, root: int) -> None:
        """Make every file at its full size, after a look whether there is room: for the archives, and for what is in them."""
        for index in range(len(self._manifest.files)):
            flags = os.O_RDWR | os.O_CREAT | _SAFE
            self._files.append(os.open(f"file-{index}", flags, 0o600, dir_fd=self._folder))
        taken = sum(os.fstat(fd).st_blocks * 512 for fd in self._files)
        total = self._manifest.total_size
        needed = max(0, total - taken) + (total if self._archives else 0)
        disk = os.fstatvfs(root)
        free = disk.f_bavail * disk.f_frsize
        if needed > free:
            text = f"the artifact takes {needed:,} bytes below {self.local_dir}, and {free:,} are free"
            raise LimitExceeded("local_dir", text, limit=free)
        for fd, file in zip(self._files, self._manifest.files, strict=True):
            os.ftruncate(fd, file.size)

    def _file(self, name: str) -> int:
        return self._files[self._manifest.names.index(name)]

    def _install_files(self) -> int:
        root, _ = self._outer[self.local_dir]
        for index, path in enumerate(self._manifest.names):
            os.fsync(self._files[index])
            parent, name = open_parent(root, path, create=True)
            try:
                os.rename(f"file-{index}", name, src_dir_fd=self._folder, dst_dir_fd=parent)
            finally:
                os.close(parent)
        return len(self._files)

    def _install_archive(self, name: str, folder: Path) -> int:
        root, outer = self._outer[folder]
        found = self._members[name]
        staging = open_folder(outer.fd, _MEMBERS, STAGING_FOLDER, create=True)
        try:
            place(self._file(name), found, root, staging)
        finally:
            os.close(staging)
        return sum(not member.is_folder for member in found)


def _archives(manifest: ArtifactManifest, local_dir: Path, roots: Mapping[str, Path]) -> dict[str, Path]:
    """Where each archive of a bundle goes, by its name; none where the artifact is the files themselves."""
    names = manifest.names
    if PRIMARY not in names or any("/" in name or not name.endswith(".tar") for name in names):
        if roots:
            raise InvalidArgument("roots", "the artifact is one folder, and has no others")
        return {}
    wanted = {PRIMARY: local_dir, **{f"{name}.tar": Path(folder) for name, folder in roots.items()}}
    if wanted.keys() != set(names):
        others = sorted(name.removesuffix(".tar") for name in names if name != PRIMARY)
        shown = ", ".join(repr(name[:100]) for name in others[:20]) or "none"
        raise InvalidArgument("roots", f"the artifact has these beside its folder: {shown}; each needs a folder here")
    if len({folder.resolve() for folder in wanted.values()}) != len(wanted):
        raise InvalidArgument("roots", "each root needs a folder of its own")
    return wanted


def _has_data(fd: int, offset: int, length: int) -> bool:
    """False where nothing was ever written."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA) < offset + length
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise
