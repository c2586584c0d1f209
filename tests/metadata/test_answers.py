"""A list that was remembered is the one that would be made anew, whatever has happened since."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from hypothesis import example, given, settings
from hypothesis import strategies as st

from peerload.metadata.directory.answers import Answers
from peerload.metadata.query import Query
from peerload.metadata.records import SourceKey, Status
from peerload.metadata.transfers import Outcome, Transfer
from peerload.metadata.upkeep.dial import Answer
from peerload.testing.fake_backend import FakeMetadataBackend
from tests.metadata.publications import SOURCE, publication
from tests.metadata.test_probing import Network, listening

QUESTIONS = [
    Query(source_id=SOURCE, status=Status.READY, instances=True),
    Query(source_id=SOURCE, instances=True),
    Query(source_id=SOURCE, status=Status.READY, worker_rank=1, instances=True),
    Query(source_id=SOURCE, status=Status.READY, limit=1, instances=True),
    Query(model_name="org/model", status=Status.READY, limit=2, instances=True),
    Query(status=Status.STALE, instances=True),
    Query(instances=True),
]

WORKERS = st.sampled_from("abc")
RANKS = st.integers(0, 1)

steps = st.one_of(
    st.tuples(st.just("publish"), WORKERS, RANKS),
    st.tuples(st.just("publish another"), WORKERS, RANKS),
    st.tuples(st.just("beat"), WORKERS, RANKS),
    st.tuples(st.just("change"), WORKERS, RANKS),
    st.tuples(st.just("withdraw"), WORKERS, RANKS),
    st.tuples(st.just("fail"), WORKERS, RANKS),
    st.tuples(st.just("succeed"), WORKERS, RANKS),
    st.tuples(st.just("wait"), st.just(""), st.sampled_from((5, 40, 60))),
)


async def run(history: list[tuple[str, str, int]]) -> None:
    network = Network()
    network.default = Answer.REFUSED
    async with FakeMetadataBackend(dial=network.dial) as backend:
        for what, name, number in history:
            transfer = Transfer(SourceKey(SOURCE, number, name), Outcome.LOST, 0, 0.1, "tcp", "t1", 0, "h1")
            match what:
                case "publish":
                    await backend.publish(listening(name, rank=number, host="h1"))
                case "publish another":
                    await backend.publish(publication(name, number, model="org/another"))
                case "beat":
                    await backend.update_status(SOURCE, name, number, Status.READY, 0.25)
                case "change":
                    await backend.update_status(SOURCE, name, number, Status.INITIALIZING)
                case "withdraw":
                    await backend.withdraw(SOURCE, name, number)
                case "fail":
                    backend.report(transfer)
                case "succeed":
                    backend.report(replace(transfer, outcome=Outcome.OK))
                case _:
                    await backend.clock.advance(number)
            check(backend)
            # And what the store has heard of by then.
            await backend.settle()
            check(backend)


def check(backend: FakeMetadataBackend) -> None:
    remembered = [backend._lists.encoded(query) for query in QUESTIONS]
    backend._lists.answers = Answers(0)
    assert remembered == [backend._lists.encoded(query) for query in QUESTIONS]
    backend._lists.answers = Answers(2**20)
    for query in QUESTIONS:
        backend._lists.encoded(query)


@example([("publish", "a", 0), ("wait", "", 5), ("beat", "a", 0), ("fail", "a", 0), ("wait", "", 40), ("wait", "", 60)])
@settings(max_examples=20)
@given(st.lists(steps, min_size=5, max_size=15))
def test_what_is_remembered_is_true(history: list[tuple[str, str, int]]) -> None:
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
