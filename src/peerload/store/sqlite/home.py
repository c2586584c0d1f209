"""The place of the file: its folder, its permissions, its file system, and whether it is still the same file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from peerload.errors import InvalidArgument, Unavailable

__all__ = ["Home", "file_system"]

# File systems that several machines see: SQLite's locks and shared memory do not hold between them.
_NETWORK: Final = re.compile(
    "nfs4?|cifs|smb[23]?|smbfs|ncpfs|afs|ceph|glusterfs|lustre|gpfs|beegfs|wekafs|pvfs2|orangefs|ocfs2|gfs2|davfs"
    "|fuse[.](sshfs|ceph|cephfs|glusterfs|juicefs|s3fs|gcsfuse|rclone|davfs2|mfs|weedfs|smbnetfs|curlftpfs)"
)


class Home:
    """The one file that a store lives in."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()
        self._identity: tuple[int, int] | None = None

    def file_system(self) -> str:
        """The type of the file system that the file is on, or will be. Raises `InvalidArgument` for a network's and for
        a folder, `Unavailable` where the place cannot be looked at."""
        try:
            kind = file_system(self.path.resolve().parent, Path("/proc/self/mountinfo").read_text())
            folder = self.path.is_dir()
        except OSError as error:
            raise Unavailable(f"cannot use {self.path}: {error.strerror}") from error
        if _NETWORK.fullmatch(kind):
            raise InvalidArgument(
                "store", f"{self.path} is on a network file system ({kind}); SQLite needs a disk of this machine"
            )
        if folder:
            raise InvalidArgument("store", f"{self.path} is a folder, not a file")
        return kind

    def prepare(self) -> None:
        """Make the folder (0700) and the file (0600) where they do not exist, and refuse a network file system.

        Raises `InvalidArgument` or `Unavailable`.
        """
        self.file_system()
        try:
            # mkdir gives its mode to the last folder only; these are all private.
            for folder in reversed(self.path.parents):
                if not folder.exists():
                    folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"cannot use {self.path}: {error.strerror}") from error
        try:
            # Only a file that is not there yet is opened here: closing any descriptor of an open database's file
            # would drop this process's locks on it.
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
            _sync_folder(self.path.parent)
        except FileExistsError:
            pass
        except OSError as error:
            raise Unavailable(f"cannot create {self.path}: {error.strerror}") from error

    def settle(self) -> None:
        """Remember which file it is. Raises `Unavailable` if it is gone."""
        self._identity = self._stat()

    def check(self) -> None:
        """Raises `Unavailable` if the file was removed or replaced: what is written to it now would be lost."""
        if self._identity is not None and self._stat() != self._identity:
            raise Unavailable(f"{self.path} was replaced while it was in use; restart to use the new file")

    def _stat(self) -> tuple[int, int]:
        try:
            status = os.stat(self.path)  # noqa: PTH116 - asked before every transaction
        except OSError as error:
            raise Unavailable(f"{self.path} is gone: {error.strerror}") from error
        return status.st_dev, status.st_ino


def file_system(folder: Path, mountinfo: str) -> str:
    """The type of the file system that holds a resolved folder, by the text of /proc/self/mountinfo (proc(5));
    empty if no line fits."""
    best, found = -1, ""
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split(" ")
        if not dash or len(fields) < 5:
            continue
        mount = Path(_unescape(fields[4]))
        depth = len(mount.parts)
        if depth >= best and (folder == mount or mount in folder.parents):  # a later line is mounted over an earlier
            best, found = depth, after.split(" ")[0]
    return found


def _unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
