"""What is SQLite's own: the file, its refusals, the disk's failures, the feed's trimming."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peerload.errors import Compacted, Damaged, InvalidArgument, Unavailable
from peerload.store.base import Beat, Listing, Put, Touch, Touched
from peerload.store.sqlite import SqliteStore, queries
from peerload.store.sqlite.home import file_system
from peerload.store.sqlite.layout import APPLICATION_ID, LAYOUT_VERSION
from peerload.testing import ManualClock
from peerload.testing.store_suite.mirror import Mirror
from peerload.testing.store_suite.place import follow


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond it, which is what a full disk looks like."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_person_can_read_the_file(store: SqliteStore, path: Path) -> None:
    await store.put("a/b", {"model": "org/näme", "n": 1}, blob=b"blob")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        row = connection.execute(
            "SELECT key, value, blob_size, data FROM entries JOIN blobs USING (generation)"
        ).fetchone()
        assert row == ("a/b", '{"model":"org/näme","n":1}', 4, b"blob")
        assert connection.execute("PRAGMA page_size").fetchone() == (16384,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_a_newer_layout_is_refused_and_left_alone(path: Path, clock: ManualClock) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={LAYOUT_VERSION + 1}")
        connection.execute("CREATE TABLE future (x)")
    before = path.read_bytes()
    with pytest.raises(InvalidArgument, match="newer release") as refused:
        await SqliteStore(path, clock).open()
    assert refused.value.field == "store"
    assert path.read_bytes() == before


async def test_a_file_of_another_program_is_refused_and_left_alone(path: Path, clock: ManualClock) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    before = path.read_bytes()
    with pytest.raises(InvalidArgument, match="another program"):
        await SqliteStore(path, clock).open()
    assert path.read_bytes() == before


async def test_what_is_no_database_is_refused_and_left_alone(path: Path, clock: ManualClock) -> None:
    path.write_bytes(b"a letter to my mother\n" * 1_000)
    with pytest.raises(InvalidArgument, match="not an SQLite file"):
        await SqliteStore(path, clock).open()
    assert path.read_bytes() == b"a letter to my mother\n" * 1_000
    with pytest.raises(InvalidArgument, match="is a folder"):
        await SqliteStore(path.parent, clock).open()


async def test_an_empty_file_becomes_a_store(path: Path, clock: ManualClock) -> None:
    path.touch()
    store = SqliteStore(path, clock)
    await store.open()
    await store.put("k", {})
    await store.close()


async def test_a_folder_that_cannot_be_made_is_an_outage(path: Path, clock: ManualClock) -> None:
    path.write_text("a file")
    for bad in (path / "below" / "store.sqlite", Path("/proc/peerload/store.sqlite")):
        with pytest.raises(Unavailable):
            await SqliteStore(bad, clock).open()


async def test_a_file_that_cannot_be_written_is_an_outage(
    path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(path, clock)
    await store.open()
    await store.put("k", {})
    await store.close()
    with monkeypatch.context() as patch:
        if os.geteuid() == 0:  # root may write to anything, so SQLite is told not to
            connect = sqlite3.connect
            patch.setattr(sqlite3, "connect", lambda name, **how: connect(name.replace("mode=rw", "mode=ro"), **how))
        path.chmod(0o400)
        path.parent.chmod(0o500)
        try:
            with pytest.raises(Unavailable, match=r"readonly|unable to open"):
                await store.open()
        finally:
            path.parent.chmod(0o700)
            path.chmod(0o600)
    await store.open()
    assert await store.get("k") is not None
    await store.close()


def test_network_file_systems_are_told_apart() -> None:
    mounts = "\n".join(
        [
            "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw",
            "40 22 0:35 / /mnt/my\\040share rw,relatime shared:2 master:1 - nfs4 10.0.0.1:/x rw",
            "41 22 0:36 / /home rw - ext4 /dev/vdb rw",
            "42 41 0:37 / /home/me rw - fuse.sshfs me@host: rw",
            "43 42 0:38 / /home/me rw - xfs /dev/vdc rw",
            "a line that means nothing",
        ]
    )
    assert file_system(Path("/mnt/my share/a"), mounts) == "nfs4"
    assert file_system(Path("/mnt/my share"), mounts) == "nfs4"
    assert file_system(Path("/mnt/my"), mounts) == "ext4"
    assert file_system(Path("/home/you"), mounts) == "ext4"
    assert file_system(Path("/home/me/x"), mounts) == "xfs"
    assert file_system(Path("/home/me"), "") == ""


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "ceph", "lustre"])
async def test_network_file_systems_are_refused(
    path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("peerload.store.sqlite.home.file_system", lambda folder, mounts: kind)
    with pytest.raises(InvalidArgument, match=f"network file system .{kind}"):
        await SqliteStore(path, clock).open()
    assert not path.exists()


async def test_a_full_disk_is_an_outage_that_ends(store: SqliteStore) -> None:
    kept = await store.put("k", {"n": 1}, blob=b"kept")
    with file_size_limit(3_000_000):
        with pytest.raises(Unavailable):
            await store.put("k", {"n": 2}, blob=bytes(4_000_000))
        entry = await store.get("k")
        assert entry is not None
        assert (entry.value, entry.revision) == ({"n": 1}, kept.revision)
        outcomes = await asyncio.gather(
            store.put("large", {}, blob=bytes(4_000_000)), store.put("small", {}), return_exceptions=True
        )
        assert isinstance(outcomes[0], Unavailable)
        assert await store.get("large") is None
    await store.put("k", {"n": 3}, blob=bytes(4_000_000))
    assert await store.blob("k", (await store.put("k", {"n": 4})).generation) == bytes(4_000_000)


async def test_a_full_file_does_not_let_a_large_put_take_small_ones_with_it(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put("k", {})
    writer = store._parts.writer  # type: ignore[union-attr]
    connection = writer._connection
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages + 20}")
    gate, entered = threading.Event(), threading.Event()
    check = writer._home.check

    def held_up() -> None:
        entered.set()
        gate.wait(10)
        check()

    monkeypatch.setattr(writer._home, "check", held_up)
    first = asyncio.create_task(store.put("first", {}))
    await asyncio.to_thread(entered.wait, 10)
    later = [
        asyncio.create_task(store.put("large", {}, blob=bytes(4_000_000))),
        asyncio.create_task(store.put("small", {"n": 1}, blob=b"small")),
    ]
    await asyncio.sleep(0)
    gate.set()
    await first
    large, small = await asyncio.gather(*later, return_exceptions=True)
    assert isinstance(large, Unavailable)
    assert "full" in str(large)
    assert not isinstance(small, BaseException)
    assert await store.blob("small", small.generation) == b"small"
    assert await store.get("large") is None
    connection.execute("PRAGMA max_page_count=1073741823")
    await store.put("large", {}, blob=bytes(4_000_000))


async def test_a_disk_that_does_not_answer_is_an_outage(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.put("k", {"n": 1})
    monkeypatch.setattr("peerload.store.sqlite.store._CALL_SECONDS", 0.05)
    home = store._parts.writer._home  # type: ignore[union-attr]
    gate, entered = threading.Event(), threading.Event()

    def stuck() -> None:
        entered.set()
        gate.wait(30)

    monkeypatch.setattr(home, "check", stuck)
    begun = asyncio.create_task(store.put("k", {"n": 2}))
    await asyncio.to_thread(entered.wait, 30)
    outcomes = await asyncio.gather(begun, store.get("k"), store.put("never begun", {}), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    monkeypatch.undo()
    gate.set()
    await store.put("k", {"n": 3})
    assert await store.get("never begun") is None


async def test_another_programs_lock_is_an_outage_that_ends(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put("k", {"n": 1})
    monkeypatch.setattr("peerload.store.sqlite.layout.BUSY_SECONDS", 0.05)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            await store.put("k", {"n": 2})
        entry = await store.get("k")  # readers do not wait for writers
        assert entry is not None
        assert entry.value == {"n": 1}
        other.execute("ROLLBACK")
    await store.put("k", {"n": 3})


async def test_a_file_that_was_removed_is_an_outage_and_no_empty_store(
    store: SqliteStore, path: Path, clock: ManualClock
) -> None:
    await store.put("k", {})
    position = (await store.list()).position
    feeds = store.watch(position)
    await anext(feeds)
    path.rename(path.with_name("elsewhere"))
    for call in (store.put("k", {}), store.get("k"), store.list(), store.delete("k"), store.touch([])):
        with pytest.raises(Unavailable, match="gone"):
            await call  # type: ignore[misc]
    step = asyncio.create_task(anext(feeds))
    await clock.advance(1)
    with pytest.raises(Unavailable):
        await step
    path.write_bytes(b"")
    with pytest.raises(Unavailable, match="replaced"):
        await store.get("k")
    path.unlink()
    path.with_name("elsewhere").rename(path)
    assert await store.get("k") is not None


async def test_a_damaged_file_is_an_outage(store: SqliteStore, path: Path) -> None:
    for n in range(50):
        await store.put(f"k{n}", {"n": n}, blob=bytes(20_000))
    await store.close()
    with path.open("r+b") as file:
        file.seek(16_384)
        file.write(b"\xff" * (path.stat().st_size - 16_384))
    with pytest.raises(Unavailable):
        await store.open()
        await store.list()
    await store.close()


async def test_an_entry_that_cannot_be_read_keeps_nobody_from_the_others(store: SqliteStore, path: Path) -> None:
    await store.put("good", {"n": 1})
    bad = await store.put("bad", {"n": 2})
    position = (await store.list()).position
    await store.put("bad", {"n": 3}, expect=bad.revision)
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE entries SET value = '{' WHERE key = 'bad'")
    with pytest.raises(Compacted):
        await anext(store.watch(position))
    listing = await store.list()
    assert [entry.key for entry in listing.entries] == ["good"]
    with pytest.raises(Damaged, match="bad"):
        await store.get("bad")
    written = await store.put("bad", {"n": 4})
    feed = await anext(store.watch(listing.position))
    assert [change.entry.revision for change in feed.changes if isinstance(change, Put)] == [written.revision]
    assert [entry.key for entry in (await store.list()).entries] == ["bad", "good"]


async def test_a_store_made_anew_repeats_no_revision(path: Path, clock: ManualClock) -> None:
    last, position = 0, None
    for _ in range(3):
        store = SqliteStore(path, clock)
        await store.open()
        if position is not None:
            with pytest.raises(Compacted):
                await anext(store.watch(position))
        for n in range(50):
            written = await store.put(f"k{n}", {})
            assert written.revision > last
        last = written.revision
        position = (await store.list()).position
        await store.close()
        path.unlink()
        await clock.advance(0.01)


async def test_the_feed_is_trimmed_by_age_and_not_before(store: SqliteStore, path: Path, clock: ManualClock) -> None:
    positions = []
    for n in range(30):
        positions.append((await store.list()).position)
        await store.put(f"k{n}", {})
        await clock.advance(10)
    now = clock.monotonic()
    await store.put("end", {})
    for n, position in enumerate(positions):
        # Written at n * 10 s, it is now that much younger than 300 s.
        feeds = store.watch(position)
        if 300 - n * 10 <= 120:
            assert len((await anext(feeds)).changes) == 31 - n
        elif 300 - n * 10 > 160:
            with pytest.raises(Compacted):
                await anext(feeds)
        await feeds.aclose()
    assert clock.monotonic() == now
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM log").fetchone()[0] <= 17


async def test_trimming_keeps_up_in_small_steps(store: SqliteStore, path: Path, clock: ManualClock) -> None:
    await asyncio.gather(*(store.put("hot", {"n": n}) for n in range(5_000)))
    await clock.advance(400)
    for n in range(5):
        await store.put("hot", {"n": n})
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM log").fetchone()[0] <= 5


async def test_a_clock_set_back_does_not_keep_the_feed_for_ever(path: Path, clock: ManualClock) -> None:
    for wall_ms in (2_000_000_000_000, 1_900_000_000_000):
        clock.set_wall_ms(wall_ms)
        store = SqliteStore(path, clock)
        await store.open()
        await store.put("k", {})
        await clock.advance(2)
        await store.put("k", {})
        await store.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM log WHERE at > 1950000000000").fetchone() == (0,)


async def test_touches_reach_the_file_without_a_put(path: Path, clock: ManualClock) -> None:
    store = SqliteStore(path, clock)
    await store.open()
    written = [await store.put(f"k{n}", {}) for n in range(3)]
    for stamp in (1, 2):
        touches = [Touch(f"k{n}", each.generation, Beat(stamp)) for n, each in enumerate(written)]
        assert await store.touch(touches) == [Touched.APPLIED] * 3
        await clock.advance(0.4)
    await store.close()
    await store.open()
    assert {entry.beat for entry in (await store.list()).entries} == {Beat(2)}
    await store.close()


async def test_an_event_loop_that_ends_with_the_store_open_leaves_no_harm(path: Path, clock: ManualClock) -> None:
    def forgetful() -> None:
        async def main() -> None:
            store = SqliteStore(path, clock)
            await store.open()
            await store.put("k", {"n": 1})
            asyncio.get_running_loop().call_soon(asyncio.ensure_future, store.put("k", {"n": 2}))
            await asyncio.sleep(0)

        asyncio.run(main())

    await asyncio.to_thread(forgetful)
    store = SqliteStore(path, clock)
    await store.open()
    assert (await store.put("k", {"n": 3})).revision > 0
    await store.close()


async def test_a_write_that_was_done_in_time_counts_though_the_event_loop_hears_of_it_too_late(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both come to its notice in one turn: that it was written, and that the time is up."""
    monkeypatch.setattr("peerload.store.sqlite.store._CALL_SECONDS", -1.0)
    loop = asyncio.get_running_loop()

    def submit(change: object) -> asyncio.Future[str]:
        answer: asyncio.Future[str] = loop.create_future()
        loop.call_soon(answer.set_result, "written")
        return answer

    writer = store._open_parts().writer
    with monkeypatch.context() as patched:
        patched.setattr(writer, "submit", submit)
        assert await store.put("a", {}) == "written"
        patched.setattr(writer, "submit", lambda change: loop.create_future())
        with pytest.raises(Unavailable, match="did not take a write"):
            await store.put("a", {})


