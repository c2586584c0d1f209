"""The target's side: files are filled out of sight, and take their names only when every byte was verified.

Unfinished files lie in `.peerload/<content>` inside the folder that is filled, so that taking their names is a rename.
Where they are put then, `Places` says: under their paths, or as the Hugging Face cache keeps them.
A process that is killed at any moment leaves whole files under final names and unfinished ones in there; the next
pull of the same content digests what it finds, and reads only the rest.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from peerload.checkpoint.folder import Skipped, map_file
from peerload.checkpoint.hashing import Progress
from peerload.checkpoint.leftovers import Leftovers, write_all
from peerload.checkpoint.lock import StagingFolder
from peerload.checkpoint.model import Checkpoint, CheckpointFile
from peerload.checkpoint.names import STAGING_FOLDER, code_reason, is_safetensors
from peerload.checkpoint.places import FolderPlaces, Places
from peerload.checkpoint.tree import open_folder
from peerload.errors import InvalidArgument, LimitExceeded

__all__ = ["Staging"]

_SAFE: Final = os.O_NOFOLLOW | os.O_CLOEXEC
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Staging:
    """One pull into one folder: `reusable`, then fill each `view`, verify, then `commit`; `close` in any case.

    `wanted` are the indices of the checkpoint's files to fill: all that `chosen` lets through (by path), less those in
    `skipped`, which may run code and were not allowed. `kept` is the checkpoint that the folder will hold (its content
    differs where files are left out). File indices are always those of the checkpoint given.

    The constructor raises `InvalidCheckpoint` naming the path for whatever the checkpoint or the folder has that is
    unsafe (nothing is ever written through a link), `NotAllowed` while another pull fills the folder, and `OSError`
    for what the operating system refuses. For one thread at a time.
    """

    def __init__(
        self,
        local_dir: Path,
        checkpoint: Checkpoint,
        *,
        allow_code: bool = False,
        chosen: Callable[[str], bool] | None = None,
        places: Places | None = None,
    ) -> None:
        checkpoint.validate()
        asked = [index for index, file in enumerate(checkpoint.files) if chosen is None or chosen(file.path)]
        reasons = {index: "" if allow_code else code_reason(checkpoint.files[index].path) for index in asked}
        self.local_dir = local_dir
        self.wanted: tuple[int, ...] = tuple(index for index, reason in reasons.items() if not reason)
        self.skipped: tuple[Skipped, ...] = tuple(
            Skipped(checkpoint.files[index].path, reason) for index, reason in reasons.items() if reason
        )
        self.kept = Checkpoint(tuple(checkpoint.files[index] for index in self.wanted))
        self._places: Places = FolderPlaces() if places is None else places
        self._files = checkpoint.files
        self._views: dict[int, memoryview] = {}
        self._complete: set[int] = set()
        self._allocated = False
        self._root = self._folder = -1
        self._outer: StagingFolder | None = None
        try:
            local_dir.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InvalidArgument("local_dir", f"{local_dir} is, or is below, something that is not a folder") from None
        except FileNotFoundError:
            raise InvalidArgument("local_dir", f"{local_dir} cannot be made there") from None
        try:
            self._root = os.open(local_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._places.check(self._root, self.kept.files)
            content = self.kept.content
            self._outer = StagingFolder(self._root, local_dir)
            # What pulls of other contents left goes: its room may be needed.
            self._outer.tidy(keep=[content])
            self._folder = open_folder(self._outer.fd, content, STAGING_FOLDER, create=True)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def reusable(self, progress: Progress | None = None) -> set[tuple[int, int]]:
        """Digest what is here already, and make room for the rest; once, before the first `view`.

        Gives the (file index, part index) whose bytes are in place: of a file that the folder has as it must be (it
        stays untouched), copied from one that is right in parts, or left by a pull that was killed. `progress` is
        called with bytes digested and to digest.

        Raises `LimitExceeded` where the disk has too little room, before any file was made.
        """
        finals = Leftovers(self._files, self._open_final, own=False)
        partials = Leftovers(self._files, self._open_partial, own=True)
        finals.look(self.wanted)
        partials.look(self.wanted)
        total = finals.size + partials.size
        done = finals.digest(progress, 0, total)
        partials.digest(progress, done, total)
        self._complete = finals.complete()
        self._allocate()
        reused: set[tuple[int, int]] = set()
        for index in self.wanted:
            right = finals.right.get(index, set())
            if index not in self._complete:
                left = partials.right.get(index, set())
                right = left | self._copy(finals, index, right - left)
            reused |= {(index, number) for number in right}
        return reused

    def view(self, file_index: int) -> memoryview:
        """The memory of one wanted file, all of it, header in place; shared with the file on disk.

        Writable until the file is complete: found so, or committed before its first `view`. Valid as long as it is
        held, also after `close`.
        """
        if file_index not in self._views:
            self._allocate()
            file = self._files[file_index]
            complete = file_index in self._complete
            fd = self._open_final(file_index) if complete else self._open_partial(file_index)
            if fd is None:
                raise FileNotFoundError(errno.ENOENT, "a file of the pull was removed meanwhile", file.path)
            try:
                self._views[file_index] = map_file(fd, file.size, file.path, writable=not complete)
            finally:
                os.close(fd)
        return self._views[file_index]

    def commit(self, progress: Progress | None = None) -> None:
        """Give every file its name. The caller has verified every part of every wanted file.

        Bytes are on the disk before the first name changes; weights come before the files that describe them, so that
        a folder with an index or a config has what they speak of. Then nothing of the staging remains. Where names have to
        be computed from the bytes, `progress` is told of it.
        """
        if self._outer is None:
            raise ValueError("commit of a staging that was closed")
        self._allocate()
        ordered = sorted(self.wanted, key=self._order)
        pending = [index for index in ordered if index not in self._complete]
        index_of = {file.path: index for index, file in enumerate(self._files)}

        def opener(file: CheckpointFile) -> int:
            return os.open(_partial(index_of[file.path]), os.O_RDONLY | _SAFE, dir_fd=self._folder)

        self._places.prepare([self._files[index] for index in pending], opener, progress)
        for index in pending:
            fd = os.open(_partial(index), os.O_RDWR | _SAFE, dir_fd=self._folder)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        for index in pending:
            self._places.place(self._root, self._files[index], _partial(index), self._folder)
            self._complete.add(index)
        self._places.finish(self._root, [self._files[index] for index in ordered], self._folder)
        self._outer.remove()
        os.fsync(self._root)

    def close(self) -> None:
        """Let go of the folder and its lock; unfinished files stay for the next run. Safe to repeat."""
        self._views.clear()
        if self._outer is not None:
            self._outer.close()
        for fd in (self._folder, self._root):
            if fd >= 0:
                os.close(fd)
        self._folder = self._root = -1
        self._outer = None

    def _open_final(self, index: int) -> int | None:
        return self._places.find(self._root, self._files[index])

    def _open_partial(self, index: int) -> int | None:
        try:
            return os.open(_partial(index), os.O_RDWR | _SAFE, dir_fd=self._folder)
        except FileNotFoundError:
            return None

    def _order(self, index: int) -> tuple[int, str]:
        path = self._files[index].path
        if is_safetensors(path):
            return 0, path
        if not path.endswith(".json"):
            return 1, path
        return (3 if path.endswith(".index.json") else 2), path

    def _copy(self, finals: Leftovers, index: int, numbers: set[int]) -> set[int]:
        target = self._open_partial(index) if numbers else None
        if target is None:
            return set()
        try:
            return finals.copy(index, numbers, target)
        finally:
            os.close(target)

    def _allocate(self) -> None:
        """Make every unfinished file at its full size with its header, after checking that there is room."""
        if self._allocated:
            return
        pending = [index for index in self.wanted if index not in self._complete]
        needed = sum(max(0, self._files[index].size - self._taken(index)) for index in pending)
        disk = os.fstatvfs(self._root)
        free = disk.f_bavail * disk.f_frsize
        if needed > free:
            raise self._no_room(needed, free)
        for index in pending:
            file = self._files[index]
            fd = os.open(_partial(index), os.O_RDWR | os.O_CREAT | _SAFE, 0o666, dir_fd=self._folder)
            try:
                os.ftruncate(fd, file.size)
                if file.size:
                    # Room is taken now: a write into mapped memory has no way to say that the disk is full.
                    os.posix_fallocate(fd, 0, file.size)
                write_all(fd, file.header, 0)
            except OSError as error:
                if error.errno in _NO_ROOM:
                    raise self._no_room(needed, free) from error
                raise
            finally:
                os.close(fd)
        self._allocated = True

    def _taken(self, index: int) -> int:
        """Bytes of the disk that an unfinished file has already."""
        try:
            return os.stat(_partial(index), dir_fd=self._folder, follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:
            return 0

    def _no_room(self, needed: int, free: int) -> LimitExceeded:
        message = f"{self.local_dir} needs {needed} bytes more than it has now, and the disk has {free} free"
        return LimitExceeded("local_dir", message, limit=free)


def _partial(index: int) -> str:
    return f"{index:06}.part"
