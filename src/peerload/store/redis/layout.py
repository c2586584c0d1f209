"""What is kept under which key, and its text forms. `lua/common.lua` writes them; here they are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from peerload.errors import Compacted, Damaged
from peerload.store.base import Beat, Beaten, Change, Deleted, Entry, Position, Put
from peerload.store.redis.place import RedisPlace
from peerload.store.values import decode_beat, decode_value

__all__ = ["LAYOUT", "Keys", "load_text", "read_changes", "read_entry", "read_position", "write_position"]

LAYOUT: Final = b"1"
"""Which layout this is; Redis holds it beside the entries."""
_DIGITS: Final = 20


class Keys:
    """The names of the keys in one namespace."""

    def __init__(self, place: RedisPlace) -> None:
        self.meta = place.name("meta")
        self.feed = place.name("feed")
        self.beats = place.name("beats")
        self.common = (self.meta, place.name("entries"), self.beats, place.name("index"), self.feed)
        self._blob = place.name("blob:")

    def blob(self, key: str) -> str:
        """The key of an entry's blob."""
        return self._blob + key


def load_text(beat: Beat) -> str:
    """A beat's load as text that reads back as the same number; empty for none."""
    return "" if beat.load is None else repr(float(beat.load))


def read_entry(key: bytes, entry: bytes | None, beat: bytes | None) -> Entry:
    """An entry from its fields in the two hashes. Raises `Damaged`."""
    try:
        if entry is None or beat is None:
            raise ValueError("a part is missing")
        revision, generation, size, value = entry.split(b" ", 3)
        beats_generation, beats_revision, *rest = beat.split(b" ")
        if (beats_generation, beats_revision) != (generation, revision):
            raise ValueError("its beat is of another revision")
        return Entry(
            key=key.decode(),
            value=decode_value(value),
            revision=int(revision),
            generation=int(generation),
            beat=decode_beat(*rest) if rest else None,
            blob_size=None if size == b"-" else int(size),
        )
    except (ValueError, TypeError) as error:
        raise Damaged(f"Redis holds entry {key!r} in a form that cannot be read: {error}") from error


def read_changes(items: list[Any], seen: int) -> tuple[tuple[Change, ...], int]:
    """The changes in items of the feed, and the revision of the last one. Raises `Compacted` where the first is not
    the one that followed `seen`, or one is missing in between, and `Damaged`."""
    changes: list[Change] = []
    for item_id, flat in items:
        try:
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            if int(fields[b"p"]) != seen:
                raise Compacted("the feed no longer reaches back to the reader's position")
            seen = int(item_id.partition(b"-")[0])
            changes += _changes(fields, seen)
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise Damaged(
                f"Redis holds item {item_id!r} of the feed in a form that cannot be read: {error!r}"
            ) from error
    return tuple(changes), seen


def _changes(fields: Mapping[bytes, bytes], revision: int) -> Iterator[Change]:
    if b"v" in fields:
        yield Put(read_entry(fields[b"k"], fields[b"v"], fields[b"b"]))
    elif b"d" in fields:
        yield Deleted(fields[b"d"].decode(), revision)
    else:
        touches = iter(json.loads(fields[b"t"]))
        for key, generation, stamp, load in zip(touches, touches, touches, touches, strict=True):
            if not isinstance(key, str):
                raise ValueError("a key is not text")
            yield Beaten(key, int(generation), decode_beat(stamp, load))


def write_position(epoch: str, revision: int) -> Position:
    """A position in the feed of that epoch."""
    return Position(f"{epoch}.{revision}")


def read_position(position: Position) -> tuple[str, int]:
    """The epoch and the revision. Raises `Compacted` for what is no position."""
    epoch, _, revision = position.partition(".")
    if not (epoch and revision.isascii() and revision.isdecimal() and len(revision) <= _DIGITS):
        raise Compacted("the position is not one of this store's feed")
    return epoch, int(revision)
