"""What a watcher is told."""

from __future__ import annotations

from dataclasses import dataclass

from peerload.metadata.records import SourceKey, SourceRecord

__all__ = ["WatchEvent"]


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One answer to a watcher."""

    complete: bool
    """`present` is everything: what was told before no longer counts."""
    present: tuple[SourceRecord, ...]
    """Sources that entered the selection or changed; a mere heartbeat is no change."""
    gone: tuple[SourceKey, ...]
    """Sources that left it."""
    resume_token: str
    """Where to go on after this answer."""
