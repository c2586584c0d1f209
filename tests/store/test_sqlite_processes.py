"""Several processes on one file, and processes that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peerload.clock import SystemClock
from peerload.store.base import Deleted
from peerload.store.sqlite import SqliteStore
from peerload.testing.store_suite import Mirror
from tests.store.sqlite_writer import blob_of

_WRITER = Path(__file__).with_name("sqlite_writer.py")


@contextlib.asynccontextmanager
async def writer(path: Path, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A writing process that has opened the store; killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(_WRITER), str(path), name, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert json.loads(await asyncio.wait_for(process.stdout.readline(), 30)) == ["open"]
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def lines(process: asyncio.subprocess.Process, count: int) -> list[list[object]]:
    """The next lines that it wrote."""
    assert process.stdout is not None
    return [json.loads(await asyncio.wait_for(process.stdout.readline(), 30)) for _ in range(count)]


class Acknowledged:
    """What must be there, and what may."""

    def __init__(self) -> None:
        self.last: dict[str, list[object]] = {}
        self.begun: dict[str, int] = {}
        self.beats: dict[str, int] = {}
        self.revision = 0

    def read(self, line: list[object]) -> None:
        kind, key, n, *number = line
        assert isinstance(key, str)
        assert isinstance(n, int)
        if kind == "begin":
            self.begun[key] = n
        elif kind == "touch":
            self.beats[key] = n
        else:
            self.last[key] = line
            self.begun.setdefault(key, 0)
            assert isinstance(number[0], int)
            self.revision = max(self.revision, number[0])


async def check(store: SqliteStore, seen: Acknowledged) -> None:
    held = {entry.key: entry for entry in (await store.list()).entries}
    for key, (kind, _, n, *_) in seen.last.items():
        assert isinstance(n, int)
        entry = held.get(key)
        if entry is None:
            # Deleted, by what was acknowledged or by the deletion that follows every third put.
            assert kind == "delete" or n % 5 == 3
            continue
        number = entry.value["n"]
        assert isinstance(number, int)
        # The last that was acknowledged, or one that was on its way.
        assert number == n or (number > n and number == seen.begun[key])
        assert kind == "put" or number > n
        if seen.beats.get(key, 0) == number:
            assert entry.beat is not None
            assert entry.beat.stamp == number
    for entry in held.values():
        number = entry.value["n"]
        assert isinstance(number, int)
        assert await store.blob(entry.key, entry.generation) == blob_of(entry.key, number)


async def test_a_writer_killed_at_any_moment_leaves_all_it_acknowledged_and_no_half(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    seed = random.Random(7)
    highest = 0
    for round_ in range(20):
        seen = Acknowledged()
        async with writer(path, f"r{round_}") as process:
            assert process.stdout is not None
            for line in await lines(process, seed.randint(1, 120)):
                seen.read(line)
            process.kill()
            rest = (await process.stdout.read()).splitlines(keepends=True)
            for text in rest:
                if text.endswith(b"\n"):  # what it had said before it died was acknowledged too
                    seen.read(json.loads(text))
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            for table in ("blobs", "beats"):
                orphans = f"SELECT count(*) FROM {table} WHERE generation NOT IN (SELECT generation FROM entries)"
                assert connection.execute(orphans).fetchone() == (0,)
        store = SqliteStore(path, SystemClock())
        await store.open()
        await check(store, seen)
        written = await store.put("mine", {"round": round_, "n": 0}, blob=blob_of("mine", 0))
        assert written.revision > seen.revision > highest
        highest = written.revision
        await store.close()


async def test_two_processes_write_and_a_third_hears_of_everything(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = SqliteStore(path, SystemClock())
    await store.open()
    try:
        listing = await store.list()
        mirror = Mirror(listing)
        async with contextlib.aclosing(store.watch(listing.position)) as feeds:
            async with writer(path, "a") as first, writer(path, "b") as second:
                for process in (first, second):
                    await lines(process, 150)
                await store.put("mine", {})
                first.kill()
                second.kill()
            await store.put("end", {})
            async with asyncio.timeout(30):
                while "end" not in mirror.entries:
                    mirror.apply(await anext(feeds))
        assert tuple(entry for _, entry in sorted(mirror.entries.items())) == (await store.list()).entries
        # Puts may be left out where a later change followed; deletions never are.
        deleted = {change.key.split("/")[0] for change in mirror.changes if isinstance(change, Deleted)}
        assert deleted == {"a", "b"}
        assert {"mine", "end"} <= set(mirror.entries)
    finally:
        await store.close()


async def test_stores_that_create_the_file_at_once_agree(tmp_path: Path) -> None:
    stores = [SqliteStore(tmp_path / "new" / "store.sqlite", SystemClock()) for _ in range(6)]
    await asyncio.gather(*(store.open() for store in stores))
    try:
        await asyncio.gather(*(store.put(f"k{n}", {}) for n, store in enumerate(stores)))
        for store in stores:
            assert len((await store.list()).entries) == len(stores)
    finally:
        await asyncio.gather(*(store.close() for store in stores))


@pytest.mark.parametrize("touches", [False, True])
async def test_nothing_is_left_open_and_the_log_is_folded_in(tmp_path: Path, touches: bool) -> None:
    folder = tmp_path / "a" / "b"
    store = SqliteStore(folder / "store.sqlite", SystemClock())
    await store.open()
    await store.put("k", {}, blob=b"x")
    if touches:
        await store.touch([])
    await store.list()
    await store.close()
    assert {file.name for file in folder.iterdir()} == {"store.sqlite", "store.sqlite-clock"}
    assert (folder.stat().st_mode & 0o777, folder.parent.stat().st_mode & 0o777) == (0o700, 0o700)
    assert (folder / "store.sqlite").stat().st_mode & 0o777 == 0o600
