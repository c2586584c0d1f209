"""What a browser is told while it looks on: of workers, of what moves, and of the server itself."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from peerload import AsyncClient
from peerload.client import reports as reports_module
from peerload.metadata.query import Query
from peerload.metadata.records import SourceKey, Status
from peerload.metadata.watch_event import WatchEvent
from peerload.server.app import Server
from peerload.server.page import application as application_module
from peerload.server.page import fleet as fleet_module
from peerload.server.page import stream as stream_module
from peerload.server.page.condition import Condition
from peerload.server.page.fleet import Fleet
from peerload.server.page.stream import ABORT, EventStream, encoded
from peerload.testing.fake_backend import FakeMetadataBackend
from peerload.wire import p2p_pb2, sources_pb2, transfers_pb2
from peerload.wire.identity import source_id
from tests.client.quick import QUICK
from tests.metadata.publications import publication as publication_of
from tests.security.entries import TOKENS, write_access
from tests.support.http import Events, get, looking
from tests.support.redis import redis_process
from tests.support.rpc import AsyncRpc, identity, publication
from tests.support.server import serving

SOURCE = source_id(identity())
REF = sources_pb2.SourceRef(source_id=SOURCE, worker_id="w0")
TRANSFERS = "/peerload.v1.TransferService"


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_LEAST_PAUSE", 0.01)
    monkeypatch.setattr(stream_module, "_TICK_SECONDS", 0.05)
    monkeypatch.setattr(stream_module, "_HEALTH_SECONDS", 0.05)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(ui="127.0.0.1:0") as made:
        yield made


@pytest.fixture
async def rpc(server: Server) -> AsyncIterator[AsyncRpc]:
    async with AsyncRpc(server.address) as made:
        yield made


async def progress(rpc: AsyncRpc, **reading: Any) -> int:
    message = transfers_pb2.Reading(
        **{"attempt": "a1", "source": REF, "target": {"worker_id": "t", "host": "h"}, "engine": "tcp", **reading}
    )
    request = transfers_pb2.ProgressRequest(readings=[message])
    answer = await rpc.call(f"{TRANSFERS}/Progress", request, transfers_pb2.ProgressResponse)
    return answer.again_ms


async def test_workers_come_change_and_go(server: Server, rpc: AsyncRpc) -> None:
    await rpc.publish(publication("w0", topology={"host": "h0", "rack": "r"}))
    async with looking(server.ui_address) as events:
        hello = await events.until("hello")
        assert (hello["address"], hello["store"], hello["role"]) == (server.address, "memory:", "admin")
        first = await events.until("fleet")
        (worker,) = first["put"]
        assert first["reset"]
        assert (worker["worker"], worker["host"], worker["topology"]) == ("w0", "h0", {"rack": "r"})
        await rpc.publish(publication("w1"))
        second = await events.until("fleet")
        assert not second["reset"]
        assert [each["worker"] for each in second["put"]] == ["w1"]
        await rpc.update(mx_source_id=SOURCE, worker_id="w0", status=p2p_pb2.SOURCE_STATUS_READY, source_load=0.25)
        assert (await events.until("beats"))["beats"][::2] == [worker["n"], 25]
        await rpc.withdraw(source_id=SOURCE, worker_id="w0")
        assert (await events.until("fleet"))["gone"] == [worker["n"]]


async def test_what_moves_is_seen_from_its_beginning_to_its_end(server: Server, rpc: AsyncRpc) -> None:
    await rpc.publish(publication("w0"))
    assert await progress(rpc, attempt="before", bytes=1) == 5000
    async with looking(server.ui_address) as events:
        first = await events.until("traffic")
        assert first["reset"]
        assert [each["bytes"] for each in first["new"]] == [1]
        assert await progress(rpc, bytes=1000, total_bytes=8000, seconds=0.5) == 1000
        (moving,) = (await events.until("traffic", lambda data: data["new"]))["new"]
        assert (moving["from"], moving["to"], moving["toHost"], moving["bytes"]) == ("w0", "t", "h", 1000)
        await progress(rpc, bytes=3000, total_bytes=8000)
        assert (await events.until("traffic", lambda data: data["moved"]))["moved"] == [moving["n"], 3000]
        done = transfers_pb2.Transfer(
            source=REF, outcome=transfers_pb2.OUTCOME_OK, bytes=8000, seconds=1.0, engine="tcp", attempt="a1"
        )
        await rpc.call(f"{TRANSFERS}/Report", _report(done), transfers_pb2.ReportResponse)
        last = await events.until("traffic", lambda data: data["ended"])
        assert last["gone"] == [moving["n"]]
        assert [(each["outcome"], each["bytes"], each["attempt"]) for each in last["ended"]] == [
            ("ok", 8000, moving["n"])
        ]
    # Who comes later is told of what was.
    async with looking(server.ui_address) as events:
        later = await events.until("traffic")
        assert [each["outcome"] for each in later["ended"]] == ["ok"]
        assert sum(nbytes for _, nbytes in later["rates"]) == pytest.approx(8001, abs=3)


def _report(transfer: transfers_pb2.Transfer) -> transfers_pb2.ReportRequest:
    return transfers_pb2.ReportRequest(transfers=[transfer])


async def test_the_server_and_its_store_are_told_of(server: Server, rpc: AsyncRpc) -> None:
    await rpc.publish(publication("w0"))
    async with looking(server.ui_address) as events:
        assert server._page is not None
        assert server._page._condition is not None
        await server._page._condition.look()
        health = await events.until("health", lambda data: data["latencies"])
        assert (health["serving"], health["records"], health["lookers"], health["trouble"]) == (True, 1, 1, "")
        assert health["memory"] > 1 << 20


async def test_a_scope_holds_here_too(tmp_path: Path) -> None:
    access = write_access(tmp_path / "access.toml")
    async with serving(ui="127.0.0.1:0", access=str(access)) as server:
        async with AsyncRpc(server.address, TOKENS["admin"]) as rpc:
            await rpc.publish(publication("w0", "org/secret"))
            await rpc.publish(publication("w1", "team/open"))
            for model, worker in (("org/secret", "w0"), ("team/open", "w1")):
                ref = sources_pb2.SourceRef(source_id=source_id(identity(model)), worker_id=worker)
                await progress(rpc, attempt=model, source=ref, bytes=5)
            async with looking(server.ui_address, TOKENS["team"]) as events:
                hello = await events.until("hello")
                assert (hello["principal"], hello["models"]) == ("token:team", ["team/*"])
                told = str([await events.next() for _ in range(4)])
                assert "team/open" in told
                assert "secret" not in told
                health = await events.until("health")
                assert "records" not in health
        for token, status, words in (
            (None, 401, "no credentials"),
            ("wrong", 401, "the token is not known"),
        ):
            answer = await get(server.ui_address, "/api/events", token)
            assert answer.status == status
            assert words in answer.json["reason"]
        page = await get(server.ui_address, "/")
        assert page.status == 200


async def test_who_may_no_longer_look_is_told_so(tmp_path: Path) -> None:
    access = write_access(tmp_path / "access.toml")
    async with serving(ui="127.0.0.1:0", access=str(access)) as server:
        async with (
            looking(server.ui_address, TOKENS["reader"]) as events,
            looking(server.ui_address, TOKENS["alice"]) as others,
        ):
            await events.until("fleet")
            await others.until("fleet")
            write_access(access, without=["reader"])
            refusal = await events.until("refused")
            assert refusal["reason"].startswith("the token is not known")
            with pytest.raises(EOFError):
                while True:
                    await events.next()
            # Others are told everything anew.
            await others.until("hello")
            assert (await others.until("fleet"))["reset"]


async def test_the_end_of_the_server_waits_for_nobody() -> None:
    async with serving(ui="127.0.0.1:0") as server, looking(server.ui_address) as events:
        await events.until("fleet")
        async with asyncio.timeout(20):
            await server.stop()
            with pytest.raises((EOFError, asyncio.IncompleteReadError, ConnectionError)):
                while True:
                    await events.next()


async def test_only_so_many_look_on(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application_module, "_MOST_LOOKERS", 2)
    async with serving(ui="127.0.0.1:0") as other:
        async with looking(other.ui_address) as one, looking(other.ui_address) as two:
            await one.until("fleet")
            await two.until("fleet")
            answer = await get(other.ui_address, "/api/events")
            assert (answer.status, "browsers looking on" in answer.json["reason"]) == (429, True)


async def test_a_browser_that_takes_nothing_is_cut_off() -> None:
    ended = asyncio.Event()

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield encoded("health", {})
        finally:
            ended.set()

    left = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    await EventStream(events(), stall=0.01, ending=asyncio.Event())(
        {"type": "http", "state": {ABORT: left.set}}, receive, send
    )  # type: ignore[arg-type]
    assert left.is_set()
    assert ended.is_set()


async def test_who_reads_too_slowly_is_cut_off_and_finds_everything_anew(
    server: Server, rpc: AsyncRpc, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = Condition.now
    monkeypatch.setattr(Condition, "now", lambda self, principal: {**now(self, principal), "padding": "x" * (1 << 20)})
    await rpc.publish(publication("w0"))
    assert server._traffic is not None
    with monkeypatch.context() as impatient:
        impatient.setattr(application_module, "_STALL_SECONDS", 0.2)
        async with looking(server.ui_address) as events:
            await events.until("hello")
            # From now on it reads nothing: what is on its way piles up in the sockets, and then nobody waits for it.
            while server._traffic.watched:
                await asyncio.sleep(0.05)
            with pytest.raises((EOFError, asyncio.IncompleteReadError, ConnectionError)):
                while True:
                    await events.next()
    async with looking(server.ui_address) as events:
        fleet = await events.until("fleet")
        assert fleet["reset"]
        assert [each["worker"] for each in fleet["put"]] == ["w0"]


async def test_more_workers_than_a_browser_is_told_of_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "_MOST", 5)
    monkeypatch.setattr(fleet_module, "_AT_ONCE", 3)
    async with FakeMetadataBackend() as backend:
        for number in range(8):
            await backend.publish(publication_of(f"w{number}"))
        fleet = Fleet(backend.directory)
        records = tuple(ranks[0].view() for ranks in backend.directory.find(Query()))
        messages = list(fleet.changes(WatchEvent(True, records, (), "")))
        assert [message["reset"] for message in messages] == [True, False, False]
        assert sum(len(message["put"]) for message in messages) == 5
        assert messages[-1]["more"] == 3
        gone = SourceKey(records[0].source_id, 0, records[0].worker_id), SourceKey(records[7].source_id, 0, "w7")
        (message,) = fleet.changes(WatchEvent(False, (), gone, ""))
        assert (message["gone"], message["more"]) == ([1], 2)
        assert fleet.beats() == {"beats": []}
        assert records[0].status is Status.READY


async def test_a_real_pull_is_seen_while_it_lasts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports_module, "_FIRST_S", 0.01)
    monkeypatch.setattr(reports_module, "_LEAST_S", 0.01)
    tcp = {"tcp": {"max_bytes_per_second": 2 << 20}}
    settings = dataclasses.replace(QUICK, engines=("tcp",))
    async with (
        AsyncClient(server.address, settings=settings, engine_settings=tcp) as source,
        AsyncClient(server.address, settings=settings, topology={"host": "h9"}) as target,
        looking(server.ui_address) as events,
        source.publish({"w": bytes(2 << 20)}, model="org/model") as published,
    ):
        await events.until("fleet", lambda data: data["put"])
        pulling = asyncio.create_task(target.pull("org/model", publish=True))
        (moving,) = (await events.until("traffic", lambda data: data["new"]))["new"]
        assert (moving["from"], moving["toHost"], moving["total"]) == (published.worker_id, "h9", 2 << 20)
        (ended,) = (await events.until("traffic", lambda data: data["ended"]))["ended"]
        assert (ended["attempt"], ended["outcome"], ended["bytes"]) == (moving["n"], "ok", 2 << 20)
        weights = await pulling
        assert weights.source is not None
        # Who has read is a worker of that very name now.
        assert weights.source.worker_id == moving["to"] == ended["to"]
        await weights.source.close()


async def test_an_outage_of_the_store_is_told_and_its_end(tmp_path: Path) -> None:
    with redis_process(tmp_path / "redis", "--appendonly", "yes") as redis:
        async with serving(redis.fresh_url(), ui="127.0.0.1:0") as server, AsyncRpc(server.address) as rpc:
            await rpc.publish(publication("w0"))
            async with looking(server.ui_address) as events:
                await events.until("fleet", lambda data: data["put"])
                assert server._page is not None
                assert server._page._condition is not None
                redis.kill()
                await server._page._condition.look()
                health = await events.until("health", lambda data: data["lost"])
                assert health["serving"]
                assert health["trouble"]
                redis.start()
                await events.until("health", lambda data: not data["lost"])
                await server._page._condition.look()
                assert (await events.until("health", lambda data: not data["trouble"]))["records"] == 1


def test_events_are_one_line_whatever_is_in_them() -> None:
    hostile = "</script>\n\ndata: x\r\u2028\ud800"
    text = encoded("fleet", {"model": hostile})
    assert text.count(b"\n") == 3
    assert text.endswith(b"\n\n")
    assert isinstance(Events, type)
