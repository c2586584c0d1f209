"""Whatever breaks, expires and is listed again: a reader of the reflector's log ends with what the cluster holds.

The API server here is a made-up one that does what a real one may do at the worst moment, and reorders nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerload.errors import Unavailable
from peerload.kubernetes.trouble import Broken, Exists, Gone
from peerload.store.base import Beat, Entry, Feed, Listing, Position
from peerload.store.kubernetes import reflector as module
from peerload.store.kubernetes.index import Index, read_beat, read_beats, write_beats
from peerload.store.kubernetes.layout import Layout, begin_anew, settle
from peerload.store.kubernetes.names import Type, entry_name
from peerload.store.kubernetes.objects import body_of, later, read_entry, read_record, type_in
from peerload.store.kubernetes.reflector import Reflector
from peerload.testing import ManualClock
from peerload.testing.store_suite import Mirror

KEYS = ["a", "b", "c", "source/1/0/w", "source/1/1/w"]


class Cluster:
    """Stands for `Resources`: objects with versions, their history, and troubles."""

    instance = "main"

    def __init__(self) -> None:
        self.version = 100
        self.floor = 0
        self.objects: dict[str, dict[str, Any]] = {}
        self.events: list[tuple[int, dict[str, Any]]] = []
        self.moved = asyncio.Event()
        self.break_lists = 0
        """How many pages more fail."""
        self.end_watches = 0
        self.watch_error: Exception | None = None
        self._uids = itertools.count()

    # What the reflector asks for.

    async def get(self, name: str) -> dict[str, Any] | None:
        await asyncio.sleep(0)
        return self.objects.get(name)

    async def create(self, body: Mapping[str, Any], *, seconds: float = 0.0) -> dict[str, Any]:
        await asyncio.sleep(0)
        if body["metadata"]["name"] in self.objects:
            raise Exists("there is one")
        return self.write(body["metadata"]["name"], {**body, "metadata": {**body["metadata"]}})

    async def delete(self, name: str, *, uid: str | None = None, version: int | None = None) -> None:
        await asyncio.sleep(0)
        self.remove(name)

    async def pages(
        self, labels: Mapping[str, str], *, metadata_only: bool = False
    ) -> AsyncGenerator[tuple[int, list[dict[str, Any]]], None]:
        version, found = self.version, sorted(self.objects.items())
        for start in range(0, len(found) + 1, 2):
            await asyncio.sleep(0)
            if self.break_lists:
                self.break_lists -= 1
                if start:
                    raise Gone("the page has expired")
                raise Broken("the connection broke")
            yield version, [body for _, body in found[start : start + 2]]

    async def watch(self, version: int) -> AsyncGenerator[dict[str, Any], None]:
        await asyncio.sleep(0)
        if version < self.floor:
            raise Gone("too old")
        ends = self.end_watches
        while True:
            for at, event in list(self.events):
                if at > version:
                    yield event
                    version = at
                    if self.watch_error is not None:
                        error, self.watch_error = self.watch_error, None
                        raise error
            if ends != self.end_watches:
                return
            self.moved.clear()
            if not any(at > version for at, _ in self.events):
                await self.moved.wait()
            if version < self.floor and not any(at > version for at, _ in self.events):
                raise Gone("too old")

    # What happens there.

    def write(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        held = self.objects.get(name)
        uid = held["metadata"]["uid"] if held else f"uid-{next(self._uids)}"
        body = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version), "uid": uid}}
        self.objects[name] = body
        self._tell("MODIFIED" if held else "ADDED", body)
        return body

    def remove(self, name: str) -> None:
        body = self.objects.pop(name, None)
        if body is not None:
            self.version += 1
            gone = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
            self._tell("DELETED", gone)

    def put(self, key: str, number: int, *, keep: bool) -> None:
        name = entry_name("main", key)
        held = self.objects.get(name)
        fields: dict[str, Any] = {"key": key, "value": {"n": number}, "write": str(number)}
        if held and keep:
            record = read_record("main", held)
            fields["generation"] = str(record.generation)
            if record.beat is not None:
                fields["beat"] = held["beat"]
        self.write(name, body_of("main", name, Type.OTHER, fields))

    def beat(self, key: str, stamp: int) -> None:
        name = entry_name("main", key)
        held = self.objects.get(name)
        if held is None:
            return
        record = read_record("main", held)
        if record.beat is None or record.beat.stamp < stamp:
            aside = {"revision": str(record.revision), "generation": str(record.generation)}
            self.write(name, {**held, **aside, "beat": {"stamp": stamp}})

    def share(self, server: int, stamps: dict[str, int]) -> None:
        name = f"heartbeats-{server}-1"
        held = self.objects.get(name)
        beats = {g: read_beat(text) for g, text in read_beats(held["beats"])} if held else {}
        for key, stamp in stamps.items():
            body = self.objects.get(entry_name("main", key))
            if body is not None:
                generation = read_record("main", body).generation
                given = Beat(stamp)
                beats[generation] = later(beats.get(generation), given) or given
        self.write(name, body_of("main", name, Type.HEARTBEATS, {"beats": write_beats(beats), "write": ""}))

    def bookmark(self) -> None:
        self.version += 7  # others write too
        self._tell("BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}})

    def compact(self) -> None:
        """Forget the history: also what a watch has not read yet."""
        self.floor = self.version
        self.events.clear()
        self.end_watches += 1
        self.moved.set()

    def end(self, error: Exception | None) -> None:
        """End every watch: at once in good order, or at the next event otherwise."""
        self.watch_error = error
        if error is None:
            self.end_watches += 1
            self.moved.set()

    def entries(self, base: int) -> dict[str, Entry]:
        shared: dict[int, Beat] = {}
        found: dict[str, Entry] = {}
        bodies = list(self.objects.values())
        for body in bodies:
            if type_in(body) == Type.HEARTBEATS:
                for generation, text in read_beats(body["beats"]):
                    given = read_beat(text)
                    shared[generation] = later(shared.get(generation), given) or given
        for body in bodies:
            if type_in(body) not in (Type.HEARTBEATS, Type.LAYOUT):
                record = read_record("main", body)
                beat = later(record.beat, shared.get(record.generation))
                found[record.key] = read_entry(record, body, base, beat)
        return found

    def _tell(self, kind: str, body: dict[str, Any]) -> None:
        self.events.append((self.version, {"type": kind, "object": body}))
        self.moved.set()


class Reader:
    """Follows the log as a watch of the store does, from a list on."""

    def __init__(self, reflector: Reflector, cluster: Cluster) -> None:
        self._reflector = reflector
        self._epoch = reflector.layout.epoch
        self.version = cluster.version
        entries = cluster.entries(reflector.layout.base)
        self.mirror = Mirror(Listing(tuple(entries.values()), Position("")))

    def read(self) -> None:
        assert self._reflector.layout.epoch == self._epoch
        changes, self.version = self._reflector.log.read(self.version)
        self.mirror.apply(Feed(changes, Position("")))


def reflector_of(cluster: Cluster) -> Reflector:
    index = Index("main", ManualClock())
    return Reflector(cluster, index, ManualClock(), lambda: 1_000_000, lambda: None)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.0)


@contextlib.asynccontextmanager
async def running(cluster: Cluster) -> AsyncGenerator[Reflector, None]:
    reflector = reflector_of(cluster)
    await reflector.open()
    try:
        yield reflector
    finally:
        await reflector.close()


async def until_seen(reflector: Reflector, cluster: Cluster) -> None:
    async with asyncio.timeout(20):
        while reflector.log.end < cluster.version or reflector.trouble is not None:
            await asyncio.sleep(0)


async def until_another(reflector: Reflector, layout: Layout) -> None:
    """Wait until the store has begun anew."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(Unavailable):
                if reflector.layout != layout:
                    return
            await asyncio.sleep(0)


