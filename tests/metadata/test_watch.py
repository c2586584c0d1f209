"""Watchers are told everything that changes, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

import pytest

from peerload.errors import PeerloadError, Unavailable
from peerload.metadata import watchers as watchers_module
from peerload.metadata.directory.directory import Seen
from peerload.metadata.query import Query
from peerload.metadata.records import SourceKey, Status
from peerload.metadata.waiting import Crowd
from peerload.metadata.watch_event import WatchEvent
from peerload.store.base import Feed, Put
from peerload.testing.fake_backend import FakeMetadataBackend
from tests.metadata.publications import SOURCE, publication

ALL = Query()
READY = Query(source_id=SOURCE, status=Status.READY)
_T = TypeVar("_T")


class Viewer:
    """A client: what it would show."""

    def __init__(self, backend: FakeMetadataBackend, query: Query = ALL, token: str = "") -> None:
        self._backend = backend
        self._events = backend.watch(query, token)
        self.shown: dict[SourceKey, Status] = {}
        self.token = token
        self.completes = 0
        self.told = 0

    def take(self, event: WatchEvent) -> WatchEvent:
        if event.complete:
            self.shown.clear()
            self.completes += 1
        self.shown.update((record.key, record.status) for record in event.present)
        for key in event.gone:
            self.shown.pop(key, None)
        self.token = event.resume_token
        self.told += 1
        return event

    async def wait(self) -> WatchEvent:
        """The next event; time stands still meanwhile."""
        return self.take(await anext(self._events))

    async def next(self) -> WatchEvent:
        task = asyncio.ensure_future(anext(self._events))
        for _ in range(200):
            await self._backend.clock.settle()
            if task.done():
                return self.take(task.result())
            await self._backend.clock.advance(0.05)
        raise AssertionError("nothing was told")

    async def nothing(self, seconds: float = 3.0) -> None:
        task = asyncio.ensure_future(anext(self._events))
        await self._backend.clock.advance(seconds)
        assert not task.done(), task.result()
        task.cancel()
        await asyncio.wait([task])
        await self._events.aclose()
        self._events = self._backend.watch(ALL, self.token)

    async def close(self) -> None:
        await self._events.aclose()

    @property
    def workers(self) -> set[str]:
        return {key.worker_id for key in self.shown}


@pytest.fixture
async def viewer(backend: FakeMetadataBackend) -> AsyncIterator[Viewer]:
    made = Viewer(backend)
    yield made
    await made.close()


async def test_first_what_is_there_then_what_changes(backend: FakeMetadataBackend, viewer: Viewer) -> None:
    await backend.publish(publication("w1"))
    first = await viewer.next()
    assert first.complete
    assert viewer.workers == {"w1"}
    await backend.publish(publication("w2", rank=3))
    second = await viewer.next()
    assert not second.complete
    assert [record.key for record in second.present] == [SourceKey(SOURCE, 3, "w2")]
    await backend.withdraw(SOURCE, "w1")
    third = await viewer.next()
    assert (third.complete, third.present, third.gone) == (False, (), (SourceKey(SOURCE, 0, "w1"),))
    await backend.update_status(SOURCE, "w2", 3, Status.STALE)
    assert (await viewer.next()).present[0].status is Status.STALE
    # Publishing again means another manifest.
    await backend.publish(publication("w2", rank=3, status=Status.STALE))
    assert (await viewer.next()).present[0].status is Status.STALE


async def test_an_empty_first_answer(backend: FakeMetadataBackend, viewer: Viewer) -> None:
    first = await viewer.next()
    assert (first.complete, first.present, first.gone) == (True, (), ())


async def test_what_runs_out_just_before_a_watcher_is_told_of_something_else(backend: FakeMetadataBackend) -> None:
    viewer = Viewer(backend, READY)
    await backend.publish(publication("w1"))
    await viewer.next()
    await backend.clock.advance(89)
    waiting = asyncio.ensure_future(viewer.wait())
    await backend.clock.settle()
    note = backend.directory.on_change
    assert note is not None

    def then_time_passes(seen: Seen) -> None:
        note(seen)
        if seen.key.worker_id == "w2":
            asyncio.get_running_loop().call_soon(backend.clock.jump, 2)

    backend.directory.on_change = then_time_passes
    await backend.publish(publication("w2"))
    await waiting
    while "w1" in viewer.workers:
        await viewer.next()
    assert viewer.workers == {"w2"}
    await viewer.close()


async def test_a_heartbeat_is_no_change(backend: FakeMetadataBackend, viewer: Viewer) -> None:
    await backend.publish(publication())
    await viewer.next()
    await backend.clock.advance(10)
    assert await backend.update_status(SOURCE, "w1", 0, Status.READY, 0.5)
    await viewer.nothing()


async def test_others_sources_are_none_of_its_business(backend: FakeMetadataBackend) -> None:
    viewer = Viewer(backend, READY)
    await viewer.next()
    await backend.publish(publication("other", model="org/other"))
    await backend.publish(publication("early", status=Status.INITIALIZING))
    task = asyncio.ensure_future(viewer.next())
    await backend.clock.advance(1)
    assert not task.done()
    await backend.update_status(SOURCE, "early", 0, Status.READY)
    await task
    assert viewer.workers == {"early"}
    await viewer.close()


async def test_running_out_is_told_when_it_happens(backend: FakeMetadataBackend) -> None:
    backend.store.fail("delete")
    ready, everything = Viewer(backend, READY), Viewer(backend)
    await backend.publish(publication())
    await ready.next()
    await everything.next()
    await backend.clock.advance(89.5)
    task = asyncio.ensure_future(ready.next())
    await backend.clock.settle()
    assert not task.done()
    assert (await task).gone == (SourceKey(SOURCE, 0, "w1"),)
    assert 90 <= (backend.now() - (await backend.select(ALL))[0].updated_at) / 1000 < 90.7
    assert (await everything.next()).present[0].status is Status.STALE
    # The reaper's mark is no news.
    await backend.clock.advance(300)
    assert backend.directory.marked
    update = asyncio.ensure_future(backend.update_status(SOURCE, "w1", 0, Status.READY))
    assert (await ready.next()).present[0].status is Status.READY
    event = await everything.next()
    assert [record.status for record in event.present] == [Status.READY]
    assert await update
    await ready.close()
    await everything.close()


@pytest.mark.parametrize("resumed", [False, True])
async def test_what_runs_out_while_another_change_is_told_is_told_too(
    backend: FakeMetadataBackend, viewer: Viewer, monkeypatch: pytest.MonkeyPatch, resumed: bool
) -> None:
    await backend.publish(publication("w1"))
    await viewer.next()
    apply = backend.directory.apply

    def late(feed: Feed) -> None:
        apply(feed)
        # Those who were woken get to run only now.
        if any(isinstance(change, Put) and "w2" in change.entry.key for change in feed.changes):
            backend.clock.jump(0.2)

    monkeypatch.setattr(backend.directory, "apply", late)
    await backend.clock.advance(89.9)
    if resumed:
        await viewer.close()
        await backend.publish(publication("w2"))
        viewer = Viewer(backend, token=viewer.token)
        viewer.shown[SourceKey(SOURCE, 0, "w1")] = Status.READY
        await viewer.next()
    else:
        told = asyncio.ensure_future(viewer.next())
        await backend.clock.settle()
        await backend.publish(publication("w2"))
        await told
    for _ in range(2):
        if viewer.shown[SourceKey(SOURCE, 0, "w1")] is not Status.STALE:
            await viewer.next()
    assert viewer.shown == {SourceKey(SOURCE, 0, "w1"): Status.STALE, SourceKey(SOURCE, 0, "w2"): Status.READY}
    await viewer.close()


async def test_what_came_and_went_is_not_told(backend: FakeMetadataBackend) -> None:
    viewer = Viewer(backend, READY)
    await viewer.next()
    await backend.publish(publication("short"))
    await backend.withdraw(SOURCE, "short")
    await backend.publish(publication("long"))
    event = await viewer.next()
    assert [record.worker_id for record in event.present] == ["long"]
    assert event.gone == ()
    await viewer.close()


async def test_going_on_from_a_token(backend: FakeMetadataBackend) -> None:
    for name in ("stays", "goes", "changes"):
        await backend.publish(publication(name))
    viewer = Viewer(backend)
    await viewer.next()
    await viewer.close()
    await backend.withdraw(SOURCE, "goes")
    await backend.publish(publication("comes"))
    await backend.update_status(SOURCE, "changes", 0, Status.STALE)
    again = Viewer(backend, token=viewer.token)
    event = await again.next()
    assert not event.complete
    assert {record.worker_id for record in event.present} == {"comes", "changes"}
    assert [key.worker_id for key in event.gone] == ["goes"]
    await again.close()
    # Nothing new: nothing is told.
    last = Viewer(backend, token=again.token)
    await last.nothing()
    await last.close()


@pytest.mark.parametrize("token", ["x", "x:1", ":", "{own}:99999", "{own}:-1", "{own}:1e3", "{own}:" + "9" * 5000])
async def test_a_token_that_cannot_be_honoured(backend: FakeMetadataBackend, token: str) -> None:
    await backend.publish(publication())
    viewer = Viewer(backend)
    await viewer.next()
    await viewer.close()
    own = viewer.token.partition(":")[0]
    again = Viewer(backend, token=token.replace("{own}", own))
    assert (await again.next()).complete
    await again.close()


async def test_a_slow_watcher_is_told_everything_anew(
    backend: FakeMetadataBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers_module, "_TOPIC_RING", 5)
    slow = Viewer(backend, READY)
    await slow.next()
    for number in range(4):
        await backend.publish(publication(f"w{number}"))
    event = await slow.next()
    assert not event.complete
    assert len(event.present) == 4
    for number in range(4, 20):
        await backend.publish(publication(f"w{number}"))
        await backend.withdraw(SOURCE, f"w{number - 4}")
    event = await slow.next()
    assert event.complete
    assert slow.workers == {f"w{number}" for number in range(16, 20)}
    [topic] = backend.watchers._topics.values()
    assert len(topic.noted) <= 5
    await slow.close()
    assert backend.watchers.watching == 0
    assert not backend.watchers._by_source


async def test_watchers_end_with_the_server(backend: FakeMetadataBackend) -> None:
    events = backend.watch(ALL)
    await anext(events)
    waiting = asyncio.ensure_future(anext(events))
    await backend.clock.settle()
    await backend.close()
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(PeerloadError):
        await anext(backend.watch(ALL))


async def test_an_outage_ends_a_watch_and_is_no_empty_answer(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    events = backend.watch(ALL)
    token = (await anext(events)).resume_token
    waiting = asyncio.ensure_future(anext(events))
    backend.store.fail()
    await backend.clock.advance(60)
    assert not waiting.done()
    await backend.clock.advance(40)
    with pytest.raises(Unavailable):
        await waiting
    backend.store.heal()
    await backend.clock.advance(4)
    again = Viewer(backend, token=token)
    task = asyncio.ensure_future(again.next())
    await backend.publish(publication("w2"))
    assert not (await task).complete
    await again.close()


async def test_a_relisting_is_told_as_changes(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication("goes"))
    viewer = Viewer(backend)
    await viewer.next()
    backend.store.fail("watch", "list")
    inner = backend.store.store
    await inner.delete(SourceKey(SOURCE, 0, "goes").encode())
    backend.store.compact_feed()
    backend.store.heal()
    event = await viewer.next()
    assert not event.complete
    assert [key.worker_id for key in event.gone] == ["goes"]
    await viewer.close()


async def test_cancelling_one_watcher_leaves_the_others(backend: FakeMetadataBackend) -> None:
    viewers = [backend.watch(READY) for _ in range(3)]
    for events in viewers:
        await anext(events)
    waiting = [asyncio.ensure_future(anext(events)) for events in viewers]
    await backend.clock.settle()
    waiting[0].cancel()
    await backend.publish(publication())
    assert [len((await task).present) for task in waiting[1:]] == [1, 1]
    assert backend.watchers.watching == 2
    for events in viewers:
        await events.aclose()


async def test_a_thousand_watchers(backend: FakeMetadataBackend) -> None:
    watches = [backend.watch(READY) for _ in range(1000)]
    for events in watches:
        await anext(events)
    assert len(backend.watchers._topics) == 1
    waiting = [asyncio.ensure_future(anext(events)) for events in watches]
    await backend.clock.settle()
    await backend.publish(publication())
    answers = await asyncio.gather(*waiting)
    assert {answer.present[0].worker_id for answer in answers} == {"w1"}
    for events in watches:
        await events.aclose()
    assert backend.watchers.watching == 0


async def test_others_get_a_word_in_while_a_thousand_are_told(backend: FakeMetadataBackend) -> None:
    crowd = Crowd()
    waiting = [asyncio.ensure_future(crowd.wait()) for _ in range(1000)]
    await asyncio.sleep(0)
    waiting[3].cancel()
    crowd.wake()
    late = asyncio.ensure_future(crowd.wait())
    done = []
    while not all(each.done() for each in waiting):
        await asyncio.sleep(0)
        done.append(sum(each.done() for each in waiting))
    assert len(done) > 30
    assert not late.done()
    crowd.wake()
    await late


async def test_watchers_who_begin_together_are_told_one_thing(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    watches = [backend.watch(READY) for _ in range(3)]
    first, second = [await anext(events) for events in watches[:2]]
    assert first is second
    await backend.publish(publication("w2"))
    third = await anext(watches[2])
    assert third.complete
    assert len(third.present) == 2
    one, other = [await anext(events) for events in watches[:2]]
    assert one is other
    assert [record.worker_id for record in one.present] == ["w2"]
    for events in watches:
        await events.aclose()
