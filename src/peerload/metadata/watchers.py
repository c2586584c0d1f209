"""Telling watchers what changes."""

from __future__ import annotations

import itertools
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

from peerload.errors import PeerloadError, Unavailable
from peerload.metadata.directory.directory import Directory, Seen
from peerload.metadata.query import Query
from peerload.metadata.records import SourceKey, SourceRecord, Status
from peerload.metadata.waiting import Crowd
from peerload.metadata.watch_event import WatchEvent

__all__ = ["Watchers"]

_RING: Final = 8_192
"""Changes of the whole directory that a resume token reaches back."""
_TOPIC_RING: Final = 1_024
"""Changes of one selection that a slow watcher may fall behind before it is told everything anew."""
_SAME_MS: Final = 100
"""For so long what one watcher was told of everything is told to others, if nothing has changed but heartbeats: when a
fleet begins to watch it is put together once and not a thousand times."""


class _Numbered(NamedTuple):
    number: int
    seen: Seen


class _Noted(NamedTuple):
    """A change of one selection: whose, and whether it was in the selection before."""

    number: int
    key: SourceKey
    was: bool


class _Told(NamedTuple):
    """What was told last, and can be told to whoever asks for the same."""

    place: int | None
    """After which change; None: everything."""
    number: int
    """Up to which change."""
    at: int
    event: WatchEvent | None