key = st.sampled_from(KEYS)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), key, st.booleans()),
        st.tuples(st.just("put"), key, st.booleans()),
        st.tuples(st.just("beat"), key, st.integers(0, 30)),
        st.tuples(st.just("share"), st.integers(1, 2), st.dictionaries(key, st.integers(0, 30), max_size=3)),
        st.tuples(st.just("delete"), key),
        st.tuples(st.just("run"), st.integers(0, 12)),
        st.tuples(st.just("read")),
        st.tuples(st.just("join")),
        st.tuples(st.just("compact")),
        st.tuples(st.just("break"), st.integers(1, 4)),
        st.tuples(st.just("end"), st.booleans()),
        st.tuples(st.just("bookmark")),
    ),
    max_size=40,
)


@settings(max_examples=150)
@given(steps)
async def test_no_change_is_lost_whatever_breaks(steps: list[tuple[Any, ...]]) -> None:
    cluster = Cluster()
    async with running(cluster) as reflector:
        readers = [Reader(reflector, cluster)]
        for number, step in enumerate(steps):
            match step:
                case ("put", key, keep):
                    cluster.put(key, number, keep=keep)
                case ("beat", key, stamp):
                    cluster.beat(key, stamp)
                case ("share", server, stamps):
                    cluster.share(server, stamps)
                case ("delete", key):
                    cluster.remove(entry_name("main", key))
                case ("run", turns):
                    for _ in range(turns):
                        await asyncio.sleep(0)
                case ("read",):
                    for reader in readers:
                        reader.read()
                case ("join",):
                    readers.append(Reader(reflector, cluster))
                case ("compact",):
                    cluster.compact()
                case ("break", pages):
                    cluster.break_lists += pages
                case ("end", broken):
                    cluster.end(Broken("the connection broke") if broken else None)
                case ("bookmark",):
                    cluster.bookmark()
        cluster.put("end", -1, keep=False)
        await until_seen(reflector, cluster)
        entries = cluster.entries(reflector.layout.base)
        for reader in readers:
            reader.read()
            assert reader.mirror.entries == entries
        index = reflector_index(reflector)
        assert {record.key for record in index.records.values()} == entries.keys()
        assert len(index.by_key) == len(index.by_generation) == len(entries)
        for record in index.records.values():
            assert index.beat_of(record) == entries[record.key].beat