async def test_reads_that_are_answered_while_the_event_loop_is_busy_wake_it_once(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        await store.put(f"k{number}", {})
    loop = asyncio.get_running_loop()
    woken: list[object] = []
    was = loop.call_soon_threadsafe

    def wake(act: Callable[[], None], *more: object) -> asyncio.Handle:
        woken.append(act)
        return was(act, *more)

    asked = [asyncio.ensure_future(store.get(f"k{number}")) for number in range(50)]
    assert store._parts is not None
    readers = store._parts.readers
    monkeypatch.setattr(loop, "call_soon_threadsafe", wake)
    await asyncio.sleep(0)  # all of them are asked now, and until the next line no answer is looked at
    while len(readers._answered) < 50:
        threading.Event().wait(0.001)
    # Each of four threads may have told at the same time as the others.
    assert woken.count(readers._deliver) <= 4
    assert [entry.key for entry in await asyncio.gather(*asked) if entry] == [f"k{number}" for number in range(50)]


async def test_a_listing_in_parts_misses_nothing_that_changes_meanwhile(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PAGE_ROWS", 2)
    for number in range(8):
        await store.put(f"k{number}", {"n": number}, blob=b"1")
    with contextlib.closing(sqlite3.connect(path)) as beside, beside:
        beside.execute("UPDATE entries SET value = '[' WHERE key IN ('k1', 'k4', 'k5')")
    parts = store.pages()
    first = await anext(parts)
    assert [entry.key for entry in first.entries] == ["k0"]
    await store.put("k0", {"n": 10}, blob=b"2")
    await store.delete("k0")
    await store.put("k3", {"n": 13}, blob=b"2")
    await store.delete("k7")
    await store.put("k2a", {"n": 12})
    rest = [part async for part in parts]
    assert {part.position for part in rest} == {first.position}
    # The entries that cannot be read are left out, and end nothing.
    assert [[entry.key for entry in part.entries] for part in rest] == [["k2", "k2a"], ["k3"], ["k6"], []]
    mirror = Mirror(Listing((*first.entries, *(entry for part in rest for entry in part.entries)), first.position))
    await follow(store, first.position, lambda known: "k7" in known.deleted and "k2a" in known.entries, mirror)
    assert tuple(entry for _, entry in sorted(mirror.entries.items())) == (await store.list()).entries
