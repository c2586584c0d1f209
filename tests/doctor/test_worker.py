"""What is found where a worker is to run: the way to a real server and back, its clock, files and token."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from peerload import AsyncClient, ClientSettings
from peerload.client.addresses import servers
from peerload.clock import SystemClock
from peerload.doctor.worker import examine_worker
from peerload.finding import Finding, Level
from peerload.server.app import Server
from tests.client.quick import QUICK
from tests.support.certificates import Authority
from tests.support.live import free_port
from tests.support.server import serving


class Ahead(SystemClock):
    """A host whose clock is set a minute too late."""

    def wall_ms(self) -> int:
        return super().wall_ms() + 60_000


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as running:
        yield running


async def found(
    address: str, *, host: str | None = None, settings: ClientSettings = QUICK, clock: SystemClock | None = None
) -> tuple[dict[str, tuple[Finding, ...]], bool]:
    clock = clock or SystemClock()
    async with AsyncClient(address, host=host, settings=settings, clock=clock) as client:
        parts, reached = await examine_worker(client, servers(address), host, clock)
    return {part.name: part.findings for part in parts}, reached


def one(findings: tuple[Finding, ...], level: Level) -> Finding:
    (finding,) = (each for each in findings if each.level is level)
    assert finding.advice or level is Level.OK
    return finding


async def test_where_all_is_well(server: Server) -> None:
    parts, reached = await found(server.address)
    assert reached
    assert list(parts) == ["tls", "token", "server", "port"]
    assert {each.level for findings in parts.values() for each in findings} == {Level.OK}
    assert "0.0 s apart" in parts["server"][1].what or "0.1 s apart" in parts["server"][1].what


async def test_a_server_that_is_not_there() -> None:
    parts, reached = await found(f"127.0.0.1:{free_port()}")
    assert not reached
    assert "connection refused" in one(parts["server"], Level.PROBLEM).what


async def test_a_server_that_cannot_answer(server: Server) -> None:
    server.readiness.set(False, "the store went away")
    parts, reached = await found(server.address)
    assert reached
    assert "the store went away" in one(parts["server"], Level.PROBLEM).what


async def test_clocks_that_are_apart(server: Server) -> None:
    parts, _ = await found(server.address, clock=Ahead())
    skew = one(parts["server"], Level.WARNING)
    assert "this host's clock is 60." in skew.what or "this host's clock is 59." in skew.what
    assert "ahead of the server's" in skew.what


async def test_a_worker_that_may_not_ask(tmp_path: Path) -> None:
    file = tmp_path / "access.toml"
    file.write_text("")
    async with serving(access=str(file)) as server:
        parts, _ = await found(server.address)
    assert "access file" in one(parts["server"], Level.PROBLEM).advice


def jwt(**claims: Any) -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return ".".join((part({"alg": "none"}), part(claims), part("signature")))


@pytest.mark.parametrize(
    ("text", "level", "said"),
    [
        ("plain", Level.OK, "there is a token"),
        ("", Level.WARNING, "is empty"),
        (jwt(exp=1), Level.PROBLEM, "has expired"),
        (jwt(exp=1 << 40), Level.OK, "good for another"),
    ],
)
async def test_tokens(server: Server, tmp_path: Path, text: str, level: Level, said: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    parts, _ = await found(server.address, settings=replace(QUICK, token_path=str(path)))
    assert said in one(parts["token"], level).what


async def test_a_token_that_cannot_be_read(server: Server, tmp_path: Path) -> None:
    parts, _ = await found(server.address, settings=replace(QUICK, token_path=str(tmp_path)))
    assert "MX_AUTH_TOKEN_PATH" in one(parts["token"], Level.PROBLEM).advice


async def test_files_of_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    now = datetime.now(UTC)
    own = authority.issue("server")
    mine = authority.issue("client", begins=now - timedelta(days=30), ends=now + timedelta(days=3))
    mine.key.chmod(0o600)
    settings = replace(
        QUICK,
        tls_ca=str(authority.certificate),
        tls_client_cert=str(mine.certificate),
        tls_client_key=str(mine.key),
    )
    async with serving(
        tls_cert=str(own.certificate), tls_key=str(own.key), tls_client_ca=str(authority.certificate)
    ) as server:
        parts, reached = await found(server.address, settings=settings)
    assert reached
    assert "client's certificate expires in" in one(parts["tls"], Level.WARNING).what


async def test_an_address_that_is_not_this_machines(server: Server) -> None:
    parts, _ = await found(server.address, host="nowhere.invalid")
    assert "MX_WORKER_HOST" in one(parts["port"], Level.PROBLEM).advice
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
    parts, _ = await found("192.0.2.7:8001,127.0.0.1:1", host="127.0.0.1", settings=replace(QUICK, call_timeout=0.5))
    assert "every machine's own" in one(parts["port"], Level.PROBLEM).what
