"""The store contract: entries, blobs, heartbeats, revisions and a feed, and nothing of what they mean.

A store keeps *entries*. An entry has a key, a small value (a flat JSON object, so that a person can read it with
the store's own tools), at most one large opaque *blob*, and at most one *beat* (the stamp and load of its last
heartbeat). Every change of an entry's value or blob gives it a new *revision*; revisions order the changes of one
entry and are never used twice, not even after a fail-over or a restart from empty. The *generation* of an entry is
the revision at which it was created or its blob last written.

Every change also appears in the *feed*, an ordered stream that a reader follows from a *position*. Positions belong
to the feed of one store and are opaque to everyone else.

What every method has in common:

- An outage raises `Unavailable`, within bounded time, and never looks like absence.
- A call that is cancelled, or that raises `Unavailable`, has taken effect wholly or not at all, and repeating it is
  safe. Cancelling leaves the store usable.
- Keys, and the keys and strings of values, are any Unicode text that UTF-8 can encode (NUL, newlines and slashes
  included); a key has 1 to `MAX_KEY_BYTES` bytes, a value at most `MAX_VALUE_BYTES` as JSON, a blob 0 to
  `MAX_BLOB_BYTES`. What is larger or malformed raises `InvalidArgument` before anything is written.
- All stamps are integers, milliseconds since 1970 on the store's clock (`Store.now`).

`peerload.testing.store_suite` is this contract as tests; every store and every wrapper passes it. What a store may offer
beside it is in `peerload.store.examinable`.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, NewType, Protocol, TypeAlias

__all__ = [
    "ABSENT",
    "ANY",
    "KEEP",
    "MAX_BLOB_BYTES",
    "MAX_KEY_BYTES",
    "MAX_VALUE_BYTES",
    "Absent",
    "Any",
    "Beat",
    "Beaten",
    "Change",
    "Deleted",
    "Entry",
    "Expect",
    "Feed",
    "Keep",
    "Listing",
    "Position",
    "Put",
    "Scalar",
    "Store",
    "Touch",
    "Touched",
    "Value",
    "Written",
]

MAX_KEY_BYTES: Final = 4096
MAX_VALUE_BYTES: Final = 256 * 1024
MAX_BLOB_BYTES: Final = 128 * 1024 * 1024

Scalar: TypeAlias = str | int | float | bool | None
Value: TypeAlias = Mapping[str, Scalar]
"""A flat JSON object. Readers ignore members that they do not know."""

Position = NewType("Position", str)
"""A place in one store's feed. Opaque; printable; compared by that store alone."""


class Keep(enum.Enum):
    """The type of `KEEP`: leave the blob as it is."""

    KEEP = "keep"


class Any(enum.Enum):
    """The type of `ANY`: write whatever is there."""

    ANY = "any"


class Absent(enum.Enum):
    """The type of `ABSENT`: write only if there is no such entry."""

    ABSENT = "absent"


KEEP: Final = Keep.KEEP
ANY: Final = Any.ANY
ABSENT: Final = Absent.ABSENT

Expect: TypeAlias = Literal[Any.ANY, Absent.ABSENT] | int
"""What the writer expects to find: `ANY`, `ABSENT`, or the very revision."""


class Beat(NamedTuple):
    """A heartbeat: when (milliseconds on the store's clock) and how loaded (0 to 1; None: not said)."""

    stamp: int
    load: float | None = None


class Entry(NamedTuple):
    """One entry as it was at one moment, without its blob."""

    key: str
    value: Value
    revision: int
    generation: int
    beat: Beat | None
    blob_size: int | None
    """Bytes in the blob; None where the entry has none (a blob of 0 bytes is a blob)."""


class Written(NamedTuple):
    """What a put came to."""

    revision: int
    generation: int


class Touch(NamedTuple):
    """One heartbeat on its way into the store, for the entry only while it is of that generation.

    `revision` is the one that the toucher knows of the entry, if it cares to hear that there is a later one.
    """

    key: str
    generation: int
    beat: Beat
    revision: int | None = None


class Touched(enum.Enum):
    """What became of a touch."""

    APPLIED = "applied"
    OLDER = "older"
    """The entry holds a beat with the same or a later stamp; nothing was changed."""
    MISSING = "missing"
    """There is no such entry, or it is of another generation; nothing was changed, nothing is ever resurrected."""
    CHANGED = "changed"
    """The entry is at another revision than the touch named; its beat was raised if the stamp is later."""


class Put(NamedTuple):
    """Feed: the entry's value or blob changed; here is the whole entry, at least as new as the change."""

    entry: Entry


