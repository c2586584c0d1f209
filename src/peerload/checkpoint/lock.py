"""One pull at a time in one folder."""

from __future__ import annotations

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


class StagingFolder:
    """The locked `.peerload` folder below the open folder `root`; `fd` is its descriptor.

    The lock belongs to the process that took it and ends with it, however it ends. Raises `NotAllowed`, naming
    `shown`, while another holds it, `InvalidCheckpoint` where a link or file is in the way.
    """

    def __init__(self, root: int, shown: Path) -> None:
        self._root = root
        while True:
            self.fd = open_folder(root, STAGING_FOLDER, STAGING_FOLDER, create=True)
            self._lock = -1
            try:
                if self._acquire():
                    return
            except BlockingIOError:
                self.close()
                raise NotAllowed(f"{shown}: another pull is filling this folder") from None
            except BaseException:
                self.close()
                raise
            self.close()

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
        except OSError:
            with os.scandir(self.fd) as listing:
                if not any(listing):
                    raise
            # Another pull has just begun here: the folder is its own now.

    def close(self) -> None:
        """Let go of the lock. Safe to repeat."""
        for fd in (self._lock, self.fd):
            if fd >= 0:
                os.close(fd)
        self._lock = self.fd = -1

    def _acquire(self) -> bool:
        """False if the folder or its lock was removed meanwhile, by a pull that ended between our open and our lock."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._lock = os.open(_LOCK, flags, 0o600, dir_fd=self.fd)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            named = os.stat(f"{STAGING_FOLDER}/{_LOCK}", dir_fd=self._root, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(self._lock), named)
