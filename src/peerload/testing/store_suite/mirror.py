"""What a reader of the feed makes of it."""

from __future__ import annotations

from collections.abc import Iterable

from peerload.store.base import Beat, Change, Deleted, Entry, Feed, Listing, Position, Put

__all__ = ["Mirror"]


class Mirror:
    """Entries as a reader knows them who applies, per key, only what is newer than what it holds.

    Raises `AssertionError` where one run of the feed goes back in time for a key; `rewind` starts a new run.
    """

    def __init__(self, listing: Listing | None = None) -> None:
        self.entries: dict[str, Entry] = {}
        self.deleted: dict[str, int] = {}
        self.changes: list[Change] = []
        self.position: Position | None = None
        self._run: dict[str, int] = {}
        if listing is not None:
            self.position = listing.position
            self.entries = {entry.key: entry for entry in listing.entries}

    def rewind(self) -> None:
        """A watch ended, and another begins at `position`."""
        self._run.clear()

    def apply(self, feed: Feed) -> None:
        """Take a batch in."""
        for change in feed.changes:
            self.changes.append(change)
            if isinstance(change, Put):
                self._in_order(change.entry.key, change.entry.revision)
                self._put(change.entry)
            elif isinstance(change, Deleted):
                self._in_order(change.key, change.revision)
                self._delete(change)
            else:
                held = self.entries.get(change.key)
                if held is not None and held.generation == change.generation:
                    self.entries[change.key] = held._replace(beat=_later(held.beat, change.beat))
        self.position = feed.position

    def _put(self, entry: Entry) -> None:
        held = self.entries.get(entry.key)
        known = max(self.deleted.get(entry.key, 0), 0 if held is None else held.revision)
        if entry.revision < known:
            return
        if held is not None and held.generation == entry.generation:
            entry = entry._replace(beat=_later(held.beat, entry.beat))
        self.entries[entry.key] = entry

    def _delete(self, change: Deleted) -> None:
        held = self.entries.get(change.key)
        if held is None or held.revision < change.revision:
            self.entries.pop(change.key, None)
            self.deleted[change.key] = max(self.deleted.get(change.key, 0), change.revision)

    def _in_order(self, key: str, revision: int) -> None:
        assert revision >= self._run.get(key, 0), f"the feed goes back in time for {key!r}"
        self._run[key] = revision


def revisions(changes: Iterable[Change]) -> list[tuple[str, int]]:
    """The key and revision of every put and deletion, in order, each once."""
    seen: dict[tuple[str, int], None] = {}
    for change in changes:
        if isinstance(change, Put):
            seen[change.entry.key, change.entry.revision] = None
        elif isinstance(change, Deleted):
            seen[change.key, change.revision] = None
    return list(seen)


def _later(held: Beat | None, given: Beat | None) -> Beat | None:
    if held is None or given is None:
        return held or given
    return given if given.stamp > held.stamp else held
