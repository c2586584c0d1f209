"""Forgetting the dead, in two steps, each of which a sign of life undoes."""

from __future__ import annotations

from typing import Final, NamedTuple

import structlog

from peerload.clock import Clock
from peerload.errors import Conflict, Unavailable
from peerload.metadata.directory.directory import Directory
from peerload.metadata.directory.held import Held
from peerload.metadata.records import Mark, Status, with_status
from peerload.metadata.settings import MetadataSettings
from peerload.store.base import Store

__all__ = ["Reaper", "Swept"]

_log = structlog.stdlib.get_logger(__name__)

_EPISODE_KEPT_MS: Final = 600_000
"""How long beyond its use a dead server's episode is kept."""


class Swept(NamedTuple):
    """What one sweep did: sources marked stale, sources removed."""

    marked: int
    removed: int


class Reaper:
    """Marks sources stale whose heartbeat has run out, and removes them when the garbage-collection time has passed
    since. Every server may run one: writes are conditional on what was judged, so a second one does nothing, and a
    heartbeat that comes in between wins."""

    def __init__(self, store: Store, directory: Directory, clock: Clock, settings: MetadataSettings) -> None:
        self._store = store
        self._directory = directory
        self._clock = clock
        self._settings = settings
        self.sweeps = 0
        self.broken_off = 0
        """Sweeps that an outage ended."""
        self.marked = 0
        self.removed = 0
        """Sources, since the start, by this server."""

    async def run(self) -> None:
        """Sweep every `reaper_interval` until cancelled; an outage ends a sweep, not the reaper."""
        while True:
            await self._clock.sleep(self._settings.reaper_interval)
            try:
                await self.sweep()
            except Unavailable as error:
                self.broken_off += 1
                _log.warning("a sweep was broken off", error=str(error))

    async def sweep(self) -> Swept:
        """Look once. Raises `Unavailable`. Does nothing while servers and feed have not been up for long enough."""
        before = Swept(self.marked, self.removed)
        self._directory.sweep()
        self.sweeps += 1
        for key, held in self._directory.expired():
            # Asked again each time: writing takes a while, and the feed may have broken off meanwhile.
            if not self._directory.settled:
                return self._since(before)
            self.marked += await self._mark(key, held)
        gc_ms = round(self._settings.gc_timeout * 1000)
        now = self._directory.now()
        for key, held in list(self._directory.marked.items()):
            if not self._directory.settled:
                return self._since(before)
            mark = held.record.mark
            if mark is not None and self._directory.liveness.age(mark.since, now) >= gc_ms:
                self.removed += await self._remove(key, held.record.store_revision, mark.judged)
        await self._forget_servers(now)
        swept = self._since(before)
        if swept.marked or swept.removed:
            _log.info("reaped", marked=swept.marked, removed=swept.removed)
        return swept

    def _since(self, before: Swept) -> Swept:
        return Swept(self.marked - before.marked, self.removed - before.removed)

    async def _mark(self, key: str, held: Held) -> bool:
        revision, judged = held.record.store_revision, held.stamp
        entry = await self._store.get(key)
        if entry is None or entry.revision != revision or (entry.beat is not None and entry.beat.stamp > judged):
            return False
        mark = Mark(since=self._store.now(), judged=judged, was=held.record.status)
        try:
            # A heartbeat that comes in from here on is later than `judged`, and undoes the mark.
            await self._store.put(key, with_status(entry.value, Status.STALE, mark), expect=revision)
        except Conflict:
            return False
        return True

    async def _remove(self, key: str, revision: int, judged: int) -> bool:
        try:
            await self._store.delete(key, expect=revision, unless_beaten_since=judged)
        except Conflict:
            return False
        return True

    async def _forget_servers(self, now: int) -> None:
        liveness = self._directory.liveness
        if not self._directory.settled:
            return
        horizon = liveness.cutoff(now) - _EPISODE_KEPT_MS
        for key, episode in list(liveness.episodes.items()):
            if episode.until < horizon:
                await self._remove(key, episode.revision, episode.until)
