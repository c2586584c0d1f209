"""Undoing a mark that a heartbeat has overtaken."""

from __future__ import annotations

from typing import Final

from peerload.clock import Clock
from peerload.errors import Conflict, Unavailable
from peerload.metadata.directory.directory import Directory
from peerload.metadata.records import SourceRecord, with_status
from peerload.store.base import Store

__all__ = ["Reviver"]

_RETRY_SECONDS: Final = 1.0


class Reviver:
    """Writes the former status back where a record was marked stale and a heartbeat later than the judged one is known.

    Such a heartbeat was on its way while the reaper judged: whoever sends one to a server that knows of the mark changes
    the status instead. Every server may do it; only one write can succeed.
    """

    def __init__(self, store: Store, directory: Directory, clock: Clock) -> None:
        self._store = store
        self._directory = directory
        self._clock = clock
        self.revived = 0
        """Marks undone since the start, by this server."""

    async def run(self) -> None:
        """Write back, as soon as there is something to, until cancelled."""
        while True:
            if not self._directory.overtaken:
                await self._directory.changed.wait()
                continue
            try:
                await self.revive()
            except Unavailable:
                await self._clock.sleep(_RETRY_SECONDS)

    async def revive(self) -> int:
        """Write back what there is now; how many this server did. Raises `Unavailable`."""
        revived = 0
        for key in list(self._directory.overtaken):
            entry = await self._store.get(key)
            if entry is None:
                self._directory.overtaken.pop(key, None)
                continue
            record = SourceRecord.from_entry(entry)
            known: int | None = entry.revision
            if record.mark is not None and record.updated_at > record.mark.judged:
                try:
                    written = await self._store.put(
                        key, with_status(entry.value, record.mark.was), expect=entry.revision
                    )
                    known = written.revision
                    revived += 1
                    self.revived += 1
                except Conflict as conflict:
                    known = conflict.revision
            # Whatever the store holds by now, the feed tells whether there is more to do.
            if known is not None:
                await self._directory.seen(key, known)
        return revived
