"""Work below an open folder without ever following a link.

Paths are walked one component at a time from the folder's descriptor, so that a link put in the way at any moment
makes an error, never a write somewhere else.
"""

from __future__ import annotations

import errno
import os
import stat

from peerload.errors import InvalidCheckpoint

__all__ = ["check_way", "open_file", "open_folder", "open_parent"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_folder(parent: int, name: str, path: str, *, create: bool = False) -> int:
    """A descriptor of the folder `name` in the folder `parent`. The caller closes it.

    Raises `InvalidCheckpoint`, naming `path`, where a link or a file is in the way; `FileNotFoundError` where nothing
    is and it is not to be created.
    """
    if create:
        try:
            os.mkdir(name, dir_fd=parent)
            os.fsync(parent)
        except FileExistsError:
            pass
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise InvalidCheckpoint(path, f"{name!r} in the target folder is a link or a file, not a folder") from error
        raise


def open_parent(root: int, path: str, *, create: bool = False) -> tuple[int, str]:
    """A descriptor of the folder that `path` (relative, checked) lies in, and the last component.

    The caller closes the descriptor. With `create`, missing folders are made. Raises like `open_folder`.
    """
    *folders, name = path.split("/")
    at = os.dup(root)
    for folder in folders:
        try:
            below = open_folder(at, folder, path, create=create)
        finally:
            os.close(at)
        at = below
    return at, name


def open_file(root: int, path: str) -> int | None:
    """A descriptor for reading the regular file at `path`; None if it is not there. The caller closes it."""
    try:
        parent, name = open_parent(root, path)
    except FileNotFoundError:
        return None
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidCheckpoint(path, "a link is in the way in the target folder") from error
        raise
    finally:
        os.close(parent)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidCheckpoint(path, "something that is not a file is in the way in the target folder")
    return fd


def check_way(root: int, path: str, known: set[str]) -> None:
    """Raise `InvalidCheckpoint` if something below `root` stands where `path` or a folder of it must be.

    `known` collects the folders that were found to be right, to look at each only once.
    """
    components = path.split("/")
    for depth in range(1, len(components) + 1):
        prefix = "/".join(components[:depth])
        if prefix in known:
            continue
        try:
            mode = os.stat(prefix, dir_fd=root, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISLNK(mode):
            raise InvalidCheckpoint(path, f"{prefix!r} in the target folder is a link; nothing is written through one")
        if depth == len(components):
            if not stat.S_ISREG(mode):
                raise InvalidCheckpoint(path, "the target folder has something there that is not a file")
        elif not stat.S_ISDIR(mode):
            raise InvalidCheckpoint(path, f"{prefix!r} in the target folder is not a folder")
        else:
            known.add(prefix)
