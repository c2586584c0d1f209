"""Deletions: of what was judged, and nothing else.

Whoever deletes an entry marks its object first, and then deletes the object at the version that it has by the mark. So an
object that is gone with somebody's mark was deleted by them, even where the answer was lost. And a heartbeat that comes in
between saves the entry, though most do not touch its object: what was shared before the mark has been seen once the watch
brings the mark, and who shares one later finds the mark and writes into the object as well, which moves it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final, Literal

from peerload.errors import Unavailable
from peerload.kubernetes.trouble import Moved, NotThere, Outage
from peerload.store.base import Any
from peerload.store.kubernetes.blobs import Blobs
from peerload.store.kubernetes.index import Index
from peerload.store.kubernetes.objects import Record, mark_patch
from peerload.store.kubernetes.records import Records
from peerload.store.kubernetes.reflector import Reflector
from peerload.store.kubernetes.resources import Resources

__all__ = ["Deletions"]

_ATTEMPTS: Final = 20


class Deletions:
    """The deletions of one server. `shares` says of a key whether its heartbeats may be kept in shared objects alone."""

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
        mark = secrets.token_hex(8)
        record, asked = self._records.find(key), False
        for _ in range(_ATTEMPTS):
            if record is None or self._records.differs(record, expect):
                if asked or self._records.over(record, expect):
                    raise self._records.conflict(key, record)
                record, asked = await self._records.ask(key), True
                continue
            try:
                record = await self._marked(record, mark)
                if unless_beaten_since is not None:
                    await self._judge(record, unless_beaten_since)
                version = await self._end(record)
            except (Moved, NotThere):
                record, asked = await self._records.ask(key), True
                continue
            self._blobs.remove_later(record.blob)
            return self._index.base + version
        raise Unavailable(f"{key!r} is written by others over and over; try again")

    async def _marked(self, record: Record, mark: str) -> Record:
        """The record with our mark. Raises `Moved` and `NotThere`."""
        try:
            return await self._records.patch(record, mark_patch(record, mark))
        except Outage as error:
            found = await self._records.ask(record.key) if error.ambiguous else None
            if found is None or found.mark != mark:
                raise
            return found

    async def _judge(self, record: Record, since: int) -> None:
        """Raises `Conflict` for a record that was beaten later."""
        if self._shares(record.key):
            await self._reflector.reached(record.version)
        beat = self._index.beat_of(record)
        if beat is not None and beat.stamp > since:
            raise self._records.conflict(record.key, record)

    async def _end(self, record: Record) -> int:
        """Delete a record with our mark; the resourceVersion of its end. Raises `Moved` and `NotThere`."""
        with self._reflector.deletion(record.uid) as ended:
            try:
                await self._resources.delete(record.name, uid=record.uid, version=record.version)
            except Outage as error:
                if not error.ambiguous:
                    raise
                version = await self._told(ended, record.mark, error)
            else:
                version = await self._told(
                    ended, record.mark, Unavailable("the entry is deleted, but the watch does not tell of it")
                )
        return version

    async def _told(self, ended: asyncio.Future[tuple[int, str]], mark: str, otherwise: Unavailable) -> int:
        """What the watch tells of a deletion that was ours."""
        try:
            async with asyncio.timeout(self._reflector.back_seconds):
                version, found = await ended
        except TimeoutError:
            raise otherwise from None
        if found != mark and isinstance(otherwise, Outage):
            raise otherwise
        return version
