"""One pull at a time in one folder."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from peerload.checkpoint.names import STAGING_FOLDER
from peerload.checkpoint.tree import open_folder
from peerload.errors import NotAllowed

__all__ = ["StagingFolder"]

_LOCK: Final = "lock"
_ATTEMPTS: Final = 1000


class StagingFolder:
    """The locked `.peerload` folder below the open folder `root`; `fd` is its descriptor.

    The lock belongs to the process that took it and ends with it, however it ends. Raises `NotAllowed`, naming
    `shown`, while another holds it, `InvalidCheckpoint` where a link or file is in the way.
    """

    def __init__(self, root: int, shown: Path) -> None:
        self._root = root
        self.fd = self._lock = -1
        # Each turn that fails means that another pull came or went in between; a bound, in case nothing else explains it.
        for _ in range(_ATTEMPTS):
            try:
                if self._acquire():
                    return
            except BlockingIOError:
                break
            except BaseException:
                self.close()
                raise
            self.close()
        self.close()
        raise NotAllowed(f"{shown}: another pull is filling this folder")

    def tidy(self, keep: Iterable[str] = ()) -> None:
        """Remove everything but the lock and what is named."""
        spared = {_LOCK, *keep}
        with os.scandir(self.fd) as listing:
            entries = [entry for entry in listing if entry.name not in spared]
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.name, dir_fd=self.fd)
            else:
                os.unlink(entry.name, dir_fd=self.fd)

    def remove(self) -> None:
        """Remove the folder and everything in it. The lock goes last: until then nobody else works here."""
        self.tidy()
        os.unlink(_LOCK, dir_fd=self.fd)
        try:
            os.rmdir(STAGING_FOLDER, dir_fd=self._root)
        except OSError as error:
            # Another pull has just begun here, or has been and gone: the folder was its own by then.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise

    def close(self) -> None:
        """Let go of the lock. Safe to repeat."""
        for fd in (self._lock, self.fd):
            if fd >= 0:
                os.close(fd)
        self._lock = self.fd = -1

    def _acquire(self) -> bool:
        """False if the folder or its lock was removed meanwhile, by a pull that ended while this one came."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self.fd = open_folder(self._root, STAGING_FOLDER, STAGING_FOLDER, create=True)
            self._lock = os.open(_LOCK, flags, 0o600, dir_fd=self.fd)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            named = os.stat(f"{STAGING_FOLDER}/{_LOCK}", dir_fd=self._root, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(self._lock), named)
