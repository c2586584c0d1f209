"""Following the store: list, watch, and list again where the feed does not reach back."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from peerload.clock import Clock
from peerload.errors import Compacted, Unavailable
from peerload.store.base import Entry, Feed, Position, Store
from peerload.store.paged import pages
from peerload.tally import SIZES, Histogram

__all__ = ["FeedTally", "Reader", "follow"]

_log = structlog.stdlib.get_logger(__name__)

_RETRY_SECONDS: Final = 0.25
_RETRY_MAX_SECONDS: Final = 0.5
"""Less than the time that a write waits to be seen: it may reach a store that is back before this notices."""


class Reader(Protocol):
    """What is kept up to date by the feed; each picks the keys that concern it."""

    def begin_list(self) -> None:
        """The store is listed anew: what is in none of the parts that follow is no longer there."""
        ...

    def take_listed(self, entries: Sequence[Entry]) -> None:
        """Take in a part of the listing, in place of what is known of these keys."""
        ...

    def end_list(self) -> None:
        """The listing is complete. If it breaks off instead, another begins."""
        ...

    def apply(self, feed: Feed) -> None:
        """Take in some changes."""
        ...


class FeedTally:
    """A reader that counts what comes."""

    def __init__(self) -> None:
        self.listings = 0
        self.batches = Histogram(SIZES)
        """Changes in each batch that had any; its sum is how many there were."""

    def begin_list(self) -> None: ...

    def take_listed(self, entries: Sequence[Entry]) -> None: ...

    def end_list(self) -> None:
        self.listings += 1

    def apply(self, feed: Feed) -> None:
        if feed.changes:
            self.batches.observe(len(feed.changes))


async def follow(store: Store, readers: tuple[Reader, ...], clock: Clock) -> None:
    """Keep the readers up to date until cancelled. Outages are waited out; a watch goes on where it broke off."""
    position: Position | None = None
    delay = _RETRY_SECONDS
    failing = False
    while True:
        try:
            if position is None:
                position = await _list(store, readers)
            # Closed at once, not whenever it is collected: a store may keep a connection for it.
            async with contextlib.aclosing(store.watch(position)) as feeds:
                async for feed in feeds:
                    for reader in readers:
                        reader.apply(feed)
                    position = feed.position
                    delay = _RETRY_SECONDS
                    if failing:
                        failing = False
                        _log.info("the store can be reached again", store=store.url)
        except Compacted:
            _log.info("the feed does not reach back; listing again", store=store.url)
            position = None
            await clock.sleep(delay)
        except Unavailable as error:
            if not failing:
                failing = True
                _log.warning("the store cannot be reached", store=store.url, error=str(error))
            await clock.sleep(delay)
            delay = min(delay * 2, _RETRY_MAX_SECONDS)


async def _list(store: Store, readers: tuple[Reader, ...]) -> Position:
    """Have the readers take a listing; where it was made. Nobody holds on to its parts: all are as large as what is made of
    them, and between two of them others have their turn."""
    for reader in readers:
        reader.begin_list()
    position: Position | None = None
    async with contextlib.aclosing(pages(store)) as parts:
        async for part in parts:
            for reader in readers:
                reader.take_listed(part.entries)
            position = part.position
    assert position is not None
    for reader in readers:
        reader.end_list()
    return position
