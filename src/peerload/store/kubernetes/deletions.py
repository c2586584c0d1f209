"""Deletions: of what was judged, and nothing else."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final, Literal

from peerload.errors import Unavailable
from peerload.store.base import Any
from peerload.store.kubernetes.blobs import Blobs
from peerload.store.kubernetes.index import Index
from peerload.store.kubernetes.objects import Record, mark_patch
from peerload.store.kubernetes.records import Records
from peerload.store.kubernetes.reflector import Reflector
from peerload.store.kubernetes.resources import Resources
from peerload.store.kubernetes.trouble import Moved, NotThere

__all__ = ["Deletions"]

_ATTEMPTS: Final = 20
_END_SECONDS: Final = 1.5
"""How long the watch may take to tell of a deletion."""


class Deletions:
    """The deletions of one server."""

    def __init__(
        self,
        resources: Resources,
        index: Index,
        reflector: Reflector,
        records: Records,
        blobs: Blobs,
        *,
        shares: Callable[[str], bool],
    ) -> None:
        self._resources = resources
        self._index = index
        self._reflector = reflector
        self._records = records
        self._blobs = blobs
        self._shares = shares

    async def delete(self, key: str, expect: int | Literal[Any.ANY], unless_beaten_since: int | None) -> int:
        """As `Store.delete`; the key is well-formed."""
        record, asked = self._records.find(key), False
        for _ in range(_ATTEMPTS):
            if record is None or self._records.differs(record, expect):
                if asked or self._records.over(record, expect):
                    raise self._records.conflict(key, record)
                record, asked = await self._records.ask(key), True
                continue
            try:
                if unless_beaten_since is not None:
                    record = await self._still_unbeaten(record, unless_beaten_since, asked=asked)
                    if record is None:
                        record, asked = await self._records.ask(key), True
                        continue
                conditional = expect is not Any.ANY or unless_beaten_since is not None
                with self._reflector.deletion(record.uid) as ended:
                    await self._resources.delete(
                        record.name, uid=record.uid, version=record.version if conditional else None
                    )
                    version = await self._ended(ended)
            except (Moved, NotThere):
                record, asked = await self._records.ask(key), True
                continue
            self._blobs.remove_later(record.blob)
            return self._index.base + version
        raise Unavailable(f"{key!r} is written by others over and over; try again")

    async def _still_unbeaten(self, record: Record, since: int, *, asked: bool) -> Record | None:
        """The record as it may be deleted; None if it must be asked for first. Raises `Conflict`, `Moved`, `NotThere`.

        A heartbeat that is kept in a shared object does not move the record. So the record is marked first: what came
        before the mark has been seen when the watch brings it, and who shares a heartbeat after it finds the mark and
        writes into the record as well, which moves it.
        """
        if self._shares(record.key):
            record = await self._records.patch(record, mark_patch(record, secrets.token_hex(6)))
            await self._reflector.reached(record.version)
        beat = self._index.beat_of(record)
        if beat is None or beat.stamp <= since:
            return record
        if not self._shares(record.key) and not asked:
            return None
        raise self._records.conflict(record.key, record)

    async def _ended(self, ended: asyncio.Future[int]) -> int:
        try:
            async with asyncio.timeout(_END_SECONDS):
                return await ended
        except TimeoutError:
            self._reflector.suspect()
            raise Unavailable("the entry is deleted, but the watch does not tell of it") from None
