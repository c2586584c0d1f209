"""What is remembered of lists that matched nothing: as one where they are one, bounded, clean, off the path of answers."""

from __future__ import annotations

import asyncio
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from peerload.errors import Unavailable
from peerload.metadata.principals import ANYONE
from peerload.metadata.query import Query
from peerload.server.diagnosis.finding import FIELDS
from peerload.server.diagnosis.memory import MOST_BYTES, MOST_MISSES
from peerload.server.diagnosis.misses import Misses
from peerload.server.diagnosis.question import Call
from peerload.server.diagnosis.shown import host_of, kept, parameter
from peerload.server.metrics import Metrics
from peerload.server.services.p2p import P2pService
from peerload.server.services.parsing import Parser
from peerload.testing.fake_backend import FakeMetadataBackend
from peerload.wire import p2p_pb2
from tests.diagnosis.questions import identity, worker

READY = p2p_pb2.SOURCE_STATUS_READY
PEER = "ipv4:10.0.0.1:4711"


class Here:
    """A call in this process, in place of a transport's."""

    deadline = None
    client_certificate = None
    principal = ANYONE

    def __init__(self, peer: str = PEER) -> None:
        self.peer = peer
        self.metadata: dict[str, tuple[str | bytes, ...]] = {}

    def set_trailing_metadata(self, *pairs: tuple[str, str | bytes]) -> None:
        raise AssertionError("nothing to send")


class Server:
    """The stock service over a backend, with what remembers its misses."""

    def __init__(self, backend: FakeMetadataBackend) -> None:
        self.backend = backend
        self.metrics = Metrics()
        self.misses = Misses(backend, backend.clock, self.metrics)
        self.memory = self.misses.memory
        self._p2p = P2pService(backend, backend.clock, Parser(), self.misses)

    async def list(self, asked: p2p_pb2.SourceIdentity | None = None, peer: str = PEER, **filters: int) -> bytes:
        request = p2p_pb2.ListSourcesRequest(identity=asked, status_filter=READY, **filters)
        return await self._p2p.list_sources(request.SerializeToString(), Here(peer))

    def counted(self) -> dict[str, float]:
        """The misses by field, as Prometheus reads them; without those that are 0."""
        return {
            sample.labels["field"]: sample.value
            for metric in self.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == "peerload_list_misses_total" and sample.value
        }


@pytest.fixture
async def server(backend: FakeMetadataBackend) -> Server:
    await backend.publish_metadata(identity(), worker(), "w")
    return Server(backend)


async def test_one_question_with_one_reason_is_one_miss(server: Server) -> None:
    clock = server.backend.clock
    with capture_logs() as lines:
        for round_ in range(20):
            for pod in range(5):
                assert await server.list(identity(mx_version="0.6.1"), f"ipv4:10.0.0.{pod}:{4000 + round_}") == b""
            await server.misses.settle()
            await clock.advance(3)
        await server.list(identity(mx_version="0.6.1"), worker_rank_filter=1)
        await server.misses.settle()
    other, one = server.memory.latest()
    occurred = one.occurred
    assert (occurred.count, occurred.last - occurred.first) == (100, 19 * 3_000)
    assert list(occurred.peers) == [f"10.0.0.{pod}" for pod in range(5)]
    assert one.verdict.text == "no match: mx_version 0.6.1, sources have 0.7.0"
    assert (one.call, one.model) == ("ListSources", "org/Llama-3-8B")
    assert ("status", "", "READY") in one.asked
    assert [finding.field for finding in other.verdict.findings] == ["mx_version", "worker_rank"]
    assert server.counted() == {"mx_version": 101}
    assert [line["reason"] for line in lines] == [one.verdict.text, other.verdict.text]


async def test_a_moving_moment_in_the_question_makes_no_new_one(server: Server) -> None:
    for moment in range(10):
        await server.list(identity(), min_updated_at=2_000_000_000_000 + moment, limit=moment)
    await server.misses.settle()
    (miss,) = server.memory.latest()
    assert (miss.occurred.count, miss.verdict.field) == (10, "min_updated_at")


async def test_another_reason_is_another_miss(server: Server) -> None:
    asked = identity(model_name="org/absent")
    await server.list(asked)
    await server.misses.settle()
    await server.backend.publish_metadata(identity(model_name="org/absent", dtype="int8"), worker(), "w")
    await server.list(asked)
    await server.misses.settle()
    assert [miss.verdict.field for miss in server.memory.latest("ORG/absent")] == ["dtype", "absent"]


