"""How old a heartbeat is, not counting the time in which none could arrive.

Every server keeps an entry in the store for each *episode*, a time through which it was running and could write: the
key tells since when, the entry's heartbeat until when. A time in no server's episode is an outage, and no time at all
for a source that is waited for.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from peerload.store.base import Entry

__all__ = ["SERVER_PREFIX", "Episode", "Liveness", "episode_key"]

SERVER_PREFIX: Final = "server/"


class Episode(NamedTuple):
    """A time through which a server was alive, in milliseconds on the store's clock, and the entry that says so."""

    since: int
    until: int
    revision: int
    generation: int


def episode_key(server_id: str, since: int) -> str:
    """The key of a server's episode."""
    return f"{SERVER_PREFIX}{server_id}/{since}"


class Liveness:
    """All servers' episodes, and what follows for the age of heartbeats."""

    def __init__(self, *, timeout_ms: int, tolerance_ms: int) -> None:
        self._timeout = timeout_ms
        self._tolerance = tolerance_ms
        self._episodes: dict[str, Episode] = {}
        self._begun: Episode | None = None
        self._gaps: list[tuple[int, int]] | None = None
        self._latest = 0

    @property
    def episodes(self) -> dict[str, Episode]:
        """By key."""
        return self._episodes

    def begin(self, now: int) -> None:
        """This server is there now: so it is known before the store has its episode, and whatever it was asked until then
        would have to be judged by a silence that may be too short to be an outage."""
        self._begun = Episode(now, now, 0, 0)
        self._gaps = None

    def put(self, entry: Entry) -> None:
        """Take in an episode's entry; keys of another form are nobody's episode."""
        since = entry.key.rpartition("/")[2]
        if not (since.isascii() and since.isdecimal()):
            return
        held = self._episodes.get(entry.key)
        if held is not None and held.revision > entry.revision:
            return
        until = entry.beat.stamp if entry.beat else int(since)
        self._episodes[entry.key] = Episode(int(since), max(until, int(since)), entry.revision, entry.generation)
        self._gaps = None

    def beat(self, key: str, generation: int, stamp: int) -> None:
        """A server was alive at `stamp`."""
        held = self._episodes.get(key)
        if held is not None and held.generation == generation and stamp > held.until:
            self._episodes[key] = held._replace(until=stamp)
            self._gaps = None

    def remove(self, key: str, revision: int) -> None:
        """Forget an episode."""
        held = self._episodes.get(key)
        if held is not None and held.revision < revision:
            del self._episodes[key]
            self._gaps = None

    def cutoff(self, now: int, timeout_ms: int | None = None) -> int:
        """The oldest stamp that has not run out at `now`, after the heartbeat timeout or another; 0 where none can have."""
        left, end = self._timeout if timeout_ms is None else timeout_ms, now
        for start, stop in reversed(self._outages(now)):
            if end - stop > left:
                return end - left
            left -= end - stop
            end = start
        # Before the first episode nobody was there to listen.
        return 0

    def last_outage_end(self, now: int) -> int:
        """When the last outage ended; `now` while one lasts. Before the first episode counts as one."""
        return self._outages(now)[-1][1]

    def age(self, stamp: int, now: int) -> int:
        """Milliseconds from `stamp` to `now`, outages not counted."""
        out = sum(max(0, min(stop, now) - max(start, stamp)) for start, stop in self._outages(now))
        return max(0, now - stamp - out)

    def _outages(self, now: int) -> list[tuple[int, int]]:
        """The times without an alive server, in order; the first is what lies before the first episode."""
        if self._gaps is None:
            gaps: list[tuple[int, int]] = []
            reached: int | None = None
            own = () if self._begun is None else (self._begun,)
            for episode in sorted((*self._episodes.values(), *own)):
                if reached is None:
                    gaps.append((0, episode.since))
                    reached = episode.until
                    continue
                # However short: a new episode means that every connection was lost, or that nothing could be stored.
                if episode.since > reached:
                    gaps.append((reached, episode.since))
                reached = max(reached, episode.until)
            self._gaps, self._latest = gaps, reached or 0
        if not self._gaps or now - self._latest > self._tolerance:
            return [*self._gaps, (self._latest, now)]
        return self._gaps
