"""A list that was remembered is the one that would be made anew, whatever has happened since, and the one that it is by definition."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, TypeAlias

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from peerload.errors import Unavailable
from peerload.metadata.directory.answers import Answers
from peerload.metadata.directory.held import Held
from peerload.metadata.query import Query
from peerload.metadata.records import SourceKey, Status
from peerload.metadata.settings import MetadataSettings
from peerload.metadata.transfers import Outcome, Transfer
from peerload.metadata.upkeep.dial import Answer
from peerload.store.memory import MemoryStore
from peerload.testing import ManualClock
from peerload.testing.fake_backend import FakeMetadataBackend
from peerload.testing.faulty_store import FaultyStore
from peerload.wire import p2p_pb2
from tests.metadata.publications import SOURCE, publication
from tests.metadata.test_probing import Network, listening

Shown: TypeAlias = tuple[Any, ...]

QUESTIONS = [
    Query(source_id=SOURCE, status=Status.READY, instances=True),
    Query(source_id=SOURCE, instances=True),
    Query(source_id=SOURCE, status=Status.READY, worker_rank=1, instances=True),
    Query(source_id=SOURCE, status=Status.READY, limit=1, instances=True),
    Query(model_name="org/model", status=Status.READY, limit=2, instances=True),
    Query(model_name="org/another", limit=1, instances=True),
    Query(source_id=SOURCE, worker_rank=0, limit=2, instances=True),
    Query(status=Status.STALE, instances=True),
    Query(instances=True),
]

WORKERS = st.sampled_from("abc")
RANKS = st.integers(0, 1)
SERVERS = st.integers(0, 1)
LOADS = st.sampled_from((0.25, 0.5))

steps = st.one_of(
    st.tuples(st.just("publish"), SERVERS, WORKERS, RANKS),
    st.tuples(st.just("publish another"), SERVERS, WORKERS, RANKS),
    st.tuples(st.just("beat"), SERVERS, WORKERS, RANKS, LOADS),
    st.tuples(st.just("change"), SERVERS, WORKERS, RANKS),
    st.tuples(st.just("withdraw"), SERVERS, WORKERS, RANKS),
    st.tuples(st.just("fail"), WORKERS, RANKS),
    st.tuples(st.just("succeed"), WORKERS, RANKS),
    st.tuples(st.just("feed"), st.sampled_from(("hang", "drop", "compact", "heal"))),
    st.tuples(st.just("wait"), st.sampled_from((5, 40, 60, 700))),
)


class World:
    """The server that is asked, whose feed may be disturbed, and another over the same store."""

    def __init__(self) -> None:
        network = Network()
        network.default = Answer.REFUSED
        clock = ManualClock()
        kept = MemoryStore(clock, feed_limit=20)
        # One that deletes after ten minutes.
        settings = MetadataSettings(gc_timeout=600)
        self.here, self.there = (
            FakeMetadataBackend(store=store, clock=clock, settings=settings, dial=network.dial)
            for store in (FaultyStore(kept), FaultyStore(kept))
        )
        self.clock = clock

    async def do(self, what: str, *how: Any) -> None:
        match what, *how:
            case "wait", seconds:
                await self.clock.advance(seconds)
            case "feed", fault:
                self.disturb(fault)
            case "fail" | "succeed", name, rank:
                outcome = Outcome.LOST if what == "fail" else Outcome.OK
                self.here.report(Transfer(SourceKey(SOURCE, rank, name), outcome, 0, 0.1, "tcp", "t1", 0, "h1"))
            case _, server, *rest:
                call = asyncio.ensure_future(self.write((self.here, self.there)[server], what, *rest))
                await self.clock.settle()
                while not call.done():
                    self.check()
                    await self.clock.advance(0.1)
                with contextlib.suppress(Unavailable):  # of a server that hears nothing from its store
                    await call

    async def write(self, server: FakeMetadataBackend, what: str, name: str, rank: int, load: float = 0.0) -> None:
        match what:
            case "publish":
                await server.publish(listening(name, rank=rank, host="h1"))
            case "publish another":
                await server.publish(publication(name, rank, model="org/another"))
            case "beat":
                await server.update_status(SOURCE, name, rank, Status.READY, load)
            case "change":
                await server.update_status(SOURCE, name, rank, Status.INITIALIZING)
            case _:
                await server.withdraw(SOURCE, name, rank)

    def disturb(self, fault: str) -> None:
        match fault:
            case "hang":
                self.here.store.hang("watch")
            case "drop":
                self.here.store.drop_feed()
            case "compact":
                self.here.store.compact_feed()
            case _:
                self.here.store.heal()

    def check(self) -> None:
        lists = self.here._lists
        questions = [*QUESTIONS, Query(min_updated_at=self.clock.wall_ms() - 30_000, instances=True)]
        remembered = [lists.encoded(query) for query in questions]
        lists.answers = Answers(0)
        assert remembered == [lists.encoded(query) for query in questions]
        lists.answers = Answers(2**20)
        for query in questions:
            found = p2p_pb2.ListSourcesResponse.FromString(lists.encoded(query)).instances
            assert [shown(each, query) for each in found] == self.simply(query)

    def simply(self, query: Query) -> list[Shown]:
        """What a list is by its definition, out of all records."""
        directory = self.here.directory
        directory.sweep()
        members: dict[tuple[str, str], list[Held]] = {}
        for held in sorted(directory._index.entries.values(), key=lambda held: held.record.key.worker_rank):
            members.setdefault((held.record.source_id, held.record.worker_id), []).append(held)
        found = []
        for (source_id, worker_id), ranks in members.items():
            chosen = [held for held in ranks if query.worker_rank in (None, held.record.worker_rank)][:1]
            heard = min(held.heard for held in ranks)
            if (
                chosen
                and query.concerns(chosen[0].record)
                and all(query.status in (None, held.shown) for held in ranks)
                and heard >= (query.min_updated_at or 0)
            ):
                suspect = any(held.suspect for held in ranks)
                of_equals = () if query.limit else (source_id, worker_id, chosen[0].record.worker_rank, chosen[0].load)
                place = (source_id, ranks[0].record.worker_rank, worker_id)
                found.append((suspect, -heard if query.limit else 0, () if query.limit else place, (heard, *of_equals)))
        return [each[-1] for each in sorted(found, key=lambda each: each[:-1])][: query.limit]


def shown(each: p2p_pb2.SourceInstanceRef, query: Query) -> Shown:
    """What is compared of an instance. Of those that were heard from at one time a limit takes any."""
    load = each.source_load if each.HasField("source_load") else None
    return (
        (each.updated_at,)
        if query.limit
        else (each.updated_at, each.mx_source_id, each.worker_id, each.worker_rank, load)
    )


async def run(history: list[tuple[Any, ...]]) -> None:
    world = World()
    async with world.here, world.there:
        for step in (("publish", 0, "a", 0), ("publish", 1, "b", 0), ("publish", 0, "c", 1), *history):
            await world.do(*step)
            world.check()
            # And what the store has heard of by then.
            await world.clock.advance(0.05)
            world.check()


@example([("fail", "a", 0), ("succeed", "a", 0), ("wait", 40), ("beat", 0, "a", 0, 0.5), ("wait", 60), ("wait", 700)])
@example(
    [
        ("wait", 5),
        ("beat", 0, "a", 0, 0.5),
        ("wait", 5),
        ("beat", 1, "c", 1, 0.25),
        ("wait", 5),
        ("withdraw", 1, "b", 0),
    ]
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=3, max_size=15))
def test_what_is_remembered_is_true(history: list[tuple[Any, ...]]) -> None:
    asyncio.run(run(history))


def test_only_of_the_same_state() -> None:
    answers = Answers(2**20)
    answers.keep(QUESTIONS[0], 1, b"one")
    assert answers.get(QUESTIONS[0], 1) == b"one"
    assert answers.get(QUESTIONS[0], 2) is None
    assert answers.get(QUESTIONS[1], 1) is None
    answers.keep(QUESTIONS[0], 2, b"")
    assert answers.get(QUESTIONS[0], 2) == b""


def test_those_asked_for_longest_ago_make_room() -> None:
    answers = Answers(100_000)
    for number in range(3):
        answers.keep(Query(worker_rank=number), 1, bytes(30_000))
    assert answers.get(Query(worker_rank=0), 1) is not None
    answers.keep(Query(worker_rank=3), 1, bytes(30_000))
    there = [number for number in range(4) if answers.get(Query(worker_rank=number), 1) is not None]
    assert there == [0, 2, 3]
    # What is replaced takes no room, and what is too large takes nobody's.
    for version in range(100):
        answers.keep(Query(worker_rank=3), version, bytes(30_000))
    answers.keep(Query(worker_rank=4), 1, bytes(60_000))
    assert [number for number in range(5) if answers.get(Query(worker_rank=number), 1) is not None] == [0, 2]
    assert answers.get(Query(worker_rank=3), 99) is not None
    for number in range(1_000):
        answers.keep(Query(worker_rank=number), 1, b"")
    assert sum(answers.get(Query(worker_rank=number), 1) is not None for number in range(1_000)) < 50
