"""How a pull fills the Hugging Face cache: blobs first, then the snapshot's links, and the branch's name last.

The folder that is filled is the model's in the cache. Until a snapshot's folder appears, by one rename and with every
link in it, huggingface_hub sees nothing of the pull.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from typing import Final

from peerload.checkpoint import CheckpointFile, Progress
from peerload.checkpoint.tree import open_folder, open_parent
from peerload.errors import InvalidCheckpoint, VerificationFailed
from peerload.hub.blobs import compute_names, is_git_sha1, looks_large

__all__ = ["CachePlaces", "write_ref"]

_BLOBS: Final = "blobs"
_SNAPSHOTS: Final = "snapshots"
_REFS: Final = "refs"
_NEW_SNAPSHOT: Final = "snapshot"
_NEW_LINK: Final = "link"
_NEW_REF: Final = ".peerload-ref"
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class CachePlaces:
    """The places of one commit's files in a model's folder of the cache. `ref` is the branch or tag to write for it, or "".

    A blob gets the name that the source's cache has for it, if it has one; a small file's is always computed from the bytes
    that arrived, any other's where the source knows none, or where another blob of that name is here already.
    """

    def __init__(self, commit: str, ref: str = "") -> None:
        self.commit = commit
        self.ref = ref
        self._names: dict[str, str] = {}
        """By path: the blob that the snapshot is to link to. Without one, what the snapshot has there is right as it is."""

    def check(self, root: int, files: Sequence[CheckpointFile]) -> None:
        # There from the start, or a pull that is killed would leave what huggingface_hub takes for a broken repository.
        for name in (_SNAPSHOTS, _BLOBS):
            os.close(open_folder(root, name, name, create=True))
        known: set[str] = set()
        for file in files:
            _check_folders(root, f"{_SNAPSHOTS}/{self.commit}/{file.path}", known)

    def find(self, root: int, file: CheckpointFile) -> int | None:
        self._names.pop(file.path, None)
        if file.blob and (fd := _open(root, f"{_BLOBS}/{file.blob}")) is not None:
            self._names[file.path] = file.blob
            return fd
        return _open(root, f"{_SNAPSHOTS}/{self.commit}/{file.path}")

    def prepare(
        self, files: Sequence[CheckpointFile], opener: Callable[[CheckpointFile], int], progress: Progress | None
    ) -> None:
        contents: dict[str, set[bytes]] = {}
        for file in files:
            contents.setdefault(file.blob, set()).add(file.digest())
        wanted = [
            (file, not is_git_sha1(file.blob) if file.blob else looks_large(file.path, file.size))
            for file in files
            if not file.blob
            or is_git_sha1(file.blob)
            # Something else has that name, here or at the source itself.
            or file.path in self._names
            or len(contents[file.blob]) > 1
        ]
        names = compute_names(wanted, opener, progress)
        computed = {file.path: name for (file, _), name in zip(wanted, names, strict=True)}
        for file in files:
            name = computed.get(file.path, file.blob)
            if file.blob and not is_git_sha1(file.blob) and name != file.blob:
                raise VerificationFailed(
                    f"{file.path}: the source calls these bytes {file.blob}, which they are not, and there are others of that "
                    "name",
                    items=(file.path,),
                )
            self._names[file.path] = name

    def place(self, root: int, file: CheckpointFile, staged: str, folder: int) -> None:
        blobs = open_folder(root, _BLOBS, _BLOBS)
        try:
            os.rename(staged, self._names[file.path], src_dir_fd=folder, dst_dir_fd=blobs)
            os.fsync(blobs)
        finally:
            os.close(blobs)

    def finish(self, root: int, files: Sequence[CheckpointFile], folder: int) -> None:
        snapshots = open_folder(root, _SNAPSHOTS, _SNAPSHOTS)
        try:
            if not self._link_anew(files, folder, snapshots):
                self._link_more(files, folder, snapshots)
            os.fsync(snapshots)
        finally:
            os.close(snapshots)
        if self.ref:
            write_ref(root, self.ref, self.commit)

    def _link_anew(self, files: Sequence[CheckpointFile], folder: int, snapshots: int) -> bool:
        """Make the snapshot's folder with all its links, if there is none; whether it was so."""
        if _exists(snapshots, self.commit) or any(file.path not in self._names for file in files):
            return False
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(_NEW_SNAPSHOT, dir_fd=folder)
        made = open_folder(folder, _NEW_SNAPSHOT, _NEW_SNAPSHOT, create=True)
        try:
            for file in files:
                parent, name = open_parent(made, file.path, create=True)
                try:
                    os.symlink(self._target(file), name, dir_fd=parent)
                    os.fsync(parent)
                finally:
                    os.close(parent)
        finally:
            os.close(made)
        try:
            os.rename(_NEW_SNAPSHOT, self.commit, src_dir_fd=folder, dst_dir_fd=snapshots)
        except OSError as error:
            # huggingface_hub has begun the same snapshot meanwhile.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        return True

    def _link_more(self, files: Sequence[CheckpointFile], folder: int, snapshots: int) -> None:
        """Add the links that a snapshot lacks, one by one, and put those right that lead elsewhere."""
        at = open_folder(snapshots, self.commit, self.commit, create=True)
        try:
            for file in files:
                if file.path not in self._names:
                    continue
                parent, name = open_parent(at, file.path, create=True)
                try:
                    if _linked(parent, name) != self._target(file):
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(_NEW_LINK, dir_fd=folder)
                        os.symlink(self._target(file), _NEW_LINK, dir_fd=folder)
                        os.rename(_NEW_LINK, name, src_dir_fd=folder, dst_dir_fd=parent)
                        os.fsync(parent)
                finally:
                    os.close(parent)
        finally:
            os.close(at)

    def _target(self, file: CheckpointFile) -> str:
        up = "../" * (2 + file.path.count("/"))
        return f"{up}{_BLOBS}/{self._names[file.path]}"


def _check_folders(root: int, path: str, known: set[str]) -> None:
    """Raise `InvalidCheckpoint` if something that is not a folder stands where a folder of `path` must be."""
    folders = path.split("/")[:-1]
    for depth in range(1, len(folders) + 1):
        prefix = "/".join(folders[:depth])
        if prefix in known:
            continue
        try:
            mode = os.stat(prefix, dir_fd=root, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(mode):
            raise InvalidCheckpoint(path, f"{prefix!r} in the cache is a link or a file, not a folder")
        known.add(prefix)


def _open(root: int, path: str) -> int | None:
    """A descriptor for reading the file at `path`, which may be a link; None if there is none."""
    try:
        fd = os.open(path, _READ, dir_fd=root)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidCheckpoint(path, "this is a loop of links") from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidCheckpoint(path, "something that is not a file is in the way in the cache")
    return fd


def _exists(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _linked(parent: int, name: str) -> str:
    """Where the link leads; "" for what is none."""
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError:
        return ""


def write_ref(root: int, ref: str, commit: str) -> None:
    """Let a branch or tag stand for the commit, in the model's open folder `root` of the cache.

    Made aside, because huggingface_hub takes every file below refs for a ref.
    """
    fd = os.open(_NEW_REF, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=root)
    try:
        os.write(fd, commit.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    parent, name = open_parent(root, f"{_REFS}/{ref}", create=True)
    try:
        os.rename(_NEW_REF, name, src_dir_fd=root, dst_dir_fd=parent)
        os.fsync(parent)
    finally:
        os.close(parent)
