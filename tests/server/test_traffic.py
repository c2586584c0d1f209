"""What the server makes of clients' tales of what moves: bounded whatever they tell, and in scope."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.errors import InvalidArgument, LimitExceeded, MissingField
from peerload.metadata.principals import ANYONE, Principal, Role
from peerload.metadata.records import SourceKey
from peerload.metadata.transfers import MAX_TRANSFERS, Outcome, Reading, Transfer
from peerload.server import traffic as traffic_module
from peerload.server.services.transfers import TransferService
from peerload.server.throughput import STEP_S, Throughput
from peerload.server.traffic import Traffic
from peerload.testing.fake_backend import FakeMetadataBackend
from peerload.wire import sources_pb2, transfers_pb2
from tests.metadata.publications import SOURCE
from tests.metadata.test_probing import listening

PEER = "ipv4:10.0.0.1:5000"
KEY = SourceKey(SOURCE, 0, "w1")


@pytest.fixture
async def backend() -> AsyncIterator[FakeMetadataBackend]:
    async with FakeMetadataBackend() as fake:
        await fake.publish(listening("w1"))
        yield fake


@pytest.fixture
def traffic(backend: FakeMetadataBackend) -> Traffic:
    return Traffic(backend.directory, backend.clock)


def reading(attempt: str = "a", nbytes: int = 10, **changes: Any) -> Reading:
    made = Reading(attempt, KEY, nbytes, 100, 1.0, "tcp", "t1", 0, "h1")
    return dataclasses.replace(made, **changes)


def transfer(attempt: str = "a", nbytes: int = 100, **changes: Any) -> Transfer:
    made = Transfer(KEY, Outcome.OK, nbytes, 4.0, "tcp", "t1", 0, "h1", attempt)
    return dataclasses.replace(made, **changes)


def moved(traffic: Traffic) -> int:
    return sum(nbytes for _, nbytes in traffic.throughput.since(0, lambda model: True))


async def test_a_read_begins_moves_and_ends(traffic: Traffic) -> None:
    traffic.progress(reading(), ANYONE, PEER)
    traffic.progress(reading(nbytes=40), ANYONE, PEER)
    (moving,) = traffic.moving
    assert (moving.source, moving.target, moving.nbytes, moving.total) == (KEY, SourceKey(SOURCE, 0, "t1"), 40, 100)
    assert moved(traffic) == pytest.approx(40, abs=2)
    traffic.finished(transfer(), ANYONE, PEER)
    (ended,) = traffic.ended
    assert (ended.attempt, ended.outcome, ended.nbytes) == (moving.number, Outcome.OK, 100)
    assert traffic.moving == []
    assert moved(traffic) == pytest.approx(100, abs=2)
    # What was under way, and what is told again, comes too late.
    traffic.progress(reading(nbytes=60), ANYONE, PEER)
    traffic.finished(transfer(), ANYONE, PEER)
    assert (traffic.moving, len(traffic.ended)) == ([], 1)


async def test_a_short_read_is_only_heard_of_at_its_end(traffic: Traffic) -> None:
    traffic.finished(transfer(attempt=""), ANYONE, PEER)
    traffic.finished(transfer(attempt=""), ANYONE, PEER)
    assert [(ended.number, ended.attempt) for ended in traffic.ended] == [(1, 0), (2, 0)]
    assert moved(traffic) == pytest.approx(200, abs=4)


async def test_who_gives_up_leaves_no_trace(traffic: Traffic) -> None:
    traffic.progress(reading(), ANYONE, PEER)
    traffic.progress(reading(nbytes=20, abandoned=True), ANYONE, PEER)
    traffic.progress(reading("never heard of", abandoned=True), ANYONE, PEER)
    assert (traffic.moving, list(traffic.ended), traffic._by_host) == ([], [], {})


async def test_who_falls_silent_is_forgotten(traffic: Traffic, backend: FakeMetadataBackend) -> None:
    traffic.progress(reading(), ANYONE, PEER)
    traffic.sweep()
    assert len(traffic.moving) == 1
    await backend.clock.advance(25)
    traffic.sweep()
    assert traffic.moving == []


async def test_clients_tell_oftener_while_somebody_looks(traffic: Traffic, backend: FakeMetadataBackend) -> None:
    service = TransferService(backend, traffic)
    assert traffic.again_s == 5.0
    traffic.watched = 1
    assert traffic.again_s == 1.0
    for number in range(800):
        traffic.progress(reading(str(number)), ANYONE, f"ipv4:10.0.0.{number % 10}:1")
    assert traffic.again_s == 4.0
    assert service.methods().keys() == {
        "/peerload.v1.TransferService/Progress",
        "/peerload.v1.TransferService/Report",
    }


async def test_nobody_invents_or_changes_what_is_not_his(traffic: Traffic) -> None:
    traffic.progress(reading(source=KEY._replace(worker_id="nobody")), ANYONE, PEER)
    traffic.progress(reading(), Principal("p", Role.READ, ("other/*",)), PEER)
    traffic.finished(transfer(), Principal("p", Role.READ, ("other/*",)), PEER)
    assert (traffic.moving, list(traffic.ended)) == ([], [])
    traffic.progress(reading(), ANYONE, PEER)
    traffic.progress(reading(nbytes=90), ANYONE, "ipv4:10.0.0.2:5000")
    traffic.finished(transfer(), ANYONE, "ipv4:10.0.0.2:5000")
    assert (traffic.moving[0].nbytes, list(traffic.ended)) == (10, [])
    traffic.progress(reading(nbytes=2**63, seconds=1e300), ANYONE, PEER)
    assert traffic.moving[0].nbytes == 100
    traffic.finished(transfer("", 2**64 - 1, seconds=1e300), ANYONE, PEER)
    assert traffic.ended[0].nbytes <= 1 << 50


async def test_what_is_heeded_is_bounded(
    traffic: Traffic, backend: FakeMetadataBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, limit in (("_MOST_MOVING", 6), ("_MOST_OF_ONE_HOST", 4), ("_HOSTS", 3), ("_MOST_NAMES", 2)):
        monkeypatch.setattr(traffic_module, name, limit)
    for number in range(10):
        traffic.progress(reading(f"one {number}"), ANYONE, PEER)
    assert len(traffic.moving) == 4
    for number in range(10):
        traffic.progress(reading(f"two {number}"), ANYONE, f"ipv4:10.1.1.{number}:1")
    assert len(traffic.moving) == 6
    assert len(traffic._allowances) == 3
    for number in range(5_000):
        traffic.finished(transfer(f"three {number}"), ANYONE, PEER)
    assert len(traffic.ended) == 1_000
    assert len(traffic._names) == 2
    # More than a host may tell at once; later it may again.
    before = traffic._told
    traffic.finished(transfer("late"), ANYONE, PEER)
    assert traffic._told == before
    await backend.clock.advance(1)
    traffic.finished(transfer("later"), ANYONE, PEER)
    assert traffic._told == before + 1


@given(st.lists(st.tuples(st.integers(0, 2**50), st.floats(0, 1e6), st.floats(0, 1e6)), max_size=20))
def test_steps_are_bounded_and_lose_nothing_that_is_recent(adds: list[tuple[int, float, float]]) -> None:
    throughput = Throughput()
    for nbytes, start, end in adds:
        throughput.add("m", nbytes, start, end)
    found = throughput.since(0, lambda model: True)
    assert len(found) <= 300
    assert throughput.since(0, lambda model: False) == [(number, 0) for number, _ in found]
    fresh = Throughput()
    fresh.add("m", 1000, 0.0, 10 * STEP_S - 1)
    assert fresh.since(0, lambda model: True) == [(number, 100) for number in range(10)]
    assert len(fresh.since(5, lambda model: True)) == 5


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"attempt": ""}, MissingField, r"readings\[0\]\.attempt"),
        ({"attempt": "a" * 100}, LimitExceeded, r"readings\[0\]\.attempt"),
        ({"source": sources_pb2.SourceRef(source_id="x")}, InvalidArgument, r"source\.source_id"),
        ({"source": sources_pb2.SourceRef(source_id=SOURCE)}, MissingField, r"source\.worker_id"),
        ({"seconds": float("nan")}, InvalidArgument, "seconds"),
        ({"engine": "e" * 2000}, LimitExceeded, "engine"),
    ],
)
def test_bad_progress_is_named(changes: dict[str, Any], error: type[Exception], field: str) -> None:
    ref = sources_pb2.SourceRef(source_id=SOURCE, worker_id="w1")
    message = transfers_pb2.Reading(**{"attempt": "a", "source": ref, **changes})
    with pytest.raises(error, match=field):
        Reading.from_progress(transfers_pb2.ProgressRequest(readings=[message]).SerializeToString())


@given(st.binary(max_size=200))
def test_progress_that_is_noise_is_refused_or_read(data: bytes) -> None:
    with contextlib.suppress(InvalidArgument):
        Reading.from_progress(data)
    many = transfers_pb2.ProgressRequest(readings=[{}] * (MAX_TRANSFERS + 1))
    with pytest.raises(LimitExceeded, match="readings"):
        Reading.from_progress(many.SerializeToString())
