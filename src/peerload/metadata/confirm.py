"""Asking the store whether something is really not there, without letting strangers flood it with questions."""

from __future__ import annotations

from typing import Final

from peerload.clock import Clock
from peerload.metadata.coalesced import Coalesced, Pace
from peerload.metadata.records import SourceKey
from peerload.store.base import Entry, Store

__all__ = ["Confirm"]

_PER_SECOND: Final = 2_000
_BURST: Final = 500
_SOURCES_PER_SECOND: Final = 200
_CROWDED: Final = "more is asked of the store than it can answer soon; try again"


class Confirm:
    """Reads from the store, coalesced by what is asked, bounded in rate and in number: both raise `Overloaded`."""

    def __init__(self, store: Store, clock: Clock) -> None:
        entries = Pace(clock, _PER_SECOND, _BURST)
        sources = Pace(clock, _SOURCES_PER_SECOND, _SOURCES_PER_SECOND)

        async def list_source(source_id: str) -> tuple[Entry, ...]:
            return (await store.list(SourceKey.prefix_of(source_id))).entries

        self._entries: Coalesced[Entry | None] = Coalesced(store.get, entries, crowded=_CROWDED)
        self._sources: Coalesced[tuple[Entry, ...]] = Coalesced(list_source, sources, crowded=_CROWDED)

    async def entry(self, key: str) -> Entry | None:
        """The entry as the store held it at a moment after this call began."""
        return await self._entries.read(key)

    async def source(self, source_id: str) -> tuple[Entry, ...]:
        """All entries of one source, likewise."""
        return await self._sources.read(source_id)

    async def close(self) -> None:
        """End the reads in flight."""
        await self._entries.close()
        await self._sources.close()