async def test_what_matches_is_not_noted_and_no_list_asks_the_store(server: Server) -> None:
    calls = server.backend.store.calls.copy()
    assert await server.list(identity())
    assert not await server.list(identity(mx_version="0.6.1"))
    assert server.backend.store.calls == calls
    server.backend.store.hang("blob")
    await asyncio.wait_for(server.list(identity(mx_version="0.6.2")), 10)
    server.backend.store.heal()
    await server.misses.settle()
    assert len(server.memory) == 2
    # One identity stands for all questions about its source.
    before = server.backend.store.calls.copy()
    for version in range(50):
        await server.list(identity(mx_version=f"1.{version}"))
    await server.misses.settle()
    assert server.backend.store.calls == before


async def test_an_outage_is_no_miss(server: Server) -> None:
    server.backend.store.fail()
    await server.backend.clock.advance(91)
    with pytest.raises(Unavailable):
        await server.list(identity(model_name="org/absent"))
    await server.misses.settle()
    assert not list(server.memory.latest())
    assert server.counted() == {}
    known = server.misses.unanswered
    assert (known.count, known.reason) == (1, server.backend.reason)
    server.backend.store.heal()


async def test_what_comes_before_it_is_looked_into_is_not_told_as_absent(server: Server) -> None:
    await server.list(identity(mx_version="0.8.0"))
    await server.backend.publish_metadata(identity(mx_version="0.8.0"), worker(), "w")
    await server.misses.settle()
    (miss,) = server.memory.latest()
    assert miss.verdict.text == "no match: there was none then; 1 source matches since"


async def test_the_task_looks_into_what_is_noted_by_itself(server: Server) -> None:
    task = asyncio.create_task(server.misses.run())
    await server.list(identity(mx_version="0.6.1"))
    await server.backend.clock.advance(1)
    for version in range(100):
        await server.list(identity(mx_version=f"1.{version}"))
    await server.backend.clock.advance(20)
    assert len(server.memory) == 101
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_defect_is_logged_and_the_server_goes_on(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerload.server.diagnosis.judge.similar", lambda *_: 1 // 0)
    await server.list(identity(mx_version="0.6.1"))
    with capture_logs() as lines:
        await server.misses.settle()
    assert lines[0]["log_level"] == "error"
    (miss,) = server.memory.latest()
    assert miss.verdict.field == "unknown"


async def test_the_memory_is_bounded_in_number(server: Server) -> None:
    with capture_logs() as lines:
        for number in range(2_000):
            await server.list(identity(mx_version=f"1.{number}"))
            if number % 500 == 0:
                await server.misses.settle()
        await server.misses.settle()
    assert len(server.memory) == MOST_MISSES == 1_000
    assert ("mx_version", "", "1.1999") in next(server.memory.latest()).asked
    assert server.counted() == {"mx_version": 2_000}
    assert len(lines) == 10


async def test_a_flood_is_bounded_before_it_is_looked_into(server: Server) -> None:
    for number in range(3_000):
        await server.list(identity(mx_version=f"1.{number}"))
    await server.misses.settle()
    counted = server.counted()
    assert counted["mx_version"] == 1_024
    assert sum(counted.values()) == 3_000


async def test_huge_identities_are_compared_and_not_kept(server: Server) -> None:
    huge = {f"key {index} {'k' * 1_000}": "\U0001f600" * 2_000 for index in range(25)}
    for number in range(40):
        assert not await server.list(identity(extra_parameters=huge | {"number": str(number)}, model_name="m" * 4_000))
        await server.list(identity(extra_parameters={f"{key} {number}": value for key, value in huge.items()}))
        await server.misses.settle()
    assert len(server.memory) == 80
    assert server.memory.size <= 80 * 64 * 1024 < MOST_BYTES
    latest = next(server.memory.latest())
    assert all(len(text) <= 600 for each in latest.asked for text in each)
    assert all(finding.field == "extra_parameters" for finding in latest.verdict.findings)


async def test_the_memory_is_bounded_in_bytes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerload.server.diagnosis.memory.MOST_BYTES", 100_000)
    for number in range(200):
        await server.list(identity(dtype="x" * 400 + str(number), quantization="\N{SNOWMAN}" * 400))
        await server.misses.settle()
    assert 10 < len(server.memory) < 100
    assert server.memory.size <= 100_000


async def test_what_nobody_can_publish_is_told_by_its_size(server: Server) -> None:
    for _ in range(3):
        await server.list(identity(extra_parameters={"x": "y" * 600_000}))
    (miss,) = server.memory.latest()
    assert (miss.verdict.field, miss.occurred.count) == ("oversize", 3)
    assert server.counted() == {"oversize": 3}


async def test_hosts_are_bounded(server: Server) -> None:
    for number in range(200):
        await server.list(identity(mx_version="0.6.1"), f"ipv4:10.0.{number}.1:1")
    await server.misses.settle()
    (miss,) = server.memory.latest()
    assert (len(miss.occurred.peers), miss.occurred.more_peers, miss.occurred.count) == (64, True, 200)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.1:4711", "10.0.0.1"),
        ("ipv6:[::1]:4711", "::1"),
        ("ipv6:%5B::1%5D:4711", "::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", "fe80::1%eth0"),
        ("unix:", "unix:"),
        ("test\n", "test\\n"),
    ],
)
def test_hosts_of_peers(peer: str, host: str) -> None:
    assert host_of(peer) == host


