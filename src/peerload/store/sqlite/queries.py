"""The reads, each in one transaction of its connection. They run in the readers' threads."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from peerload.errors import Compacted, Damaged, NotFound
from peerload.store.base import Beat, Beaten, Change, Deleted, Entry, Listing, Position, Put
from peerload.store.damage import readable, relisted
from peerload.store.sqlite.layout import transaction
from peerload.store.values import decode_value

__all__ = [
    "PAGE_ROWS",
    "Batch",
    "Page",
    "find_blob",
    "find_entry",
    "list_entries",
    "list_page",
    "read_feed",
    "trim_feed",
]

_ENTRY: Final = "e.key, e.value, e.revision, e.generation, e.blob_size, b.stamp, b.load"
_ENTRIES: Final = "entries e LEFT JOIN beats b ON b.generation = e.generation"

PAGE_ROWS: Final = 500
"""Entries in one part of a listing: what a server makes of them must not hold it up."""
_BATCH_ROWS: Final = 1_000
_BATCH_CHARACTERS: Final = 4_000_000
"""A batch of the feed ends after the row that reaches this."""
_TRIM_ROWS: Final = 2_000
_FUTURE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Batch:
    """What one read of the feed came to. `more`: there is more to read at once."""

    changes: tuple[Change, ...]
    position: Position
    more: bool


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing, and the key from which it goes on; None after the last."""

    listing: Listing
    more: str | None


def find_entry(connection: sqlite3.Connection, key: str) -> Entry | None:
    """The entry, or None."""
    row = connection.execute(f"SELECT {_ENTRY} FROM {_ENTRIES} WHERE e.key = ?", (key,)).fetchone()
    return None if row is None else _entry(row)


def find_blob(connection: sqlite3.Connection, key: str, generation: int) -> bytes:
    """The blob of that generation. Raises `NotFound`."""
    row = None
    if 0 < generation < 1 << 63:
        row = connection.execute(
            "SELECT b.data FROM blobs b JOIN entries e USING (generation) WHERE generation = ? AND e.key = ?",
            (generation, key),
        ).fetchone()
    if row is None:
        raise NotFound(f"entry {key!r} has no blob of generation {generation}")
    return bytes(row[0])


def list_entries(connection: sqlite3.Connection, prefix: str) -> Listing:
    """The entries under a prefix, and the position of the same moment."""
    return list_page(connection, prefix, prefix, -1).listing


def list_page(connection: sqlite3.Connection, prefix: str, start: str, rows: int) -> Page:
    """So many of the entries under a prefix (less than 0: all), from the key `start` on, and the position of the same moment."""
    # Text compares by its UTF-8 bytes, which is the order of code points.
    where, bounds = "e.key >= ?", [start]
    end = _after(prefix)
    if end is not None:
        where += " AND e.key < ?"
        bounds.append(end)
    with transaction(connection):
        epoch, _ = _feed(connection)
        last = last_row(connection)
        found = connection.execute(
            f"SELECT {_ENTRY} FROM {_ENTRIES} WHERE {where} ORDER BY e.key LIMIT ?", (*bounds, rows)
        ).fetchall()
    # No key lies between another and the same with a NUL after it.
    more = found[-1][0] + "\0" if len(found) == rows else None
    return Page(Listing(tuple(readable(_entry, found)), _position(epoch, last)), more)


def read_feed(connection: sqlite3.Connection, position: Position, prefix: str) -> Batch:
    """The changes after a position, as many as make a batch. Raises `Compacted`.

    A put is answered with the entry as it is now: where the entry has changed again, a later row says so, and this one
    is left out.
    """
    with transaction(connection):
        epoch, trimmed = _feed(connection)
        last = last_row(connection)
        seen = _number(position, epoch, trimmed, last)
        rows = connection.execute(
            f"SELECT l.id, l.kind, l.key, l.beats, {_ENTRY} FROM log l"
            " LEFT JOIN entries e ON l.kind = 'put' AND e.key = l.key AND e.revision = l.id"
            " LEFT JOIN beats b ON b.generation = e.generation"
            " WHERE l.id > ? ORDER BY l.id LIMIT ?",
            (seen, _BATCH_ROWS),
        )
        changes: list[Change] = []
        characters = 0
        more = False
        for number, (row_id, kind, key, beats, *entry) in enumerate(rows, start=1):
            seen = row_id
            characters += len(beats or "") + len(entry[1] or "")
            try:
                found = _changes(row_id, kind, key, beats, entry)
            except Damaged as error:
                raise relisted(error) from error
            changes.extend(change for change in found if _key(change).startswith(prefix))
            if number == _BATCH_ROWS or characters >= _BATCH_CHARACTERS:
                more = True
                break
        rows.close()
        if not more:
            seen = last
    return Batch(tuple(changes), _position(epoch, seen), more)


def trim_feed(connection: sqlite3.Connection, now: int, keep_ms: int) -> bool:
    """Drop the oldest rows of the log, a limited number at once; whether there may be more to drop. Runs in the
    writer's transaction."""
    # A row from the future was written before the host's clock was set back; it would keep all later ones.
    cutoff, future = now - keep_ms, now + _FUTURE_MS
    last = dropped = 0
    for row_id, at in connection.execute("SELECT id, at FROM log ORDER BY id LIMIT ?", (_TRIM_ROWS,)):
        if cutoff <= at <= future:
            break
        last, dropped = row_id, dropped + 1
    if dropped:
        connection.execute("DELETE FROM log WHERE id <= ?", (last,))
        connection.execute("UPDATE feed SET trimmed = ?", (last,))
    return dropped == _TRIM_ROWS


def _changes(row_id: int, kind: str, key: str | None, beats: str | None, entry: Sequence[Any]) -> list[Change]:
    if kind == "put":
        return [] if entry[0] is None else [Put(_entry(entry))]
    if kind == "delete" and key is not None:
        return [Deleted(key, row_id)]
    return [
        Beaten(beaten, generation, Beat(stamp, load)) for beaten, generation, stamp, load in json.loads(beats or "[]")
    ]


def _entry(row: Sequence[Any]) -> Entry:
    key, value, revision, generation, blob_size, stamp, load = row
    beat = None if stamp is None else Beat(stamp, load)
    try:
        return Entry(key, decode_value(value), revision, generation, beat, blob_size)
    except (ValueError, TypeError) as error:
        raise Damaged(f"the value of entry {key!r} cannot be read: {error}") from error


def _key(change: Change) -> str:
    return change.entry.key if isinstance(change, Put) else change.key


def _feed(connection: sqlite3.Connection) -> tuple[str, int]:
    epoch, trimmed = connection.execute("SELECT epoch, trimmed FROM feed").fetchone()
    return str(epoch), int(trimmed)


def last_row(connection: sqlite3.Connection) -> int:
    """The number of the last row that was written to the log, whether or not it is still there."""
    return int(connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'log'").fetchone()[0])


def _position(epoch: str, number: int) -> Position:
    return Position(f"{epoch}.{number}")


def _number(position: Position, epoch: str, trimmed: int, last: int) -> int:
    given, _, number = position.partition(".")
    if given != epoch or not number.isdecimal() or len(number) > 20 or int(number) > last:
        raise Compacted("the position is not one of this store's feed")
    if int(number) < trimmed:
        raise Compacted("the feed no longer reaches back to the reader's position")
    return int(number)


def _after(prefix: str) -> str | None:
    """The first text after all that begin with the prefix; None if nothing follows them."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    code = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if code == 0xD800 else code)  # surrogates are no characters