def reflector_index(reflector: Reflector) -> Index:
    return reflector._index


async def test_a_store_that_is_begun_anew_is_another_one() -> None:
    cluster = Cluster()
    async with running(cluster) as reflector:
        cluster.put("k", 1, keep=False)
        await until_seen(reflector, cluster)
        layout = reflector.layout
        name = next(name for name, body in cluster.objects.items() if type_in(body) == Type.LAYOUT)
        cluster.remove(name)
        await until_another(reflector, layout)
        await until_seen(reflector, cluster)
        assert cluster.entries(reflector.layout.base).keys() == {"k"}


async def test_numbers_that_go_back_begin_a_new_epoch_above_all_before() -> None:
    cluster = Cluster()
    async with running(cluster) as reflector:
        backup = dict(cluster.objects)
        for number in range(5):
            cluster.put("k", number, keep=False)
        await until_seen(reflector, cluster)
        layout, reached = reflector.layout, reflector.layout.base + cluster.version
        cluster.objects, cluster.version = backup, 101
        cluster.events.clear()
        reflector.went_back()
        await until_another(reflector, layout)
        cluster.put("k", 9, keep=False)
        await until_seen(reflector, cluster)
        (entry,) = cluster.entries(reflector.layout.base).values()
        assert entry.revision > reached


@pytest.mark.parametrize("overtaken", ["expired", "begun anew"])
async def test_a_list_that_is_overtaken_while_a_store_is_opened_is_made_again(overtaken: str) -> None:
    """By the API server, which forgets, or by another server, which has found that the numbers went back."""
    cluster = Cluster()
    for number, key in enumerate(KEYS):
        cluster.put(key, number, keep=False)
    layout = await settle(cluster, 1_000)  # type: ignore[arg-type]
    listed = cluster.pages

    async def pages(labels: Mapping[str, str]) -> AsyncGenerator[tuple[int, list[dict[str, Any]]], None]:
        cluster.pages = listed  # type: ignore[method-assign]
        if overtaken == "begun anew":
            await begin_anew(cluster, layout, 2_000, after=0)  # type: ignore[arg-type]
        async for page in listed(labels):
            yield page
            if overtaken == "expired":
                raise Gone("the page has expired")

    cluster.pages = pages  # type: ignore[assignment, method-assign]
    async with running(cluster) as reflector:
        assert {record.key for record in reflector_index(reflector).records.values()} == set(KEYS)
        assert reflector.layout == await settle(cluster, 3_000)  # type: ignore[arg-type]


async def test_lists_that_are_always_overtaken_are_an_outage() -> None:
    cluster = Cluster()

    async def pages(labels: Mapping[str, str]) -> AsyncGenerator[tuple[int, list[dict[str, Any]]], None]:
        yield cluster.version, []
        raise Gone("the page has expired")

    cluster.pages = pages  # type: ignore[assignment, method-assign]
    with pytest.raises(Unavailable, match="before they are read"):
        async with running(cluster):
            pass


async def test_what_does_not_come_back_is_unavailable_and_the_watch_is_opened_again() -> None:
    cluster = Cluster()
    async with running(cluster) as reflector:
        with pytest.raises(Unavailable, match="does not tell what was written"):
            await reflector.reached(cluster.version + 1)
        assert reflector.trouble is not None
        cluster.put("k", 1, keep=False)
        await until_seen(reflector, cluster)


@pytest.mark.parametrize(
    "event", [{"object": {}}, {"object": {"metadata": {"resourceVersion": "x"}}}, {"object": None}]
)
async def test_an_event_that_cannot_be_read_costs_another_list_and_no_change(event: dict[str, Any]) -> None:
    cluster = Cluster()
    async with running(cluster) as reflector:
        reader = Reader(reflector, cluster)
        cluster.put("before", 1, keep=False)
        cluster.version += 1
        cluster.events.append((cluster.version, {"type": "MODIFIED", **event}))
        cluster.put("after", 2, keep=False)
        await until_seen(reflector, cluster)
        reader.read()
        assert reader.mirror.entries == cluster.entries(reflector.layout.base)


async def test_closing_ends_every_wait() -> None:
    cluster = Cluster()
    reflector = reflector_of(cluster)
    await reflector.open()
    waiting = asyncio.create_task(reflector.reached(10**9))
    with reflector.deletion("uid") as ended:
        await asyncio.sleep(0)
        await reflector.close()
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            await ended


async def test_two_that_begin_a_store_at_once_begin_the_same() -> None:
    cluster = Cluster()
    first, second = await asyncio.gather(*(settle(cluster, 1_000, after=0) for _ in range(2)))  # type: ignore[arg-type]
    assert first == second
