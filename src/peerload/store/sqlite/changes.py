"""The writes, one class each: what it checks, what it changes. They run in the writer's transaction.

A change raises before its first statement that writes, or not at all; so one that is refused leaves the others of its
transaction alone.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from peerload.errors import Conflict
from peerload.store.base import ABSENT, Any, Beat, Expect, Keep, Touch, Touched, Written
from peerload.store.values import check_beat, check_key

__all__ = ["Change", "DeleteChange", "PutChange", "TouchChange"]

_LOG_BEATS: Final = 5_000
"""Beats in one row of the log."""
_RAISE: Final = tuple(
    (size, f"INSERT OR REPLACE INTO beats (generation, stamp, load) VALUES {','.join(['(?, ?, ?)'] * size)}")
    for size in (256, 32, 4, 1)
)
"""Statements that raise so many beats at once, few enough for SQLite to keep them prepared. With `executemany` the interpreter
lock would change hands at every beat."""


@dataclass(frozen=True, slots=True)
class _Held:
    generation: int
    revision: int
    stamp: int | None

    @classmethod
    def find(cls, connection: sqlite3.Connection, key: str) -> _Held | None:
        row = connection.execute(
            "SELECT e.generation, e.revision, b.stamp FROM entries e LEFT JOIN beats b ON b.generation = e.generation"
            " WHERE e.key = ?",
            (key,),
        ).fetchone()
        return None if row is None else cls(*row)


@dataclass(frozen=True, slots=True)
class PutChange:
    """A put; `text` is the value as JSON."""

    key: str
    text: str
    blob: bytes | Keep
    expect: Expect
    beat: Beat | None

    durable = True

    @property
    def size(self) -> int:
        """About how many bytes it writes."""
        return 200 + len(self.text) + (0 if isinstance(self.blob, Keep) else len(self.blob))

    def apply(self, connection: sqlite3.Connection, now: int) -> Written:
        """Do it. Raises `Conflict`."""
        held = _Held.find(connection, self.key)
        if (self.expect is ABSENT and held is not None) or (
            isinstance(self.expect, int) and (held is None or held.revision != self.expect)
        ):
            raise Conflict(self.key, None if held is None else held.revision)
        revision = _log(connection, now, "put", self.key)
        size = None if isinstance(self.blob, Keep) else len(self.blob)
        if held is None:
            generation = revision
            connection.execute(
                "INSERT INTO entries (generation, key, revision, blob_size, value) VALUES (?, ?, ?, ?, ?)",
                (generation, self.key, revision, size, self.text),
            )
        elif isinstance(self.blob, Keep):
            generation = held.generation
            connection.execute(
                "UPDATE entries SET revision = ?, value = ? WHERE generation = ?", (revision, self.text, generation)
            )
        else:
            generation = revision
            _forget(connection, held.generation)
            connection.execute(
                "UPDATE entries SET generation = ?, revision = ?, blob_size = ?, value = ? WHERE generation = ?",
                (generation, revision, size, self.text, held.generation),
            )
        if not isinstance(self.blob, Keep):
            connection.execute("INSERT INTO blobs (generation, data) VALUES (?, ?)", (generation, self.blob))
        if self.beat is not None and (
            held is None or held.stamp is None or generation == revision or self.beat.stamp > held.stamp
        ):
            connection.execute(
                "INSERT OR REPLACE INTO beats (generation, stamp, load) VALUES (?, ?, ?)",
                (generation, self.beat.stamp, self.beat.load),
            )
        return Written(revision, generation)


@dataclass(frozen=True, slots=True)
class DeleteChange:
    """A deletion."""

    key: str
    expect: int | Literal[Any.ANY]
    unless_beaten_since: int | None

    durable = True
    size = 200

    def apply(self, connection: sqlite3.Connection, now: int) -> int:
        """Do it. Raises `Conflict`."""
        held = _Held.find(connection, self.key)
        if held is None:
            raise Conflict(self.key, None)
        since = self.unless_beaten_since
        late = since is not None and held.stamp is not None and held.stamp > since
        if late or (isinstance(self.expect, int) and held.revision != self.expect):
            raise Conflict(self.key, held.revision)
        revision = _log(connection, now, "delete", self.key)
        _forget(connection, held.generation)
        connection.execute("DELETE FROM entries WHERE generation = ?", (held.generation,))
        return revision


@dataclass(frozen=True, slots=True)
class TouchChange:
    """A batch of touches."""

    touches: Sequence[Touch]

    durable = False

    @property
    def size(self) -> int:
        """About how many bytes it writes."""
        return 100 * len(self.touches)

    def apply(self, connection: sqlite3.Connection, now: int) -> list[Touched]:
        """Do it. Raises `InvalidArgument`."""
        for touch in self.touches:
            check_key(touch.key)
            check_beat(touch.beat)
        held = self._held(connection)
        raised: dict[int, Touch] = {}
        answers: list[Touched] = []
        for touch in self.touches:
            found = held.get(touch.generation)
            if found is None or found[0] != touch.key:
                answers.append(Touched.MISSING)
                continue
            key, revision, stamp = found
            changed = touch.revision is not None and touch.revision != revision
            if stamp is not None and stamp >= touch.beat.stamp:
                answers.append(Touched.CHANGED if changed else Touched.OLDER)
            else:
                answers.append(Touched.CHANGED if changed else Touched.APPLIED)
                held[touch.generation] = (key, revision, touch.beat.stamp)
                raised[touch.generation] = touch
        if raised:
            self._raise(connection, now, sorted(raised.items()))
        return answers

    def _held(self, connection: sqlite3.Connection) -> dict[int, tuple[str, int, int | None]]:
        # One statement for all, and one row: the interpreter lock is let go of, and has to be had again, for every row that a
        # statement gives, and there are those in the event loop who want it too.
        wanted = sorted({touch.generation for touch in self.touches if 0 < touch.generation < 1 << 63})
        (found,) = connection.execute(
            "SELECT json_group_array(json_array(e.generation, e.key, e.revision, b.stamp))"
            " FROM json_each(?) w CROSS JOIN entries e ON e.generation = w.value"
            " LEFT JOIN beats b ON b.generation = e.generation",
            (json.dumps(wanted, separators=(",", ":")),),
        ).fetchone()
        return {generation: (key, revision, stamp) for generation, key, revision, stamp in json.loads(found)}

    @staticmethod
    def _raise(connection: sqlite3.Connection, now: int, raised: list[tuple[int, Touch]]) -> None:
        start = 0
        for size, statement in _RAISE:
            while len(raised) - start >= size:
                part = itertools.islice(raised, start, start + size)
                connection.execute(
                    statement,
                    [each for generation, touch in part for each in (generation, touch.beat.stamp, touch.beat.load)],
                )
                start += size
        for start in range(0, len(raised), _LOG_BEATS):
            beats = [
                (touch.key, generation, touch.beat.stamp, touch.beat.load)
                for generation, touch in itertools.islice(raised, start, start + _LOG_BEATS)
            ]
            connection.execute(
                "INSERT INTO log (at, kind, beats) VALUES (?, 'beats', ?)",
                (now, json.dumps(beats, ensure_ascii=False, separators=(",", ":"))),
            )


Change: TypeAlias = PutChange | DeleteChange | TouchChange


def _log(connection: sqlite3.Connection, now: int, kind: str, key: str) -> int:
    revision = connection.execute("INSERT INTO log (at, kind, key) VALUES (?, ?, ?)", (now, kind, key)).lastrowid
    assert revision is not None
    return revision


def _forget(connection: sqlite3.Connection, generation: int) -> None:
    connection.execute("DELETE FROM blobs WHERE generation = ?", (generation,))
    connection.execute("DELETE FROM beats WHERE generation = ?", (generation,))
