"""Sources that were reported as failing come last until they prove themselves; no report makes one go."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.errors import InvalidArgument, LimitExceeded, MissingField
from peerload.metadata.query import Query
from peerload.metadata.records import SourceKey, Status
from peerload.metadata.settings import MetadataSettings
from peerload.metadata.transfers import MAX_TRANSFERS, Outcome, Transfer
from peerload.metadata.upkeep import suspicion as suspicion_module
from peerload.metadata.upkeep.dial import Answer
from peerload.testing.fake_backend import FakeMetadataBackend
from peerload.wire import sources_pb2, transfers_pb2
from tests.metadata.publications import SOURCE
from tests.metadata.test_probing import Network, beat, listening, ready

FAILED = [outcome for outcome in Outcome if outcome.failed]
DISPUTABLE = [Outcome.REFUSED, Outcome.UNREACHABLE, Outcome.LOST]


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
async def backend(network: Network) -> AsyncIterator[FakeMetadataBackend]:
    """Two workers, of which the first is listed first."""
    async with FakeMetadataBackend(dial=network.dial) as fake:
        for worker_id in ("w1", "w2"):
            await fake.publish(listening(worker_id))
        yield fake


def told(outcome: Outcome, worker_id: str = "w1", source_id: str = SOURCE) -> Transfer:
    return Transfer(SourceKey(source_id, 0, worker_id), outcome, 0, 0.1, "tcp", "t1", 0, "h1")


@pytest.mark.parametrize("outcome", FAILED)
async def test_a_source_that_failed_comes_last(backend: FakeMetadataBackend, outcome: Outcome) -> None:
    await beat(backend, "w1")  # newest first, so without the report it would be before the other in each of these
    assert await ready(backend) == ["w1", "w2"]
    assert [record.worker_id for record in await backend.select(Query(limit=1))] == ["w1"]
    backend.report(told(outcome))
    assert await ready(backend) == ["w2", "w1"]
    listed = await backend.select(Query(status=Status.READY))
    assert [(record.worker_id, record.suspect) for record in listed] == [("w2", False), ("w1", True)]
    assert [record.to_source().suspect for record in listed] == [False, True]
    assert [record.worker_id for record in await backend.select(Query(limit=1))] == ["w2"]
    stored = await backend.stored(SOURCE, "w1")
    assert stored is not None
    assert sources_pb2.GetManifestResponse.FromString(stored.manifest_response()).source.suspect


@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.BUSY, Outcome.UNSPECIFIED])
async def test_one_that_did_not_fail_does_not(backend: FakeMetadataBackend, network: Network, outcome: Outcome) -> None:
    backend.report(told(outcome))
    await backend.settle()
    assert await ready(backend) == ["w1", "w2"]
    assert network.asked == []


async def test_of_what_is_not_there_nothing_is_kept(backend: FakeMetadataBackend) -> None:
    backend.report(told(Outcome.CORRUPT, "nobody"))
    backend.report(told(Outcome.CORRUPT, source_id="0" * 16))
    assert len(backend._suspicions) == 0


@pytest.mark.parametrize("outcome", FAILED)
async def test_a_transfer_that_succeeds_is_proof(backend: FakeMetadataBackend, outcome: Outcome) -> None:
    backend.report(told(outcome))
    backend.report(told(Outcome.OK))
    assert await ready(backend) == ["w1", "w2"]


@pytest.mark.parametrize("outcome", FAILED)
async def test_a_new_publication_is_proof(backend: FakeMetadataBackend, outcome: Outcome) -> None:
    backend.report(told(outcome))
    await backend.publish(listening("w1"))
    assert await ready(backend) == ["w1", "w2"]
    await backend.clock.advance(1)
    assert len(backend._suspicions) == 0


@pytest.mark.parametrize("outcome", FAILED)
async def test_a_connection_and_a_heartbeat_prove_that_the_way_is_free(
    backend: FakeMetadataBackend, network: Network, outcome: Outcome
) -> None:
    network.default = Answer.ACCEPTED
    backend.report(told(outcome))
    await backend.settle()
    assert network.asked == (["w1"] if outcome in DISPUTABLE else [])
    assert await ready(backend) == ["w2", "w1"], "it has not been heard from since"
    await beat(backend, "w1")
    await backend.clock.advance(1)
    assert await ready(backend) == (["w1", "w2"] if outcome in DISPUTABLE else ["w2", "w1"])


async def test_a_heartbeat_alone_proves_nothing(backend: FakeMetadataBackend) -> None:
    backend.report(told(Outcome.LOST))
    await beat(backend, "w1")
    await backend.clock.advance(1)
    assert await ready(backend) == ["w2", "w1"]


async def test_nor_does_a_connection_after_bytes_were_wrong(backend: FakeMetadataBackend, network: Network) -> None:
    network.default = Answer.ACCEPTED
    backend.report(told(Outcome.CORRUPT))
    backend.report(told(Outcome.REFUSED))
    await beat(backend, "w1")
    await backend.clock.advance(1)
    assert network.asked == ["w1"]
    assert await ready(backend) == ["w2", "w1"]


async def test_after_a_while_somebody_may_try_again(backend: FakeMetadataBackend) -> None:
    backend.report(told(Outcome.STALLED))
    for _ in range(20):
        await backend.clock.advance(29)
        await beat(backend, "w1")
        await beat(backend, "w2")
    assert await ready(backend) == ["w2", "w1"]
    await backend.clock.advance(20)
    assert await ready(backend) == ["w1", "w2"]


async def test_one_report_has_the_source_asked_and_only_the_answer_hides_it(
    backend: FakeMetadataBackend, network: Network
) -> None:
    network.answers = {"w1": Answer.REFUSED}
    await backend.clock.advance(1)
    for worker_id in ("w1", "w2"):
        for _ in range(50):
            backend.report(told(Outcome.REFUSED, worker_id))
    await backend.settle()
    assert await ready(backend) == ["w2"]
    assert sorted(network.asked) == ["w1", "w2"]
    for _ in range(50):
        backend.report(told(Outcome.REFUSED, "w2"))
        await backend.clock.advance(0.1)
    assert network.asked.count("w2") == 2, "once in five seconds"
    # A healthy source behind a firewall: hidden once, whatever is reported.
    await beat(backend, "w1")
    assert await ready(backend) == ["w1", "w2"] or await ready(backend) == ["w2", "w1"]
    for _ in range(50):
        backend.report(told(Outcome.REFUSED, "w1"))
        await backend.clock.advance(0.5)
    assert "w1" in await ready(backend)


async def test_where_nobody_is_asked_reports_still_count() -> None:
    async with FakeMetadataBackend(settings=MetadataSettings(probe=False)) as backend:
        for worker_id in ("w1", "w2"):
            await backend.publish(listening(worker_id))
        backend.report(told(Outcome.REFUSED))
        assert await ready(backend) == ["w2", "w1"]


async def test_there_are_never_too_many(backend: FakeMetadataBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspicion_module, "_MOST", 1)
    backend.report(told(Outcome.CORRUPT, "w1"))
    backend.report(told(Outcome.CORRUPT, "w2"))
    assert len(backend._suspicions) == 1
    assert await ready(backend) == ["w1", "w2"]
    assert await backend.withdraw(SOURCE, "w2")
    await backend.clock.advance(1)
    assert len(backend._suspicions) == 0


def request(**changes: object) -> bytes:
    transfer = transfers_pb2.Transfer(
        source=sources_pb2.SourceRef(source_id=SOURCE, worker_id="w1", worker_rank=3),
        outcome=transfers_pb2.OUTCOME_OK,
        bytes=5,
        seconds=0.5,
        engine="tcp",
        target=transfers_pb2.Target(worker_id="t1", worker_rank=2, host="h"),
    )
    transfer.MergeFrom(transfers_pb2.Transfer(**changes))  # type: ignore[arg-type]
    return transfers_pb2.ReportRequest(transfers=[transfer]).SerializeToString()


def test_a_report_says_who_read_what_from_whom() -> None:
    (transfer,) = Transfer.from_report(request())
    assert transfer == Transfer(SourceKey(SOURCE, 3, "w1"), Outcome.OK, 5, 0.5, "tcp", "t1", 2, "h")
    assert Transfer.from_report(b"") == ()
    # What a newer client may say.
    (transfer,) = Transfer.from_report(request(outcome=77))
    assert transfer.outcome is Outcome.UNSPECIFIED


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"seconds": math.nan}, InvalidArgument, r"transfers\[0\]\.seconds"),
        ({"seconds": -1.0}, InvalidArgument, r"transfers\[0\]\.seconds"),
        ({"seconds": math.inf}, InvalidArgument, r"transfers\[0\]\.seconds"),
        ({"engine": "e" * 2000}, LimitExceeded, r"transfers\[0\]\.engine: has 2000 bytes, more than 1024"),
        ({"source": sources_pb2.SourceRef(source_id="x")}, InvalidArgument, r"source\.source_id: is not a source id"),
        ({"source": sources_pb2.SourceRef(worker_id="w" * 2000)}, LimitExceeded, r"source\.worker_id"),
        ({"target": transfers_pb2.Target(worker_id="w" * 2000)}, LimitExceeded, r"target\.worker_id"),
        ({"target": transfers_pb2.Target(host="h" * 2000)}, LimitExceeded, r"target\.host"),
    ],
)
def test_bad_reports_name_the_field(changes: dict[str, object], kind: type[InvalidArgument], message: str) -> None:
    with pytest.raises(kind, match=message):
        Transfer.from_report(request(**changes))


def test_reports_are_bounded_and_complete() -> None:
    many = transfers_pb2.ReportRequest.FromString(request())
    many.transfers.extend(many.transfers[0] for _ in range(MAX_TRANSFERS))
    with pytest.raises(LimitExceeded, match=r"transfers: has 101 transfers, more than 100"):
        Transfer.from_report(many.SerializeToString())
    for source in (sources_pb2.SourceRef(worker_id="w"), sources_pb2.SourceRef(source_id=SOURCE)):
        lacking = transfers_pb2.ReportRequest(transfers=[transfers_pb2.Transfer(source=source)])
        with pytest.raises(MissingField, match=r"transfers\[0\]\.source"):
            Transfer.from_report(lacking.SerializeToString())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_report_or_refused(data: bytes) -> None:
    try:
        Transfer.from_report(data)
    except InvalidArgument:
        pass