class _Topic:
    """All watchers of one selection. They share what has happened; a watcher is no more than a place in it."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self.users = 0
        self.crowd = Crowd()
        self.told = _Told(None, -1, 0, None)
        self.noted: deque[_Noted] = deque()
        self.floor = 0
        """Changes up to this number are no longer in `noted`."""

    def note(self, number: int, seen: Seen) -> None:
        """Keep a change if it concerns the selection, and wake the watchers."""
        noted = _note_of(self.query, number, seen)
        if noted is None:
            return
        self.noted.append(noted)
        if len(self.noted) > _TOPIC_RING:
            self.floor = self.noted.popleft().number
        self.crowd.wake()

    def since(self, place: int) -> list[_Noted] | None:
        """The changes after that one, in order; None if they are no longer all known."""
        if place < self.floor:
            return None
        later = list(itertools.takewhile(lambda noted: noted.number > place, reversed(self.noted)))
        later.reverse()
        return later


class Watchers:
    """Every watch of one directory. Resume tokens name this object and a change; another server's are not honoured."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._instance = secrets.token_hex(6)
        self._number = 0
        self._ring: deque[_Numbered] = deque(maxlen=_RING)
        self._topics: dict[Query, _Topic] = {}
        self._by_source: dict[str | None, list[_Topic]] = {}
        self._error: PeerloadError | None = None
        self._ended = 0
        """How often all watches there were have been ended."""
        self._reason = ""
        directory.on_change = self._note
        directory.on_data_lost = self._begin_anew

    @property
    def watching(self) -> int:
        """How many watches there are."""
        return sum(topic.users for topic in self._topics.values())

    def interrupt(self, error: PeerloadError | None) -> None:
        """End every watch with this error, and begin none, until called with None."""
        if self._error is error:
            return
        self._error = error
        if error is not None:
            for topic in self._topics.values():
                topic.crowd.wake()

    def end_all(self, reason: str) -> None:
        """End every watch there is with `Unavailable`. Others may begin at once, from where these were."""
        self._ended += 1
        self._reason = reason
        for topic in self._topics.values():
            topic.crowd.wake()

    def can_resume(self, token: str) -> bool:
        """Whether a watch can go on from there without being told everything anew."""
        return self._place(token) is not None

    async def watch(self, query: Query, token: str = "") -> AsyncGenerator[WatchEvent, None]:
        """What the query selects, and then every change of that. The limit and the instances of a query do not count.

        A watcher that is slower than the changes is told less often, and everything anew where it has fallen too far
        behind. Raises what `interrupt` was given.
        """
        query = replace(query, limit=None, instances=False)
        ended = self._ended
        topic = self._enter(query)
        try:
            place = self._place(token) if token else None
            since: Callable[[int], list[_Noted] | None] = partial(self._since, query)
            while True:
                if self._error is not None:
                    raise self._error
                if self._ended != ended:
                    raise Unavailable(self._reason)
                # What has run out by now is among the changes that are told of now: after them it would come too late,
                # and between them and the place from which to go on it would be lost.
                self._directory.sweep()
                event = self._event(topic, place, since)
                place, since = self._number, topic.since
                if event is not None:
                    yield event
                while not self._news(topic, place) and self._ended == ended:
                    await topic.crowd.wait()
        finally:
            self._leave(topic)

    def _event(
        self, topic: _Topic, place: int | None, since: Callable[[int], list[_Noted] | None]
    ) -> WatchEvent | None:
        """What to tell somebody who knows all changes up to `place`; one object for all who are told the same."""
        told, now = topic.told, self._directory.now()
        if place is not None and (told.place, told.number) == (place, self._number):
            return told.event
        noted = None if place is None else since(place)
        if noted is not None:
            event = self._difference(topic.query, noted)
        elif (told.place, told.number) == (None, self._number) and 0 <= now - told.at < _SAME_MS:
            return told.event
        else:
            place, event = None, self._complete(topic.query)
        topic.told = _Told(place, self._number, now, event)
        return event

    def _news(self, topic: _Topic, place: int) -> bool:
        return self._error is not None or bool(topic.noted and topic.noted[-1].number > place)

    def _begin_anew(self) -> None:
        """End every watch, and honour no token: sources that an outage took away have not left."""
        self._ring.clear()
        self.end_all("the store came back without its data; watch again")

    def _note(self, seen: Seen) -> None:
        self._number += 1
        self._ring.append(_Numbered(self._number, seen))
        for source in (seen.key.source_id, None):
            for topic in self._by_source.get(source, ()):
                topic.note(self._number, seen)

    def _enter(self, query: Query) -> _Topic:
        topic = self._topics.get(query)
        if topic is None:
            topic = self._topics[query] = _Topic(query)
            topic.floor = self._number
            self._by_source.setdefault(query.source_id, []).append(topic)
        topic.users += 1
        return topic

    def _leave(self, topic: _Topic) -> None:
        topic.users -= 1
        if topic.users == 0:
            del self._topics[topic.query]
            siblings = self._by_source[topic.query.source_id]
            siblings.remove(topic)
            if not siblings:
                del self._by_source[topic.query.source_id]

    def _token(self) -> str:
        return f"{self._instance}:{self._number}"

    def _place(self, token: str) -> int | None:
        instance, _, number = token.partition(":")
        if instance != self._instance or not number.isdecimal() or len(number) > 20:
            return None
        place = int(number)
        floor = self._number - len(self._ring)
        return place if floor <= place <= self._number else None

    def _since(self, query: Query, place: int) -> list[_Noted]:
        """What happened to the selection since then, from the ring of all changes."""
        after = itertools.islice(self._ring, len(self._ring) - (self._number - place), None)
        return [noted for number, seen in after if (noted := _note_of(query, number, seen)) is not None]

    def _complete(self, query: Query) -> WatchEvent:
        present = tuple(ranks[0].view() for ranks in self._directory.find(query))
        return WatchEvent(True, present, (), self._token())

    def _difference(self, query: Query, noted: Iterable[_Noted]) -> WatchEvent | None:
        """What to tell about these changes, each source once, as it is by now; None for nothing."""
        first: dict[SourceKey, bool] = {}
        for note in noted:
            first.setdefault(note.key, note.was)
        present: list[SourceRecord] = []
        gone: list[SourceKey] = []
        for key, was in first.items():
            held = self._directory.get(key.encode())
            if held is not None and _selects(query, held.record, held.shown):
                present.append(held.view())
            elif was:
                gone.append(key)
        if not present and not gone:
            return None
        return WatchEvent(False, tuple(present), tuple(gone), self._token())


def _selects(query: Query, record: SourceRecord | None, status: Status) -> bool:
    return record is not None and (query.status is None or query.status is status) and query.concerns(record)


def _note_of(query: Query, number: int, seen: Seen) -> _Noted | None:
    was = _selects(query, seen.before, seen.before_status)
    if was or _selects(query, seen.after, seen.after_status):
        return _Noted(number, seen.key, was)
    return None
