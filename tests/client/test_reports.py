"""Pulls tell the server how their reads ended, and are never held up by it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

import numpy as np
import pytest

from peerload import AsyncClient, ClientSettings, Selector, Status
from peerload.client import reports as reports_module
from peerload.client.connection import Connection
from peerload.errors import DeadlineExceeded, Fault, PullFailed, TransferFailed
from peerload.metadata.principals import Principal
from peerload.metadata.transfers import Outcome, Reading, Transfer
from peerload.server.app import Server
from peerload.wire import transfers_pb2
from tests.client.quick import QUICK
from tests.client.worker import content
from tests.client.workers import working

NEAR, FAR = {"host": "near"}, {"host": "far"}


@pytest.fixture
def heard(server: Server, monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[Transfer]:
    """What the server is told, in order."""
    queue: asyncio.Queue[Transfer] = asyncio.Queue()
    report = server.backend.report

    def listen(transfer: Transfer, principal: Principal) -> None:
        report(transfer, principal)
        queue.put_nowait(transfer)

    monkeypatch.setattr(server.backend, "report", listen)
    return queue


def client(server: Server, topology: dict[str, str] | None = None, **settings: Any) -> AsyncClient:
    return AsyncClient(server.address, settings=dataclasses.replace(QUICK, **settings), topology=topology)


async def test_who_read_how_much_from_whom(server: Server, heard: asyncio.Queue[Transfer]) -> None:
    async with client(server) as source, client(server, NEAR) as target:
        async with source.publish({"w": np.ones(1000)}, model="org/model") as published:
            pulled = await target.pull("org/model", publish=True)
            transfer = await heard.get()
        assert pulled.source is not None
        assert transfer.source == published.key
        assert (transfer.outcome, transfer.nbytes, transfer.engine) == (Outcome.OK, 8000, "tcp")
        assert (transfer.target_worker_id, transfer.target_host) == (pulled.source.worker_id, "near")
        assert transfer.seconds > 0


async def test_the_last_report_of_a_client_arrives(server: Server, heard: asyncio.Queue[Transfer]) -> None:
    async with client(server) as source, source.publish({"w": b"bytes"}, model="org/model"):
        async with client(server) as target:
            await target.pull("org/model")
        assert heard.get_nowait().outcome is Outcome.OK


async def test_what_was_wrong_is_told_and_the_next_one_is_warned(
    server: Server, heard: asyncio.Queue[Transfer]
) -> None:
    good, bad = np.ones(1000), np.ones(1000)
    async with client(server, NEAR) as near, client(server, FAR) as far, client(server, NEAR) as target:
        async with near.publish({"w": bad}, model="org/model") as liar, far.publish({"w": good}, model="org/model"):
            bad[7] = 2.0
            await target.pull("org/model")
            first, second = await heard.get(), await heard.get()
            assert (first.source, first.outcome, first.nbytes) == (liar.key, Outcome.CORRUPT, 0)
            assert second.outcome is Outcome.OK
            assert {info.worker_id: info.suspect for info in await target.find()} == {
                liar.worker_id: True,
                second.source.worker_id: False,
            }
            # Nearer, but suspect: the next pull does not begin there.
            async with client(server, NEAR) as next_target:
                pulled = await next_target.pull("org/model")
            assert [attempt.source.worker_id for attempt in pulled.report.attempts] == [second.source.worker_id]


async def test_a_killed_source_is_asked_at_once_and_gone(server: Server, heard: asyncio.Queue[Transfer]) -> None:
    """Long before its heartbeat is overdue: a report brings the question forward."""
    async with (
        working(server.address, {"t": (1, 1000)}) as dying,
        working(server.address, {"t": (1, 1000)}, topology=FAR) as other,
        client(server) as target,
    ):
        await dying.kill()
        pulled = await target.pull("org/model")
        assert bytes(pulled["t"].memory) == content(1, 1000)
        # The nearer one was tried first.
        refused, ok = await heard.get(), await heard.get()
        assert (refused.source.worker_id, refused.outcome) == (dying.worker_id, Outcome.REFUSED)
        assert (ok.source.worker_id, ok.outcome) == (other.worker_id, Outcome.OK)
        listed: set[str] = set()
        async for change in target.watch(Selector(model="org/model", status=Status.READY)):
            listed |= {info.worker_id for info in change.present}
            listed -= {key.worker_id for key in change.gone}
            if listed == {other.worker_id}:
                break


async def test_a_server_that_takes_no_reports_holds_nobody_up(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def hang(self: Any, request: Any, *, timeout: float) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr("peerload.client.connection.Connection.report", hang)
    monkeypatch.setattr(reports_module, "_LAST_WORDS_S", 0.01)
    monkeypatch.setattr(reports_module, "_MOST", 2)
    async with client(server) as source, source.publish({"w": b"bytes"}, model="org/model"):
        async with client(server) as target:
            for _ in range(4):
                await target.pull("org/model")
            assert len(target._reports._sending) == 2
    assert not target._reports._sending


async def test_an_older_server_is_only_noted(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("peerload.client.connection._TRANSFERS", "/peerload.v0.NoSuchService/")
    with caplog.at_level(logging.DEBUG, "peerload.client"):
        async with client(server) as source, source.publish({"w": b"bytes"}, model="org/model"):
            async with client(server) as target:
                await target.pull("org/model")
    assert "a report was not taken" in caplog.text


async def test_what_is_cancelled_says_nothing(server: Server, heard: asyncio.Queue[Transfer]) -> None:
    tcp = {"tcp": {"max_bytes_per_second": 1 << 20}}
    async with AsyncClient(server.address, settings=QUICK, engine_settings=tcp) as source, client(server) as target:
        async with source.publish({"w": bytes(8 << 20)}, model="org/model"):
            reading = asyncio.Event()
            pull = asyncio.create_task(target.pull("org/model", progress=lambda step: reading.set()))
            await reading.wait()
            pull.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pull
    assert heard.empty()


async def test_a_source_that_refuses_is_told_of_each_time(server: Server, heard: asyncio.Queue[Transfer]) -> None:
    async with client(server) as source, client(server, tries=2) as target:
        async with source.publish({"w": b"bytes"}, model="org/model") as published:
            for exporter, _ in published._publications:
                await asyncio.to_thread(exporter.close)
            with pytest.raises(PullFailed):
                await target.pull("org/model")
            first = await heard.get()
            assert (first.source, first.outcome, first.nbytes) == (published.key, Outcome.REFUSED, 0)


async def test_nor_does_a_reader_who_has_no_more_time(server: Server, heard: asyncio.Queue[Transfer]) -> None:
    tcp = {"tcp": {"max_bytes_per_second": 1 << 20}}
    async with AsyncClient(server.address, settings=QUICK, engine_settings=tcp) as source, client(server) as target:
        async with source.publish({"w": bytes(8 << 20)}, model="org/model"):
            with pytest.raises(DeadlineExceeded):
                await target.pull("org/model", timeout=0.2)
            (found,) = await target.find()
            with pytest.raises(TransferFailed) as failed:
                await target.read(await target.manifest(found), timeout=0.1)
            assert failed.value.fault is Fault.OURS
    assert heard.empty()


# While they last


@pytest.fixture
def tellings(monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[transfers_pb2.ProgressRequest]:
    """What is told of reads that have not ended, in order; the client tells it as fast as it can."""
    queue: asyncio.Queue[transfers_pb2.ProgressRequest] = asyncio.Queue()
    progress = Connection.progress

    async def listen(self: Connection, request: Any, *, timeout: float) -> transfers_pb2.ProgressResponse:
        answer = await progress(self, request, timeout=timeout)
        queue.put_nowait(request)
        return answer

    monkeypatch.setattr(Connection, "progress", listen)
    monkeypatch.setattr(reports_module, "_FIRST_S", 0.001)
    return queue


async def test_a_long_read_is_told_of_while_it_lasts(
    server: Server, heard: asyncio.Queue[Transfer], tellings: asyncio.Queue[transfers_pb2.ProgressRequest]
) -> None:
    tcp = {"tcp": {"max_bytes_per_second": 4 << 20}}
    async with AsyncClient(server.address, settings=QUICK, engine_settings=tcp) as source, client(server) as target:
        async with source.publish({"w": bytes(2 << 20)}, model="org/model") as published:
            pull = asyncio.create_task(target.pull("org/model"))
            (reading,) = Reading.from_progress((await tellings.get()).SerializeToString())
            await pull
            transfer = await heard.get()
        assert (reading.source, reading.total, reading.engine) == (published.key, 2 << 20, "tcp")
        assert 0 <= reading.nbytes <= 2 << 20
        assert (transfer.attempt, transfer.target_worker_id) == (reading.attempt, reading.target_worker_id)


async def test_who_gives_up_says_so(
    server: Server, heard: asyncio.Queue[Transfer], tellings: asyncio.Queue[transfers_pb2.ProgressRequest]
) -> None:
    tcp = {"tcp": {"max_bytes_per_second": 1 << 20}}
    async with AsyncClient(server.address, settings=QUICK, engine_settings=tcp) as source, client(server) as target:
        async with source.publish({"w": bytes(8 << 20)}, model="org/model"):
            pull = asyncio.create_task(target.pull("org/model"))
            first = (await tellings.get()).readings[0]
            pull.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pull
            last = (await tellings.get()).readings[0]
    assert (first.abandoned, last.abandoned, last.attempt) == (False, True, first.attempt)
    assert heard.empty()


async def test_who_does_not_want_to_tells_nothing(
    server: Server, heard: asyncio.Queue[Transfer], tellings: asyncio.Queue[transfers_pb2.ProgressRequest]
) -> None:
    async with client(server) as source, source.publish({"w": b"bytes"}, model="org/model"):
        async with client(server, reports=False) as target:
            await target.pull("org/model")
            assert target._reports._telling is None
    assert heard.empty()
    assert tellings.empty()
    assert not ClientSettings.from_env({"PEERLOAD_REPORTS": "off"}).reports
