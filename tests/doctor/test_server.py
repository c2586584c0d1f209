"""What is found where a server is to run: each part sound, and each thing that may be wrong with it, with what to do."""

from __future__ import annotations

import resource
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from peerload.clock import SystemClock
from peerload.doctor.part import Part
from peerload.doctor.server import examine_server
from peerload.finding import Finding, Level
from peerload.server.settings import Settings
from tests.support.certificates import Authority

FREE = {"listen": "127.0.0.1:0", "store": "memory:", "metrics": "off"}


async def found(**settings: Any) -> dict[str, tuple[Finding, ...]]:
    parts: list[Part] = await examine_server(Settings(**{**FREE, **settings}), SystemClock())
    return {part.name: part.findings for part in parts}


def one(findings: tuple[Finding, ...], level: Level) -> Finding:
    (finding,) = (each for each in findings if each.level is level)
    assert finding.advice or level is Level.OK
    return finding


async def test_a_server_of_one_machine_needs_nothing() -> None:
    parts = await found()
    assert list(parts) == ["port", "metrics", "tls", "access", "process"]
    for name in ("port", "metrics", "tls", "access"):
        assert {finding.level for finding in parts[name]} == {Level.OK}, name


async def test_ports_that_cannot_be_had() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        parts = await found(listen=address, metrics=address)
    assert "somebody listens" in one(parts["port"], Level.WARNING).what
    assert "--metrics" in one(parts["metrics"], Level.WARNING).advice
    assert "is not an address" in one((await found(listen="192.0.2.1:8001"))["port"], Level.PROBLEM).what
    assert "cannot be resolved" in one((await found(metrics="nowhere.invalid:1"))["metrics"], Level.PROBLEM).what


async def test_tls_files(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    now = datetime.now(UTC)

    async def tls(name: str, ends: timedelta, **settings: Any) -> tuple[Finding, ...]:
        issued = authority.issue(name, begins=now - timedelta(days=30), ends=now + ends)
        issued.key.chmod(0o600)
        return (await found(tls_cert=str(issued.certificate), tls_key=str(issued.key), **settings))["tls"]

    assert {each.level for each in await tls("good", timedelta(days=90))} == {Level.OK}
    assert "expires in 4.0 days" in one(await tls("soon", timedelta(days=4)), Level.WARNING).what
    assert "has expired" in one(await tls("late", timedelta(days=-1)), Level.PROBLEM).what
    mutual = await tls("mutual", timedelta(days=90), tls_client_ca=str(authority.certificate))
    assert any(str(authority.certificate) in each.what for each in mutual)
    first, other = authority.issue("first", ends=now + timedelta(days=90)), authority.issue("other")
    mixed = (await found(tls_cert=str(first.certificate), tls_key=str(other.key)))["tls"]
    assert "is not the key" in one(mixed, Level.PROBLEM).what
    first.key.chmod(0o644)
    for_all = (await found(tls_cert=str(first.certificate), tls_key=str(first.key)))["tls"]
    assert one(for_all, Level.WARNING).advice == f"chmod o= {first.key}"


async def test_what_others_can_reach_is_warned_of() -> None:
    parts = await found(listen="0.0.0.0:0")
    assert "plaintext" in one(parts["tls"], Level.WARNING).what
    assert "--access" in one(parts["access"], Level.WARNING).advice


async def test_the_access_file(tmp_path: Path) -> None:
    file = tmp_path / "access.toml"
    file.write_text(f'[[token]]\nname = "ci"\nsha256 = "{"0" * 64}"\nrole = "read"\n')
    file.chmod(0o600)
    assert one((await found(access=str(file)))["access"], Level.OK)
    beyond = (await found(access=str(file), listen="0.0.0.0:0"))["access"]
    assert "tokens travel in plaintext" in one(beyond, Level.WARNING).what
    file.chmod(0o606)
    assert "chmod o-w" in one((await found(access=str(file)))["access"], Level.PROBLEM).advice
    file.write_text("[[token]]\nrole = 7\n")
    assert str(file) in one((await found(access=str(file)))["access"], Level.PROBLEM).what
    assert "No such file" in one((await found(access=str(tmp_path / "none")))["access"], Level.PROBLEM).what
    file.write_text('[[service_account]]\nname = "a/b"\nrole = "read"\n')
    assert "token_audiences" in one((await found(access=str(file)))["access"], Level.PROBLEM).what


@pytest.mark.parametrize(("seconds", "hasty"), [(20, True), (60, False)])
async def test_a_timeout_that_heartbeats_outlast(seconds: float, hasty: bool) -> None:
    told = [each for each in (await found(heartbeat_timeout=seconds))["process"] if "--heartbeat-timeout" in each.what]
    assert [each.level for each in told] == [Level.WARNING] * hasty
    assert all("--heartbeat-timeout is 20 s" in each.what and "every 30 s" in each.what for each in told)


async def test_packages_and_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    assert "4096 files" in one((await found())["process"], Level.WARNING).what
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, resource.RLIM_INFINITY))
    assert one((await found(tracing=True))["process"], Level.OK)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    missing = (await found(tracing=True))["process"]
    assert [each.advice for each in missing if each.level is Level.PROBLEM] == [
        "pip install 'peerload[otel]'",
    ]
