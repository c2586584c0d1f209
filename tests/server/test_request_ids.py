"""Request ids: taken from the caller or made, in every log line of a call and beside every error; and the level of the log."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from peerload import AsyncClient
from peerload.errors import PeerloadError
from peerload.server import logs
from peerload.server.calls import Calls
from peerload.server.fronts.front import Front
from peerload.server.fronts.grpc import GrpcFront
from peerload.server.fronts.h2corn import H2cornFront
from peerload.server.measures.calls import CallMeasures
from peerload.server.requests import CURRENT, request_id
from peerload.server.rpc import Context, UnaryMethod
from peerload.testing import ManualClock
from tests.support.live import LiveServer, Rpc, eventually
from tests.support.server import serving

MADE = re.compile(r"[0-9a-f]{16}")


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    logs.configure("debug", "json", out)
    yield out
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("peerload").setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    structlog.reset_defaults()


async def broken(request: bytes, context: Context) -> bytes:
    structlog.get_logger("peerload.server").warning("on the way")
    await asyncio.to_thread(logging.getLogger("peerload.store").warning, "elsewhere")
    raise ValueError("a defect")


async def well(request: bytes, context: Context) -> bytes:
    return b""


@pytest.fixture(params=[GrpcFront, H2cornFront])
async def address(request: pytest.FixtureRequest, lines: io.StringIO) -> AsyncIterator[str]:
    methods = {"/t.T/Broken": UnaryMethod(broken), "/t.T/Well": UnaryMethod(well)}
    front: Front = request.param(CallMeasures(ManualClock()).wrap(Calls().wrap(methods)))
    yield await front.start("127.0.0.1:0")
    await front.stop(0.0)


async def failed(address: str, *metadata: tuple[str, str]) -> tuple[grpc.StatusCode, str]:
    """What a call comes to, and the id beside the error."""
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary("/t.T/Broken")(b"", metadata=metadata, timeout=20)
    trailing = dict(error.value.trailing_metadata() or ())
    return error.value.code(), str(trailing["x-request-id"])


async def test_an_id_is_taken_from_the_caller_and_stands_in_every_line_and_beside_the_error(
    address: str, lines: io.StringIO
) -> None:
    assert await failed(address, ("x-request-id", "job-7/pull:2")) == (grpc.StatusCode.INTERNAL, "job-7/pull:2")
    # Under load gRPC's client tells asyncio's logger of reads that found nothing.
    told = [line for line in map(json.loads, lines.getvalue().splitlines()) if line["logger"] != "asyncio"]
    assert [line["event"] for line in told] == [
        "on the way",
        "elsewhere",
        "a call failed unexpectedly",
        "a call has ended",
    ]
    assert {line["request_id"] for line in told} == {"job-7/pull:2"}
    ended = told[-1]
    assert (ended["method"], ended["code"], ended["logger"]) == ("t.T/Broken", "INTERNAL", "peerload.server.calls")
    assert "127.0.0.1" in ended["peer"]


@pytest.mark.parametrize("given_", [(), ("",), ("two words",), ("x" * 129,), ('"}',)])
async def test_an_id_is_made_where_the_callers_is_unfit(
    address: str, lines: io.StringIO, given_: tuple[str, ...]
) -> None:
    _, shown = await failed(address, *(("x-request-id", value) for value in given_))
    assert MADE.fullmatch(shown)
    assert json.loads(lines.getvalue().splitlines()[0])["request_id"] == shown


async def test_a_call_that_goes_well_costs_no_id_and_no_line_unless_somebody_listens(
    address: str, lines: io.StringIO
) -> None:
    logs.set_level("info")
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.unary_unary("/t.T/Well")(b"", timeout=20)
    assert lines.getvalue() == ""
    logs.set_level("debug")
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.unary_unary("/t.T/Well")(b"", timeout=20)
    ended = json.loads(lines.getvalue().splitlines()[-1])
    assert (ended["code"], ended["method"]) == ("OK", "t.T/Well")
    assert MADE.fullmatch(ended["request_id"])


@given(st.text(max_size=200))
def test_what_is_taken_is_harmless(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._:/+=@-]{1,128}", request_id([text]))


async def test_a_client_says_which_line_of_the_servers_log_tells_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as server:

        def defect(*_: object) -> None:
            raise ValueError

        monkeypatch.setattr(server.backend, "scoped", defect)
        async with AsyncClient(server.address) as client:
            with pytest.raises(PeerloadError, match=r"INTERNAL .*\(request_id [0-9a-f]{16}\)"):
                await client.find()
    assert CURRENT.get() is None


def test_signals_change_the_level_while_it_runs(tmp_path: Path) -> None:
    with LiveServer(f"sqlite:{tmp_path / 's'}", environment={"PEERLOAD_LOG_FORMAT": "json"}) as server:
        server.start()

        def told() -> list[str]:
            return [json.loads(line)["event"] for line in server.log().splitlines()]

        def healthy() -> bool:
            with Rpc(server.address) as rpc:
                return rpc.healthy()

        def changes() -> list[str]:
            return [
                json.loads(line)["to"]
                for line in server.log().splitlines()
                if json.loads(line)["event"].startswith("told to change the level")
            ]

        assert healthy()
        assert "a call has ended" not in told()
        server.signal(signal.SIGUSR1)
        eventually(lambda: len(changes()) == 1, what="the change")
        assert healthy()
        eventually(lambda: "a call has ended" in told(), what="the call")
        server.signal(signal.SIGUSR2)
        eventually(lambda: len(changes()) == 2, what="the change back")
        before = told().count("a call has ended")
        assert healthy()
        assert told().count("a call has ended") == before
        assert server.stop() == 0
