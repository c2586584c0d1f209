"""What is read of many entries at once: the feed's next changes, and everything under a prefix."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from peerload.errors import Compacted, Damaged
from peerload.store.base import Change, Entry
from peerload.store.damage import readable, relisted
from peerload.store.redis.layout import LAYOUT, Keys, read_changes, read_entry
from peerload.store.redis.link import Link, Replies
from peerload.store.redis.place import RedisPlace
from peerload.store.redis.pool import Pool, checked
from peerload.store.redis.scripts import script
from peerload.store.redis.trouble import NewerLayout

__all__ = ["Reading"]

_BATCH_ITEMS: Final = 128
"""Items of the feed in one read; one may hold thousands of heartbeats."""
_PAGE_ENTRIES: Final = 500
_FEED_SECONDS: Final = 2.0
_PAGE_SECONDS: Final = 5.0


class Reading:
    """Reads of one namespace. It keeps nothing from one to the next."""

    def __init__(self, place: RedisPlace) -> None:
        self._place = place
        self._keys = Keys(place)

    async def feed(self, pool: Pool, epoch: str, seen: int) -> tuple[tuple[Change, ...], int, bool]:
        """The next changes, the revision of the last one, and whether there are more. Raises `Compacted`."""

        async def work(link: Link) -> Replies:
            # In this order: the items may then go beyond `last`, but never end before it. (Not a transaction, because
            # a Redis that is out of memory takes none, not even one that only reads.)
            replies = await link.ask(
                ("HMGET", self._keys.meta, "layout", "epoch", "last"),
                ("XRANGE", self._keys.feed, f"({seen}-0", "+", "COUNT", _BATCH_ITEMS),
            )
            return checked(link, replies)

        (layout, now_epoch, last), items = await pool.run(work, _FEED_SECONDS)
        if layout is not None and layout != LAYOUT:
            raise NewerLayout(f"{self._place.shown} was taken over by a newer Peerload (layout {layout.decode()})")
        if last is None or now_epoch != epoch.encode() or int(last) < seen:
            raise Compacted("the position is not one of this store's feed")
        try:
            changes, end = read_changes(items, seen)
        except Damaged as error:
            raise relisted(error) from error
        more = len(items) == _BATCH_ITEMS
        if not more and end < int(last):
            raise Compacted("the feed has lost its end")
        return changes, end, more

    async def pages(self, pool: Pool, prefix: bytes, epoch: str) -> AsyncGenerator[tuple[Entry, ...], None]:
        """All entries under a prefix, page by page. Raises `Compacted` if Redis was emptied meanwhile."""
        start, end = b"[" + prefix, b"(" + prefix + b"\xff"  # which is in no UTF-8
        while True:
            held_epoch, *flat = await self._page(pool, start, end)
            if held_epoch != epoch.encode():
                raise Compacted("Redis was emptied while it was listed")
            yield tuple(readable(lambda row: read_entry(*row), zip(flat[::3], flat[1::3], flat[2::3], strict=True)))
            if len(flat) < 3 * _PAGE_ENTRIES:
                return
            start = b"(" + flat[-3]

    async def _page(self, pool: Pool, start: bytes, end: bytes) -> Replies:
        """The epoch, and three replies for each of the next entries."""
        page = script("page")
        found: Replies
        (found,) = await pool.run(
            lambda link: page.run(link, self._keys.common, start, end, _PAGE_ENTRIES), _PAGE_SECONDS
        )
        return found
