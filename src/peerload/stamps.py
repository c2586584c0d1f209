"""By what it is noticed that a file is another than before."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

__all__ = ["Stamp", "Stamps", "stamp", "stamps"]

Stamp: TypeAlias = tuple[int, int, int] | None
"""Another one wherever the file changed, or another took its place, or a link was turned to another; None: it is not there."""

Stamps: TypeAlias = tuple[Stamp, ...]


def stamp(path: Path) -> Stamp:
    """That of a file, as it is now."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def stamps(paths: Iterable[Path]) -> Stamps:
    """Those of several."""
    return tuple(stamp(path) for path in paths)
