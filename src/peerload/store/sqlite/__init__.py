"""The embedded store: one SQLite file on this machine's own disk, shared by any number of processes on it."""

from __future__ import annotations

from peerload.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