def clean(text: str) -> bool:
    return not any(unicodedata.category(char)[0] == "C" or unicodedata.category(char) in ("Zl", "Zp") for char in text)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@given(text=TEXTS | st.text(max_size=2_000))
def test_no_text_breaks_a_line(text: str) -> None:
    for shown in (kept(text), parameter(text, text), host_of(text)):
        assert clean(shown)
        assert sys.getsizeof(shown) < 64 * 1024


@pytest.mark.parametrize(
    ("key", "hidden"),
    [
        *(
            (key, True)
            for key in ("HF_TOKEN", "apiKey", "api-key", "secret", "db.password", "hftoken", "Authorization")
        ),
        *(
            (key, False)
            for key in ("tokenizer", "max_tokens", "layout_signature", "kv_cache", "training_step", "peerload.form")
        ),
    ],
)
def test_values_under_keys_of_secrets_are_hidden(key: str, hidden: bool) -> None:
    assert (parameter(key, "s3cr3t") == "(hidden)") is hidden


@given(
    model=TEXTS.filter(bool),
    texts=st.lists(TEXTS, min_size=8, max_size=8),
    parameters=st.dictionaries(TEXTS, TEXTS, max_size=4),
    published=st.dictionaries(TEXTS, TEXTS, max_size=4),
    numbers=st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3),
    stamp=st.integers(-(2**63), 2**63 - 1),
    step=st.integers(0, 2**64 - 1),
)
async def test_nothing_that_clients_send_breaks_it(
    model: str,
    texts: list[str],
    parameters: dict[str, str],
    published: dict[str, str],
    numbers: list[int],
    stamp: int,
    step: int,
) -> None:
    names = (
        "mx_version",
        "dtype",
        "quantization",
        "revision",
        "torch_version",
        "cuda_version",
        "gpu_arch",
        "triton_version",
    )
    sizes = ("tensor_parallel_size", "pipeline_parallel_size", "expert_parallel_size")
    fields = dict(zip(names, texts, strict=True)) | dict(zip(sizes, numbers, strict=True))
    asked = p2p_pb2.SourceIdentity(model_name=model, extra_parameters=parameters, **fields)
    async with FakeMetadataBackend() as backend:
        await backend.publish_metadata(
            p2p_pb2.SourceIdentity(model_name=model, extra_parameters=published), worker(numbers[0]), "w"
        )
        server = Server(backend)
        with capture_logs() as lines:
            await server.list(asked, peer=texts[0], min_updated_at=stamp, min_training_step=step)
            await server.list(asked, worker_rank_filter=numbers[0])
            await server.misses.settle()
        for miss in server.memory.latest():
            assert miss.verdict.field in FIELDS
            assert miss.verdict.field != "unknown"
            for text in (miss.verdict.text, miss.model, *(part for each in miss.asked for part in each)):
                assert clean(text)
        for line in lines:
            assert all(clean(str(value)) for value in line.values())
        assert server.counted().keys() <= set(FIELDS)


async def test_a_note_without_its_request_is_still_a_question(server: Server) -> None:
    """What cannot be decoded never gets so far; if it did, nothing would be lost but the identity."""
    server.misses.note(Call.LIST, Query(model_name="org/absent"), b"\xff", PEER)
    await server.misses.settle()
    (miss,) = server.memory.latest("org/absent")
    assert "nobody publishes it" in miss.verdict.text
