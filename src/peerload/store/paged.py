"""A listing in parts, from stores that can give it so.

A server that starts, or lists again, makes much of every entry and keeps little. Where it gets them page by page, what it does
not keep is never all there at once: neither does it take memory, nor does it leave holes in what is kept.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol, runtime_checkable

from peerload.store.base import Listing, Store

__all__ = ["Paged", "pages"]


@runtime_checkable
class Paged(Protocol):
    """A store that reads a listing in parts. One that does not is a store all the same."""

    def pages(self, prefix: str = "") -> AsyncGenerator[Listing, None]:
        """What `Store.list` answers, in parts: one at least, in order of their keys, all with the position of the first.

        Entries are read when they are asked for, so later parts may be newer than the first; each is as new as the position at
        least. Raises what `list` raises, at any part, and `Compacted` where the store was emptied meanwhile: what it gave is no
        part of any listing then.
        """
        ...


async def pages(store: Store, prefix: str = "") -> AsyncGenerator[Listing, None]:
    """A store's listing in parts; in one if the store gives no others. To be closed (`contextlib.aclosing`)."""
    if not isinstance(store, Paged):
        yield await store.list(prefix)
        return
    async with aclosing(store.pages(prefix)) as parts:
        async for part in parts:
            yield part
