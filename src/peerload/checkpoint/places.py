"""Where the files of a pull get their names once they are verified.

`Places` is what a staging asks; `FolderPlaces` is a plain folder, each file under its own path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Protocol

from peerload.checkpoint.hashing import Progress
from peerload.checkpoint.model import CheckpointFile
from peerload.checkpoint.tree import check_way, open_file, open_parent

__all__ = ["FolderPlaces", "Places"]


class Places(Protocol):
    """The places below one open folder, `root`. Nothing is ever written through a link. One thread at a time."""

    def check(self, root: int, files: Sequence[CheckpointFile]) -> None:
        """Raise `InvalidCheckpoint`, naming the path, where something stands in the way of one of them."""
        ...

    def find(self, root: int, file: CheckpointFile) -> int | None:
        """A descriptor for reading what may be that file already; None if there is nothing. The caller closes it."""
        ...

    def prepare(
        self, files: Sequence[CheckpointFile], opener: Callable[[CheckpointFile], int], progress: Progress | None
    ) -> None:
        """Learn what is needed of new files before the first of them gets its place; `opener` opens their bytes."""
        ...

    def place(self, root: int, file: CheckpointFile, staged: str, folder: int) -> None:
        """Move the complete file `staged` of the open folder `folder` to its place."""
        ...

    def finish(self, root: int, files: Sequence[CheckpointFile], folder: int) -> None:
        """All files have their places. `folder` is for what is made on the way; it goes afterwards."""
        ...


class FolderPlaces:
    """A file's place is its path."""

    def check(self, root: int, files: Sequence[CheckpointFile]) -> None:
        known: set[str] = set()
        for file in files:
            check_way(root, file.path, known)

    def find(self, root: int, file: CheckpointFile) -> int | None:
        return open_file(root, file.path)

    def prepare(
        self, files: Sequence[CheckpointFile], opener: Callable[[CheckpointFile], int], progress: Progress | None
    ) -> None:
        pass

    def place(self, root: int, file: CheckpointFile, staged: str, folder: int) -> None:
        parent, name = open_parent(root, file.path, create=True)
        try:
            os.rename(staged, name, src_dir_fd=folder, dst_dir_fd=parent)
            os.fsync(parent)
        finally:
            os.close(parent)

    def finish(self, root: int, files: Sequence[CheckpointFile], folder: int) -> None:
        pass
