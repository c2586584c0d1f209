"""What about the file's place would keep a server from using it, or lose what it keeps. Blocking; changes nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from peerload.errors import PeerloadError, Unavailable
from peerload.finding import Finding, Level
from peerload.store.sqlite.home import Home
from peerload.store.sqlite.layout import LAYOUT_VERSION, connect, prepare

__all__ = ["existing_folder", "look"]

_FEW_BYTES: Final = 1_000_000_000
_NO_BYTES: Final = 50_000_000
_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_CONTAINER: Final = frozenset({"overlay", "aufs"})
_ELSEWHERE: Final = "choose a path on a disk of this machine (--store sqlite:PATH), or share a Redis (--store redis://HOST) or an API server (--store kubernetes:NAMESPACE)"

_FLOCK: Final = struct.Struct("@hhqqi0q")
"""struct flock of fcntl(2) on 64-bit Linux: type, whence, start, length, process."""
_IN_USE_BYTE: Final = 128
"""The byte of the shared-memory file on which every connection holds a lock (WALINDEX_LOCK_OFFSET + 8 in SQLite)."""


def look(home: Home, wall_ms: int) -> Iterator[Finding]:
    """Look at the place, then at the file if there is one."""
    try:
        kind = home.file_system()
        folder = existing_folder(home.path)
        status = _status(home.path)
    except PeerloadError as error:
        yield _problem(error, _ELSEWHERE)
        return
    except OSError as error:
        yield Finding(Level.PROBLEM, f"{home.path} cannot be looked at ({error.strerror})", _rights(home.path.parent))
        return
    yield _disk(folder, kind)
    refused = _unusable(home.path, folder, status)
    if refused is not None:
        yield refused
        return
    if status is None or not status.st_size:
        yield Finding(Level.OK, f"there is no {home.path} yet; the first server makes it")
        return
    yield from _exposed(home.path, status)
    # Before our own connection: closing a file drops every lock that this process has on it.
    user = _user(home.path)
    yield _tables(home.path, wall_ms, user)


def existing_folder(path: Path) -> Path:
    """The folder that the file is in; where that is yet to be made, the nearest above. Raises `OSError`."""
    return next(folder for folder in path.resolve().parents if folder.exists())


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _disk(folder: Path, kind: str) -> Finding:
    """Whether what is kept there stays, and whether there is room for it."""
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    room = f"{free / 1e9:.1f} GB" if free >= 1e9 else f"{free / 1e6:.0f} MB"
    if free < _NO_BYTES:
        return Finding(
            Level.PROBLEM,
            f"the disk of {folder} has {room} left, and without room nothing can be published",
            "make room, or choose another path",
        )
    if free < _FEW_BYTES:
        return Finding(
            Level.WARNING,
            f"the disk of {folder} has {room} left, and a fleet may need more (70 to 175 KB for a worker with 20,000"
            " tensors); when it is full, nothing can be published",
            "make room, or choose another path",
        )
    if kind in _MEMORY:
        return Finding(
            Level.WARNING,
            f"{folder} is in memory ({kind}), and a restart of the machine loses every source until its worker"
            " publishes again",
            "choose a path on a disk",
        )
    if kind in _CONTAINER:
        return Finding(
            Level.WARNING,
            f"{folder} is in a container's own layer ({kind}), and goes with the container",
            "mount a volume and choose a path on it",
        )
    return Finding(Level.OK, f"{folder} is on a disk of this machine ({kind or 'unknown'}) with {room} left")


def _unusable(path: Path, folder: Path, status: os.stat_result | None) -> Finding | None:
    """What keeps this user from writing there."""
    if status is not None and not os.access(path, os.R_OK | os.W_OK):
        return Finding(
            Level.PROBLEM,
            f"user {_name(os.geteuid())} may not read and write {path}, which belongs to {_name(status.st_uid)}"
            f" (mode {stat.S_IMODE(status.st_mode):o})",
            _rights(path),
        )
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):  # SQLite makes files beside its own
        return Finding(
            Level.PROBLEM,
            f"user {_name(os.geteuid())} may not make files in {folder}, which belongs to"
            f" {_name(folder.stat().st_uid)}",
            _rights(folder),
        )
    return None


def _exposed(path: Path, status: os.stat_result) -> Iterator[Finding]:
    if status.st_uid != os.geteuid():
        yield Finding(
            Level.WARNING,
            f"{path} belongs to {_name(status.st_uid)}, and this ran as {_name(os.geteuid())}: whether its owner may use"
            " it is not known",
            "run this as the user that the server runs as",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        yield Finding(
            Level.WARNING,
            f"other users may open {path} (mode {mode:o}), and it tells how to read workers' memory",
            f"chmod 600 {path}",
        )


def _tables(path: Path, wall_ms: int, user: int | None) -> Finding:
    """Whether the tables are there and ours, as a server finds out."""
    try:
        prepare(path, wall_ms)
        with contextlib.closing(connect(path)) as connection:
            (entries,) = connection.execute("SELECT count(*) FROM entries").fetchone()
    except Unavailable as error:
        return _problem(
            error, "see who holds the file; if nobody does, it is damaged: put it aside, and workers publish again"
        )
    except PeerloadError as error:
        return _problem(error, _ELSEWHERE)
    if user is None:
        used = "no process has it open"
    else:
        used = f"{f'process {user}' if user else 'another process'} has it open, with which servers here may share it"
    count = f"{entries:,} {'entry' if entries == 1 else 'entries'}"
    return Finding(Level.OK, f"{path} holds {count} in layout {LAYOUT_VERSION}; {used}")


def _user(path: Path) -> int | None:
    """Another process that has the file open; 0 for one that is not to be seen from here, None for none."""
    try:
        descriptor = os.open(path.with_name(path.name + "-shm"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # SQLite removes it when the last one goes
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _IN_USE_BYTE, 1, 0)
        kind, _, _, _, process = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    finally:
        os.close(descriptor)
    return None if kind == fcntl.F_UNLCK else max(0, process)


def _problem(error: PeerloadError, advice: str) -> Finding:
    return Finding(Level.PROBLEM, str(error).removeprefix("store: "), advice)


def _rights(path: Path) -> str:
    return f"run servers as a user that may use {path}, or choose another path (--store sqlite:PATH)"


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
