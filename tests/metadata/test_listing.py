"""A directory that is told the store's listing in parts."""

from __future__ import annotations

from peerload.metadata.directory.directory import Directory, Seen
from peerload.metadata.query import Query
from peerload.metadata.records import SourceKey, Status
from peerload.metadata.settings import MetadataSettings
from peerload.store.base import Beat, Entry
from peerload.store.memory import MemoryStore
from peerload.testing import ManualClock
from tests.metadata.publications import publication

VALUE = publication().record.to_value()
READY = Query(status=Status.READY)


def source(number: int, stamp: int) -> Entry:
    key = SourceKey(f"{0:016x}", number, f"worker-{number}").encode()
    return Entry(key, VALUE, number + 1, number + 1, Beat(stamp), 1)


def server(since: int, until: int) -> Entry:
    return Entry(f"server/one/{since}", {"since": since}, 1, 1, Beat(until), None)


def listed(directory: Directory, *parts: tuple[Entry, ...]) -> None:
    directory.begin_list()
    for part in parts:
        directory.take_listed(part)
    directory.end_list()


def ready(directory: Directory) -> list[int]:
    return [ranks[0].record.worker_rank for ranks in directory.find(READY)]


def made() -> tuple[Directory, MemoryStore, ManualClock]:
    clock = ManualClock()
    store = MemoryStore(clock)
    return Directory(store, clock, MetadataSettings()), store, clock


async def test_nobody_runs_out_before_the_part_that_may_tell_of_its_heartbeat() -> None:
    directory, store, clock = made()
    begun = store.now()
    listed(directory, (server(begun, begun), source(0, begun)), (source(1, begun), source(2, begun)))
    assert ready(directory) == [0, 1, 2]
    await clock.advance(100)
    now = store.now()
    directory.begin_list()
    directory.take_listed((server(begun, now), source(0, now)))
    assert ready(directory) == [0, 1, 2]
    directory.take_listed((source(1, now), source(2, begun)))
    assert ready(directory) == [0, 1, 2]
    directory.end_list()
    # Two was not heard from.
    assert ready(directory) == [0, 1]


async def test_what_is_in_no_part_is_gone_when_all_of_them_are_there() -> None:
    directory, store, _ = made()
    told: list[Seen] = []
    now = store.now()
    listed(directory, (server(now, now), source(0, now), source(1, now)))
    directory.on_change = told.append
    directory.begin_list()
    directory.take_listed((source(2, now),))
    # It broke off, and what it did not come to is still there.
    assert ready(directory) == [0, 1, 2]
    listed(directory, (server(now, now), source(0, now)), (source(3, now),))
    assert ready(directory) == [0, 3]
    assert [(seen.key.worker_rank, seen.after is not None) for seen in told] == [
        (2, True),
        (3, True),
        (1, False),
        (2, False),
    ]


async def test_a_store_without_its_servers_has_lost_its_data() -> None:
    directory, store, _ = made()
    lost: list[None] = []
    directory.on_data_lost = lambda: lost.append(None)
    now = store.now()
    listed(directory, (server(now, now), source(0, now)))
    listed(directory, (server(now, now),), (source(0, now),))
    assert not lost
    listed(directory, (source(0, now),))
    assert lost
    assert directory.doubtful(READY)
