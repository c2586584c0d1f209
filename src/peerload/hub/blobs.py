"""The names of blobs: what the hub calls a file's bytes.

Those that the hub keeps in its large-file storage are named by their sha256, the others by git's sha1 of a blob, which is
the sha1 of `blob SIZE`, a zero byte, and the bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Final

from peerload.checkpoint import CheckpointFile, Progress

__all__ = ["compute_names", "git_sha1", "is_git_sha1", "looks_large", "sha256"]

_BLOCK: Final = 1 << 20
_SHA1_DIGITS: Final = 40
_LARGE_BYTES: Final = 10 << 20
"""The hub takes no file above this into git itself."""
_LARGE_SUFFIXES: Final = (
    ".safetensors",
    ".bin",
    ".ckpt",
    ".gguf",
    ".h5",
    ".model",
    ".msgpack",
    ".npy",
    ".npz",
    ".onnx",
    ".pt",
    ".pth",
    ".zip",
)
"""What the hub's default .gitattributes puts into large-file storage, of that which models have."""
_TICK_S: Final = 0.1

_Told = Callable[[int], None]


def is_git_sha1(name: str) -> bool:
    """Whether a blob's name is git's sha1 of it."""
    return len(name) == _SHA1_DIGITS


def looks_large(path: str, size: int) -> bool:
    """Whether the hub most likely keeps such a file in its large-file storage."""
    return size > _LARGE_BYTES or path.lower().endswith(_LARGE_SUFFIXES)


def git_sha1(fd: int, told: _Told | None = None) -> str:
    """Git's sha1 of an open file as a blob."""
    total = hashlib.sha1(b"blob %d\0" % os.fstat(fd).st_size, usedforsecurity=False)
    return _over(fd, total, told)


def sha256(fd: int, told: _Told | None = None) -> str:
    """The sha256 of an open file."""
    return _over(fd, hashlib.sha256(usedforsecurity=False), told)


def compute_names(
    files: Sequence[tuple[CheckpointFile, bool]],
    opener: Callable[[CheckpointFile], int],
    progress: Progress | None = None,
) -> list[str]:
    """The names of files by their bytes, several at once; with each, whether it is named as a large file.

    `progress` is told bytes done and in all, on this thread; what it raises ends the work.
    """
    total, done, stopped = sum(file.size for file, _ in files), 0, False

    def told(count: int) -> None:
        nonlocal done
        done += count  # of several threads: a count for people, which may lag
        if stopped:
            raise _Stopped

    def name(file: CheckpointFile, large: bool) -> str:
        fd = opener(file)
        try:
            return sha256(fd, told) if large else git_sha1(fd, told)
        finally:
            os.close(fd)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="peerload-name") as pool:
        futures: list[Future[str]] = [pool.submit(name, file, large) for file, large in files]
        pending = set(futures)
        try:
            while pending:
                finished, pending = wait(pending, timeout=_TICK_S, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                if progress is not None:
                    progress(done, total)
        finally:
            stopped = True
            pool.shutdown(wait=False, cancel_futures=True)
    return [future.result() for future in futures]


class _Stopped(Exception):
    """Ends a thread whose work is no longer wanted."""


def _over(fd: int, total: hashlib._Hash, told: _Told | None) -> str:
    block = memoryview(bytearray(_BLOCK))
    at = 0
    while count := os.preadv(fd, [block], at):
        total.update(block[:count])
        at += count
        if told is not None:
            told(count)
    return total.hexdigest()