class Deleted(NamedTuple):
    """Feed: the entry was deleted, at this revision (later than every revision that the entry had)."""

    key: str
    revision: int


class Beaten(NamedTuple):
    """Feed: the entry's beat was raised."""

    key: str
    generation: int
    beat: Beat


Change: TypeAlias = Put | Deleted | Beaten


@dataclass(frozen=True, slots=True)
class Feed:
    """Some consecutive changes, and the position from which the feed goes on after them.

    `changes` may be empty: then the batch only says that the store is there and the reader is up to date.
    """

    changes: tuple[Change, ...]
    position: Position


@dataclass(frozen=True, slots=True)
class Listing:
    """Entries in key order, each at least as new as `position`."""

    entries: tuple[Entry, ...]
    position: Position


class Store(Protocol):
    """The contract. Methods may be called from many tasks of one event loop at once."""

    @property
    def url(self) -> str:
        """What the store is, for people: its URL without secrets."""
        ...

    @property
    def pace(self) -> float:
        """How often the store wants heartbeats: seconds for which a writer lets them gather before it touches them all in
        one batch. 0 for a store to which it makes no difference. What waits for its answer need not wait for that."""
        ...

    async def open(self) -> None:
        """Connect, create or check what is kept there. Raises `Unavailable`, or `InvalidArgument` for a place that
        cannot be a store (an unknown newer layout, a network file system …)."""
        ...

    async def close(self) -> None:
        """Let go of everything. Calls and watches in flight raise `Unavailable`. Closing twice is allowed."""
        ...

    def now(self) -> int:
        """The store's clock in milliseconds since 1970, steady between two calls (elapsed time is monotonic)."""
        ...

    @property
    def doubt_ms(self) -> float:
        """By how much `now` may be off from the store's clock: so by twice as much two servers of one store may differ.
        0 for a store of which all are on one host."""
        ...

    async def put(
        self,
        key: str,
        value: Value,
        *,
        blob: bytes | Keep = KEEP,
        expect: Expect = ANY,
        beat: Beat | None = None,
    ) -> Written:
        """Write an entry; durable (power loss included) before it returns.

        Value and blob change together or not at all. With a blob the entry starts a new generation, and its beat is
        `beat`; with `KEEP` the generation and the blob stay, and the beat is the later one of the held and the given.
        A new entry with `KEEP` has no blob.

        Raises `Conflict` if the entry is not as expected, and then nothing was written.
        """
        ...

    async def touch(self, touches: Sequence[Touch]) -> list[Touched]:
        """Raise the beats of many entries at once; the answers are in the order of the questions.

        Survives a crash of the process at once, a loss of power within about a second. Changes no value, no revision
        and no generation. Of several touches of one key in one batch each is judged after the one before it. A
        malformed key or beat anywhere in the batch raises `InvalidArgument`, and then nothing was applied.
        """
        ...

    async def get(self, key: str) -> Entry | None:
        """The entry as the store holds it now, or None if the store confirms that there is none."""
        ...

    async def blob(self, key: str, generation: int) -> bytes:
        """The blob of that generation. Raises `NotFound` if the entry is gone, is of another generation or has none."""
        ...

    async def delete(
        self, key: str, *, expect: int | Literal[Any.ANY] = ANY, unless_beaten_since: int | None = None
    ) -> int:
        """Delete an entry and its blob, durably; the revision of the deletion.

        Deletes only what was judged: raises `Conflict` if the entry does not exist, is not at revision `expect`, or has
        a beat with a stamp later than `unless_beaten_since`.
        """
        ...

    async def list(self, prefix: str = "") -> Listing:
        """All entries whose key begins with `prefix`, in order of their keys' code points, and the position from
        which to watch on.

        No change is lost between the two: what is not in the entries is in the feed from that position. An entry that
        cannot be read is left out, and the log says so: one must not keep servers from all the others.
        """
        ...

    def watch(self, position: Position, prefix: str = "") -> AsyncGenerator[Feed, None]:
        """Follow the feed from `position`, for keys that begin with `prefix`, until the iterator is closed
        (`contextlib.aclosing`).

        Yields at once, and then at least once a second, so that silence means an outage; in an outage the iterator
        raises `Unavailable` and the reader watches again from the last position. Changes may come again that the
        reader has seen (never out of order for one key within a run), several changes of one entry may come as the
        last one alone, and the reader applies per key only what is newer than what it holds: revisions order `Put` and
        `Deleted`, stamps order `Beaten` within a generation. Nothing is lost: where the feed no longer reaches back,
        or the position is not one of this store's, it raises `Compacted`. A slow reader costs the store bounded memory.
        """
        ...
