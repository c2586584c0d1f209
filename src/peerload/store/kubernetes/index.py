"""What a server knows of the records: enough to write them, and to tell a change from what was there before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from peerload.clock import Clock
from peerload.errors import Damaged
from peerload.store.base import Beat, Beaten, Change, Deleted, Put
from peerload.store.kubernetes.names import Type
from peerload.store.kubernetes.objects import Record, later, read_entry, read_record, type_in, version_of
from peerload.store.values import decode_beat

__all__ = ["Index", "Shared", "read_beat", "read_beats", "write_beats"]

_log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class Shared:
    """An object of shared heartbeats."""

    version: int
    write: str
    changed: float
    """When this server saw it change, in monotonic seconds."""
    beats: dict[int, str] = field(repr=False)
    """By generation, as text."""


class Index:
    """Records as of some place in the stream, and those that this server wrote since.

    A record is found by its name, its key, and its generation: no two records have one generation, because a
    resourceVersion is used once in a store. Values and blobs are not kept.
    """

    def __init__(self, instance: str, clock: Clock) -> None:
        self._instance = instance
        self._clock = clock
        self.base = 0
        """What is added to resourceVersions."""
        self.seen = 0
        """The resourceVersion up to which the stream has been followed."""
        self.records: dict[str, Record] = {}
        self.by_key: dict[str, Record] = {}
        self.by_generation: dict[int, Record] = {}
        self.beats: dict[int, Beat] = {}
        """The latest heartbeat of each generation, wherever it is kept."""
        self.shared: dict[str, Shared] = {}
        self._written: dict[str, Record] = {}
        self.on_shared: Callable[[str], None] = lambda write: None
        """Called with the `write` of an object of shared heartbeats before what is new in it counts."""
        self.on_deleted: Callable[[Record, int], None] = lambda record, version: None
        """Called with a record that is gone, and the resourceVersion of its end."""

    def clear(self, base: int) -> None:
        """Begin anew."""
        self.base = base
        for part in (self.records, self.by_key, self.by_generation, self.beats, self.shared, self._written):
            part.clear()

    def find(self, name: str) -> Record | None:
        """The latest that is known of a record."""
        held, written = self.records.get(name), self._written.get(name)
        if held is None or written is None:
            return held or written
        return written if written.version > held.version else held

    def note(self, record: Record) -> None:
        """Take in what this server has written or read, if that is ahead of the stream."""
        held = self.find(record.name)
        if record.version > self.seen and (held is None or held.version < record.version):
            self._written[record.name] = record

    def forget(self, name: str) -> None:
        """Take in that a record is not there any more, ahead of the stream."""
        self._written.pop(name, None)

    def beat_of(self, record: Record) -> Beat | None:
        """The latest heartbeat of a record."""
        return later(record.beat, self.beats.get(record.generation))

    def counts(self, generation: int, beat: Beat) -> bool:
        """Whether a shared heartbeat must be kept: there is such a record, and neither has it a heartbeat in itself that is
        as late, nor is there a later one anywhere. (Of two shared ones that are as late, one server may not rely on
        another to keep its own.)"""
        record = self.by_generation.get(generation)
        if record is None:
            # Seen only by the stream: what this server wrote itself may be ahead of it.
            return generation > self.seen
        latest = self.beats.get(generation)
        if latest is not None and latest.stamp > beat.stamp:
            return False
        return record.beat is None or record.beat.stamp < beat.stamp

    def changes_of(self, event: Mapping[str, Any]) -> tuple[Change, ...]:
        """Take in an event of the stream, and tell what it changes."""
        body = event["object"]
        kind, deleted = type_in(body), event["type"] == "DELETED"
        if kind == Type.HEARTBEATS:
            if deleted:
                self.shared.pop(body["metadata"]["name"], None)
                return ()
            return tuple(self._share(body))
        if deleted:
            return tuple(self._remove(body["metadata"]["name"], version_of(body)))
        return tuple(self._put(body))

    def put_all(self, bodies: Iterable[Mapping[str, Any]], seen: set[str]) -> Iterator[Change]:
        """Take in records of a list, whose names are added to `seen`, and tell what changes."""
        for body in bodies:
            seen.add(body["metadata"]["name"])
            yield from self._put(body)

    def finish(self, version: int, seen: set[str], shared: Iterable[Mapping[str, Any]]) -> Iterator[Change]:
        """Take in that a list at that resourceVersion had no other records, and these shared heartbeats."""
        for name in self.records.keys() - seen:
            yield from self._remove(name, version)
        self._written = {name: record for name, record in self._written.items() if record.version > version}
        bodies = {body["metadata"]["name"]: body for body in shared}
        for name in self.shared.keys() - bodies.keys():
            del self.shared[name]
        for body in bodies.values():
            yield from self._share(body)

    def _put(self, body: Mapping[str, Any]) -> Iterator[Change]:
        try:
            record = read_record(self._instance, body)
            held = self.records.get(record.name)
            if held is not None and held.version >= record.version:
                return
            same = held is not None and (held.revision, held.generation) == (record.revision, record.generation)
            before = self.beats.get(record.generation)
            if held is None or held.generation != record.generation:
                before = self._shared_beat(record.generation)
            beat = later(before, record.beat)
            # Read before anything is changed, because that may fail.
            entry = None if same else read_entry(record, body, self.base, beat)
        except Damaged as error:
            _log.warning("an object is left out", error=str(error))
            return
        if held is not None:
            if held.uid != record.uid:
                self.on_deleted(held, record.version - 1)
            self._unlink(held)
        written = self._written.get(record.name)
        if written is not None and written.version <= record.version:
            del self._written[record.name]
        self.records[record.name] = self.by_key[record.key] = self.by_generation[record.generation] = record
        if beat is not None:
            self.beats[record.generation] = beat
        if entry is not None:
            yield Put(entry)
        elif beat is not None and beat is not before:
            yield Beaten(record.key, self.base + record.generation, beat)

    def _remove(self, name: str, version: int) -> Iterator[Change]:
        written = self._written.get(name)
        if written is not None and written.version < version:
            del self._written[name]
        held = self.records.pop(name, None)
        if held is not None:
            self._unlink(held)
            self.on_deleted(held, version)
            yield Deleted(held.key, self.base + version)

    def _unlink(self, held: Record) -> None:
        self.by_key.pop(held.key, None)
        self.by_generation.pop(held.generation, None)
        self.beats.pop(held.generation, None)

    def _share(self, body: Mapping[str, Any]) -> Iterator[Change]:
        name, version, write = body["metadata"]["name"], version_of(body), str(body.get("write", ""))
        held = self.shared.get(name)
        if held is not None and held.version >= version:
            return
        known = {} if held is None else held.beats
        # Whoever waits for this write judges by what was there before it.
        self.on_shared(write)
        try:
            beats = dict(read_beats(body.get("beats", "")))
            # All that is new is read: one of a record that the stream has yet to bring must be good as well.
            fresh = [(n, read_beat(text)) for n, text in beats.items() if known.get(n) != text]
        except (ValueError, AttributeError) as error:
            _log.warning("an object is left out", name=name, error=repr(error))
            return
        self.shared[name] = Shared(version, write, self._clock.monotonic(), beats)
        for generation, beat in fresh:
            if generation not in self.by_generation:
                continue
            before = self.beats.get(generation)
            if before is None or beat.stamp > before.stamp:
                self.beats[generation] = beat
                yield Beaten(self.by_generation[generation].key, self.base + generation, beat)

    def _shared_beat(self, generation: int) -> Beat | None:
        """The latest heartbeat of a generation among the shared ones."""
        found: Beat | None = None
        for shared in self.shared.values():
            text = shared.beats.get(generation)
            if text is not None:
                found = later(found, read_beat(text))
        return found


def write_beats(beats: Mapping[int, Beat]) -> str:
    """Heartbeats by generation, as they are kept: `GENERATION=STAMP` or `GENERATION=STAMP,LOAD`, with spaces between."""
    return " ".join(
        f"{generation}={beat.stamp}" if beat.load is None else f"{generation}={beat.stamp},{float(beat.load)!r}"
        for generation, beat in beats.items()
    )


def read_beats(text: str) -> Iterator[tuple[int, str]]:
    """Generations, and the texts of their heartbeats. Raises ValueError."""
    for item in text.split():
        generation, equals, beat = item.partition("=")
        if not equals:
            raise ValueError(f"{item[:50]!r} is no heartbeat")
        yield int(generation), beat


def read_beat(text: str) -> Beat:
    """A heartbeat from its text. Raises ValueError."""
    stamp, _, load = text.partition(",")
    return decode_beat(stamp, load)
