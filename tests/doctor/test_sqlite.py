"""The doctor on an SQLite file: its place, its rights, who else uses it."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections import namedtuple
from pathlib import Path

import pytest

from peerload.clock import SystemClock
from peerload.finding import Level
from peerload.store.sqlite import SqliteStore, examination
from tests.cli.commands import Running
from tests.doctor.examined import about, examined, problems
from tests.support.live import eventually, free_port

Disk = namedtuple("Disk", "f_bavail f_frsize")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "peerload.sqlite"


@pytest.fixture
async def made(path: Path) -> Path:
    """A store with two entries that nobody has open."""
    store = SqliteStore(path, SystemClock())
    await store.open()
    await store.put("source/a/0/w", {})
    await store.put("source/a/0/v", {})
    await store.close()
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(each): each.read_bytes() if each.is_file() else b"" for each in folder.rglob("*")}


async def test_a_file_that_is_yet_to_be_made_is_not_made(path: Path, tmp_path: Path) -> None:
    report = await examined(f"sqlite:{path}")
    assert not problems(report)
    assert report.rehearsed
    assert about(report, f"there is no {path} yet")
    assert list(tmp_path.iterdir()) == []


async def test_a_store_is_left_as_it_was(made: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    report = await examined(f"sqlite:{made}")
    assert not problems(report)
    assert about(report, f"{made} holds 2 entries in layout 1; no process has it open").level is Level.OK
    assert tree(tmp_path) == before


async def test_a_server_that_uses_it_is_named_and_not_disturbed(made: Path) -> None:
    with Running(
        "serve", "--listen", f"127.0.0.1:{free_port()}", "--store", f"sqlite:{made}", "--log-format", "json"
    ) as server:
        await asyncio.to_thread(
            eventually, lambda: any('"serving"' in line for line in server.errors), what="the server"
        )
        report = await examined(f"sqlite:{made}")
        assert about(report, f"process {server.pid} has it open").level is Level.OK
        assert not problems(report)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert not [line for line in server.errors if '"level": "warning"' in line or '"error"' in line]


async def test_a_newer_layout(made: Path) -> None:
    connection = sqlite3.connect(made)
    connection.execute("PRAGMA user_version=2")
    connection.close()
    report = await examined(f"sqlite:{made}")
    (problem,) = problems(report)
    assert "has layout version 2, and this release knows 1: use a newer release" in problem.what
    assert (report.reached, report.rehearsed) == (True, False)


async def test_a_file_of_somebody_else(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("dear diary, " * 1_000)
    (problem,) = problems(await examined(f"sqlite:{path}"))
    assert "is not an SQLite file" in problem.what
    (problem,) = problems(await examined(f"sqlite:{path.parent}"))
    assert "is a folder, not a file" in problem.what
    (problem,) = problems(await examined(f"sqlite:{path}/below/it"))
    assert "cannot be looked at" in problem.what


async def test_a_network_file_system(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerload.store.sqlite.home.file_system", lambda folder, mounts: "nfs4")
    report = await examined(f"sqlite:{path}")
    (problem,) = problems(report)
    assert "is on a network file system (nfs4)" in problem.what
    assert "redis://" in problem.advice
    assert not report.rehearsed


@pytest.mark.parametrize(("kind", "words"), [("tmpfs", "is in memory (tmpfs)"), ("overlay", "goes with the container")])
async def test_a_place_that_does_not_last(path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: str) -> None:
    monkeypatch.setattr("peerload.store.sqlite.home.file_system", lambda folder, mounts: kind)
    report = await examined(f"sqlite:{path}")
    assert about(report, words).level is Level.WARNING
    assert report.rehearsed


@pytest.mark.parametrize(("free", "level"), [(900_000_000, Level.WARNING), (1_000_000, Level.PROBLEM)])
async def test_a_disk_that_is_nearly_full(path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: Level) -> None:
    monkeypatch.setattr(examination.os, "statvfs", lambda folder: Disk(free, 1))
    assert about(await examined(f"sqlite:{path}"), f"has {free // 1_000_000} MB left").level is level


async def test_files_that_others_may_open(made: Path) -> None:
    made.chmod(0o640)
    found = about(await examined(f"sqlite:{made}"), "other users may open")
    assert found.level is Level.WARNING
    assert found.advice == f"chmod 600 {made}"


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_a_user_without_the_rights(made: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    target = made if what == "file" else made.parent
    if os.geteuid() == 0:  # root may write to anything, so it is told that it may not
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != target and access(path, mode))
    target.chmod(0o400 if what == "file" else 0o500)
    try:
        report = await examined(f"sqlite:{made}")
    finally:
        target.chmod(0o700)
    (problem,) = problems(report)
    assert ("may not read and write" if what == "file" else "may not make files in") in problem.what
    assert not report.rehearsed
    if os.geteuid() == 0:
        monkeypatch.undo()
        monkeypatch.setattr(os, "geteuid", lambda: 4_321)
        assert about(await examined(f"sqlite:{made}"), "belongs to").level is Level.WARNING
