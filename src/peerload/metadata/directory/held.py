"""One record in the directory."""

from __future__ import annotations

from typing import Final

from peerload.metadata.records import SourceRecord, Status, encoded_ref_beat
from peerload.store.base import Beat
from peerload.wire import splice

__all__ = ["NOT_QUEUED", "Held", "is_suspect", "oldest"]

NOT_QUEUED: Final = -1
"""No moment: of a record that has no place in the queue of fresh ones."""

_PROVES_NOTHING: Final = -1

_INSTANCES_FIELD = 1


class Held:
    """What is known of one key. A directory holds a hundred thousand of these, so they are small, and what lists need
    is encoded once for each change."""

    __slots__ = (
        "_refused_at",
        "_static",
        "due",
        "expired",
        "frame",
        "heard",
        "load",
        "record",
        "removed",
        "shown",
        "stamp",
        "suspect",
    )

    def __init__(self, record: SourceRecord, now: int) -> None:
        self.record = record
        self.stamp = record.updated_at
        """The heartbeat as the store has it: what comes next must be later."""
        self.heard = min(self.stamp, now)
        """The heartbeat as it is judged and shown: a stamp from a clock that ran ahead counts from when it was seen."""
        self.due = NOT_QUEUED
        """Its place in the queue of fresh records, which orders them by it (see `peerload.metadata.directory.expiry`)."""
        self.load = record.load
        self.expired = False
        self.removed = False
        self.suspect = False
        """Whether it failed those who read from it, and has not proven itself since: it is handed out last."""
        self.shown = record.status
        # When its host was found refusing connections to it; 0: it was not, -1: that proves nothing of this publication.
        self._refused_at = 0
        self._static: bytes | None = None
        self.frame: bytes | None = None
        """What `framed` has made, while it is true."""
        self.refresh()

    def __lt__(self, other: Held) -> bool:
        return self.due < other.due

    def put(self, record: SourceRecord, now: int) -> None:
        """The entry changed: take its record, and its heartbeat if it is later or of a new generation."""
        renewed = record.generation != self.record.generation
        self.record = record
        self._static = self.frame = None
        if renewed:
            self._refused_at, self.suspect = 0, False
        if renewed or record.updated_at > self.stamp:
            self.beat(Beat(record.updated_at, record.load), now)
        self.refresh()

    def beat(self, beat: Beat, now: int) -> None:
        """A heartbeat came in."""
        self.stamp, self.load = beat.stamp, beat.load
        self.heard = min(beat.stamp, now)
        if 0 < self._refused_at < self.heard:
            # It was alive all along, behind a firewall perhaps that refuses this server: that is not to be heeded again.
            self._refused_at = _PROVES_NOTHING
        self.frame = None
        self.refresh()

    def refresh(self) -> None:
        """Reckon the status that is shown: as published; STALE once the heartbeat has run out, or connections are refused."""
        self.shown = Status.STALE if self.expired or self._refused_at > 0 else self.told

    def refuse(self, since: int) -> bool:
        """At or after `since` its host refused connections to it. Whether that hides it now, and did not before."""
        if self.refuses or not self.judgeable or self.heard >= since or self.shown is Status.STALE:
            return False
        self._refused_at = since
        self.refresh()
        return True

    @property
    def refuses(self) -> bool:
        """Whether its host refused connections to it, and it was not heard from since."""
        return self._refused_at > 0

    @property
    def judgeable(self) -> bool:
        """Whether refused connections say anything: they do not once it was heard from after some."""
        return self._refused_at >= 0

    @property
    def told(self) -> Status:
        """The status that the worker gave last: a mark that a heartbeat has overtaken no longer counts."""
        mark = self.record.mark
        return mark.was if mark is not None and self.stamp > mark.judged else self.record.status

    @property
    def overtaken(self) -> bool:
        """Whether the record is marked stale and a later heartbeat is known."""
        mark = self.record.mark
        return mark is not None and self.stamp > mark.judged

    def view(self) -> SourceRecord:
        """The record as it is now."""
        return self.record.at(status=self.shown, updated_at=self.heard, load=self.load, suspect=self.suspect)

    def framed(self) -> bytes:
        """The record as one field of an encoded `ListSourcesResponse`."""
        if self.frame is None:
            self.frame = self.framed_at(self.heard)
        return self.frame

    def framed_at(self, updated_at: int) -> bytes:
        """The same with another heartbeat (of several ranks the oldest is shown)."""
        if self._static is None:
            self._static = self.record.encoded_ref()
        return splice.bytes_field(_INSTANCES_FIELD, self._static, encoded_ref_beat(updated_at, self.load))


def oldest(ranks: tuple[Held, ...]) -> int:
    """The oldest heartbeat among the ranks of an instance."""
    return ranks[0].heard if len(ranks) == 1 else min(held.heard for held in ranks)


def is_suspect(ranks: tuple[Held, ...]) -> bool:
    """Whether any rank of an instance is suspect."""
    return ranks[0].suspect if len(ranks) == 1 else any(held.suspect for held in ranks)
