"""The Redis store over a real Redis that is stopped, killed, emptied, filled, locked and replaced.

What must come within bounds is waited for a multiple of them and no longer. Only how soon writes are taken again once Redis
is back is measured, in time in which the machine worked.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import hiredis
import pytest
import structlog

from peerload.clock import SystemClock
from peerload.errors import Compacted, Conflict, Damaged, InvalidArgument, Unavailable
from peerload.store.base import ABSENT, Beat, Put, Store, Touch, Touched
from peerload.store.paged import pages
from peerload.store.redis.link import Command, Link, connect
from peerload.store.redis.place import Address, Credentials
from peerload.store.redis.store import RedisStore
from peerload.testing.store_suite import Mirror
from tests.support.following import PATIENCE, follow, next_feed, opened, recovered, refused
from tests.support.redis import RedisProcess, free_port, needs_redis, redis_process
from tests.support.working import WorkingTime

RECOVER = 5.0
"""Seconds from Redis's return until it takes writes again."""
AT_ONCE = ("--repl-diskless-sync-delay", "0")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    with redis_process(tmp_path / "redis") as process:
        yield process


@pytest.fixture
async def store(redis: RedisProcess) -> AsyncIterator[Store]:
    async with opened(redis.url) as store:
        yield store


async def recovered_in_time(store: Store) -> None:
    """`recovered`, now that Redis is back, in the time that is promised."""
    with WorkingTime() as time:
        await recovered(store)
        assert time.seconds() < RECOVER


async def test_a_stopped_redis_is_unavailable_and_comes_back(redis: RedisProcess, store: Store) -> None:
    written = await store.put("k", {"n": 1})
    mirror = Mirror(await store.list())
    redis.pause()
    try:
        await refused(store, "did not answer in time")
        with pytest.raises(Unavailable):
            await store.get("k")
        assert mirror.position is not None
        with pytest.raises(Unavailable):
            await next_feed(store.watch(mirror.position))
    finally:
        redis.resume()
    await recovered_in_time(store)
    assert await store.touch([Touch("k", written.generation, Beat(5))]) == [Touched.APPLIED]
    await follow(store, mirror, lambda m: m.entries["k"].beat == Beat(5))


async def test_a_killed_redis_that_comes_back_empty(redis: RedisProcess, store: Store) -> None:
    written = await store.put("k", {"n": 1}, blob=b"blob", beat=Beat(1))
    last = await store.put("last", {})
    mirror = Mirror(await store.list())
    redis.kill()
    await refused(store, "cannot be reached")
    redis.start()
    assert mirror.position is not None
    with pytest.raises(Compacted):
        await next_feed(store.watch(mirror.position))
    assert await store.touch([Touch("k", written.generation, Beat(5))]) == [Touched.MISSING]
    assert await store.get("k") is None
    assert (await store.list()).entries == ()
    again = await store.put("k", {"n": 2}, expect=ABSENT)
    assert again.revision > last.revision
    await follow(store, mirror, lambda m: set(m.entries) == {"k"})


async def test_a_redis_that_has_lost_its_data_and_its_time(redis: RedisProcess, store: Store) -> None:
    """The clock of the next one may be behind: what a server has seen is not used again all the same."""
    redis.ask("HSET", "{peerload}:meta", "last", str(4_000_000_000_000_000))
    written = await store.put("k", {})
    assert written.revision == 4_000_000_000_000_001
    redis.restart()
    await recovered_in_time(store)
    assert (await store.put("k", {})).revision > written.revision


async def test_a_redis_that_comes_back_with_its_data(tmp_path: Path) -> None:
    with redis_process(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as redis:
        async with opened(redis.url) as store:
            written = await store.put("k", {"n": 1}, blob=b"blob", beat=Beat(1))
            listing = await store.list()
            mirror = Mirror(listing)
            redis.restart()
            await recovered_in_time(store)
            assert await store.blob("k", written.generation) == b"blob"
            # The same feed goes on: nothing has to be listed again.
            feed = await next_feed(store.watch(listing.position))
            mirror.apply(feed)
            assert set(mirror.entries) == {"k", "recovered"}


async def test_a_read_only_replica_is_read_and_not_written(redis: RedisProcess, store: Store) -> None:
    await store.put("k", {"n": 1})
    listing = await store.list()
    redis.ask("REPLICAOF", "127.0.0.1", str(free_port()))
    with pytest.raises(Unavailable, match="read-only replica"):
        await store.put("k", {"n": 2})
    assert (await store.list()).entries == listing.entries
    assert (await next_feed(store.watch(listing.position))).changes == ()
    redis.ask("REPLICAOF", "NO", "ONE")
    await recovered_in_time(store)


async def test_a_full_redis_refuses_writes_and_lets_go_of_entries(redis: RedisProcess, store: Store) -> None:
    written = await store.put("k", {"n": 1}, blob=b"blob")
    await store.put("other", {})
    redis.ask("CONFIG", "SET", "maxmemory", "1")
    await refused_touch(store, written.generation)
    for blob in (b"", b"x" * 100_000):
        with pytest.raises(Unavailable, match="out of memory"):
            await store.put("k", {"n": 2}, blob=blob)
    entry = await store.get("k")
    assert entry is not None
    assert entry.value == {"n": 1}
    assert await store.blob("k", entry.generation) == b"blob"
    mirror = Mirror(await store.list())
    deleted = await store.delete("other")
    assert deleted > written.revision
    await follow(store, mirror, lambda m: "other" not in m.entries)
    redis.ask("CONFIG", "SET", "maxmemory", "0")
    await recovered_in_time(store)


async def refused_touch(store: Store, generation: int) -> None:
    with pytest.raises(Unavailable, match="out of memory"):
        await store.touch([Touch("k", generation, Beat(1))])
    entry = await store.get("k")
    assert entry is not None
    assert entry.beat is None


async def test_a_redis_that_is_emptied_while_it_is_listed(
    redis: RedisProcess, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peerload.store.redis.reading._PAGE_ENTRIES", 2)
    for number in range(5):
        await store.put(f"k{number}", {})
    whole = await store.list()
    parts = [part async for part in pages(store)]
    assert [[entry.key for entry in part.entries] for part in parts] == [["k0", "k1"], ["k2", "k3"], ["k4"]]
    assert tuple(entry for part in parts for entry in part.entries) == whole.entries
    async with contextlib.aclosing(pages(store)) as begun:
        await anext(begun)
        redis.ask("FLUSHALL")
        with pytest.raises(Compacted):
            await anext(begun)


async def test_a_redis_that_lets_nobody_in_any_more(redis: RedisProcess, store: Store) -> None:
    redis.ask("CONFIG", "SET", "requirepass", "secret")
    hang_up(redis, "secret")
    await refused(store, "wants a password")
    wrong = RedisStore(f"redis://:wrongword@127.0.0.1:{redis.port}", SystemClock())
    with pytest.raises(Unavailable, match="refuses the user name or the password") as error:
        await wrong.open()
    assert "wrongword" not in str(error.value)
    async with opened(f"redis://:secret@127.0.0.1:{redis.port}") as right:
        await right.put("k", {})
        with authenticated(redis, "secret") as ask:
            ask("CONFIG", "SET", "requirepass", "")
    await recovered_in_time(store)


def hang_up(redis: RedisProcess, password: str) -> None:
    with authenticated(redis, password) as ask:
        ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@contextlib.contextmanager
def authenticated(redis: RedisProcess, password: str) -> Iterator[Callable[..., object]]:
    import socket

    with socket.create_connection(("127.0.0.1", redis.port), timeout=5) as connection:

        def ask(*command: str) -> object:
            connection.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]
            reader = hiredis.Reader()
            while (answer := reader.gets()) is False:
                reader.feed(connection.recv(4096))
            return answer

        ask("AUTH", password)
        yield ask


async def test_a_user_with_no_more_than_it_needs(redis: RedisProcess) -> None:
    rules = "on >pw ~{fleet}* -@all +@read +@write +@scripting +@connection +info +time +wait"
    redis.ask("ACL", "SETUSER", "peerload", *rules.split())
    async with opened(f"redis://peerload:pw@127.0.0.1:{redis.port}?namespace=fleet") as store:
        written = await store.put("k", {}, blob=b"blob")
        assert await store.blob("k", written.generation) == b"blob"
        listing = await store.list()
        await store.delete("k")
        assert (await next_feed(store.watch(listing.position))).changes
    other = RedisStore(f"redis://peerload:pw@127.0.0.1:{redis.port}?namespace=other", SystemClock())
    with pytest.raises(Unavailable, match="does not allow this user"):
        await other.open()


async def test_a_redis_that_is_loading_is_waited_for(tmp_path: Path) -> None:
    with redis_process(tmp_path / "redis", "--key-load-delay", "0") as redis:
        async with opened(redis.url) as store:
            await store.put("k", {"n": 1})
            for n in range(200):
                # Every two megabytes it looks whether somebody asks; with less it would say nothing until all is loaded.
                redis.ask("SET", f"ballast-{n}", random.Random(n).randbytes(100_000))
            redis.ask("SAVE")
            redis.options[-1] = "15000"  # microseconds a key
            redis.restart(wait=False)
            with pytest.raises(Unavailable, match=r"still loading|cannot be reached"):
                await store.put("k", {"n": 2})
            await recovered(store)
            entry = await store.get("k")
            assert entry is not None
            assert entry.value == {"n": 1}


async def test_a_redis_that_has_no_room_for_a_connection_says_so(redis: RedisProcess) -> None:
    """Whether that comes before anything was asked, or after it."""
    with authenticated(redis, "none") as ask:
        ask("CONFIG", "SET", "maxclients", "1")
        link = await connect(Address("127.0.0.1", redis.port), Credentials())
        async with asyncio.timeout(PATIENCE):
            while link.open:
                await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="max number of clients reached"):
            await link.ask(("PING",))
        link.close()
        with pytest.raises(Unavailable, match="max number of clients reached"):
            async with opened(redis.url):
                pass
        ask("CONFIG", "SET", "maxclients", "100")
        async with opened(redis.url):
            pass


async def test_flushed_scripts_are_sent_again(redis: RedisProcess, store: Store) -> None:
    written = await store.put("k", {}, blob=b"1")
    for _ in range(2):
        redis.ask("SCRIPT", "FLUSH")
        await store.touch([Touch("k", written.generation, Beat(1))])
        redis.ask("SCRIPT", "FLUSH")
        assert await store.get("k") is not None
        redis.ask("SCRIPT", "FLUSH")
        assert len((await store.list()).entries) == 1
        redis.ask("SCRIPT", "FLUSH")
        with pytest.raises(Conflict):
            await store.put("k", {}, expect=ABSENT)
    redis.ask("SCRIPT", "FLUSH")
    await store.delete("k")


async def test_connections_that_are_cut_while_idle_are_replaced(redis: RedisProcess, store: Store) -> None:
    await asyncio.gather(*(store.put(f"k{n}", {}) for n in range(20)))
    hang_up(redis, "")
    async with asyncio.timeout(PATIENCE):
        while len(redis.ask("CLIENT", "LIST", "TYPE", "normal").splitlines()) > 1:
            await asyncio.sleep(0.01)
    await asyncio.gather(*(store.put(f"k{n}", {}) for n in range(20)))


async def test_a_write_that_was_given_up_before_all_of_it_was_sent_is_never_done(redis: RedisProcess) -> None:
    """Nor is what was left of it held in memory for as long as Redis hangs."""
    link = await connect(Address("127.0.0.1", redis.port), Credentials())
    redis.pause()
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await link.ask(("SET", "given-up", b"x" * 30_000_000))  # more than both hosts' buffers take
    finally:
        link.close()
        redis.resume()
    async with asyncio.timeout(PATIENCE):
        while len(redis.ask("CLIENT", "LIST", "TYPE", "normal").splitlines()) > 1:
            await asyncio.sleep(0.01)
    assert redis.ask("EXISTS", "given-up") == 0


async def test_a_replica_that_missed_writes_and_was_promoted(tmp_path: Path) -> None:
    """Five writes are lost and five others take their place: every reader ends with what is there."""
    link = tmp_path / "primary.sock"
    with redis_process(tmp_path / "one", *AT_ONCE) as one, redis_process(tmp_path / "other") as other:
        link.symlink_to(one.socket)
        other.ask("REPLICAOF", "127.0.0.1", str(one.port))
        async with opened(f"unix://{link}?min_replicas=1") as store, opened(f"unix://{link}") as reader:
            await recovered(store)
            kept = await store.put("kept", {"n": 1})
            other.ask("REPLICAOF", "NO", "ONE")
            lost = await asyncio.gather(*(store.put(f"lost{n}", {"n": n}) for n in range(5)), return_exceptions=True)
            assert all("min_replicas" in str(error) for error in lost)
            mirrors = [Mirror(await each.list()) for each in (store, reader)]
            assert all("lost4" in mirror.entries for mirror in mirrors)
            one.kill()
            link.unlink()
            link.symlink_to(other.socket)
            async with opened(f"unix://{link}") as writer:
                for n in range(5):
                    await writer.put(f"new{n}", {"n": n})
                generation = (await writer.put("kept", {"n": 2}, expect=kept.revision)).revision
                final = {entry.key: entry for entry in (await writer.list()).entries}
            assert not any(key.startswith("lost") for key in final)
            for each, mirror in zip((store, reader), mirrors, strict=True):
                await follow(each, mirror, lambda m: m.entries == final)
                assert mirror.entries["kept"].revision == generation


async def test_publishing_waits_for_replicas(tmp_path: Path) -> None:
    with redis_process(tmp_path / "one", *AT_ONCE) as one, redis_process(tmp_path / "other") as other:
        async with opened(f"{one.url}?min_replicas=1") as store:
            with pytest.raises(Unavailable, match="only 0 of the 1 replicas"):
                await store.put("k", {"n": 1})
            other.ask("REPLICAOF", "127.0.0.1", str(one.port))
            await recovered(store)
            await store.put("k", {"n": 2}, blob=b"x" * 1_000_000)
            assert other.ask("STRLEN", "{peerload}:blob:k") == 1_000_000


async def test_a_wait_for_replicas_that_is_broken_off_is_no_reason_to_write_again(redis: RedisProcess) -> None:
    async with opened(f"{redis.url}?min_replicas=1") as store:
        writing = asyncio.ensure_future(store.put("k", {"n": 1}))
        while not writing.done():
            for client in (await asyncio.to_thread(redis.ask, "CLIENT", "LIST")).decode().splitlines():
                fields = dict(field.split("=", 1) for field in client.split())
                if fields["cmd"] == "wait":
                    # As a primary does that becomes a replica.
                    await asyncio.to_thread(redis.ask, "CLIENT", "UNBLOCK", fields["id"], "ERROR")
            await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="has changed its role"):
            await writing
        entry = await store.get("k")
        assert entry is not None
        assert entry.revision == entry.generation, "it was written twice"


async def test_an_entry_that_cannot_be_read_keeps_nobody_from_the_others(redis: RedisProcess, store: Store) -> None:
    await store.put("good", {"n": 1})
    written = await store.put("bad", {"n": 2})
    redis.ask("HSET", "{peerload}:entries", "bad", f"{written.revision} {written.generation} - {{")
    listing = await store.list()
    assert [entry.key for entry in listing.entries] == ["good"]
    with pytest.raises(Damaged, match="bad"):
        await store.get("bad")
    written = await store.put("bad", {"n": 4})
    feed = await next_feed(store.watch(listing.position))
    assert [change.entry.revision for change in feed.changes if isinstance(change, Put)] == [written.revision]
    assert [entry.key for entry in (await store.list()).entries] == ["bad", "good"]
    # And an item of the feed that is none.
    last = written.revision
    redis.ask("XADD", "{peerload}:feed", f"{last + 1}-0", "p", str(last), "k", "bad", "v", "{", "b", "")
    with structlog.testing.capture_logs() as logs, pytest.raises(Compacted):
        await anext(store.watch(listing.position))
    assert [line["event"] for line in logs] == ["the feed cannot be read here"]


async def test_a_newer_layout_is_refused(redis: RedisProcess, store: Store) -> None:
    listing = await store.list()
    await store.put("k", {})
    redis.ask("HSET", "{peerload}:meta", "layout", "2")
    late = RedisStore(redis.url, SystemClock())
    with pytest.raises(InvalidArgument, match="layout 2, which a newer Peerload wrote"):
        await late.open()
    await refused(store, "layout 2")
    for call in (store.get("k"), store.list(), store.delete("k"), anext(store.watch(listing.position))):
        with pytest.raises(Unavailable, match="layout 2"):
            await call


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        (("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "set maxmemory-policy noeviction"),
        ((), "Redis keeps nothing on disk"),
        (("--save", "60", "1"), "since the last snapshot"),
        (("--appendonly", "yes"), None),
    ],
)
async def test_what_would_lose_data_is_said_at_the_start(
    tmp_path: Path, options: tuple[str, ...], warning: str | None
) -> None:
    with redis_process(tmp_path / "redis", *options) as redis, structlog.testing.capture_logs() as logs:
        async with opened(redis.url):
            pass
    events = [log["event"] for log in logs if log["log_level"] == "warning"]
    assert any(warning in event for event in events) if warning else events == []


async def test_a_call_is_one_round_trip(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    written = [await store.put(f"k{n}", {}, blob=b"x") for n in range(1_000)]
    calls = [
        store.put("k", {}),
        store.touch([Touch(f"k{n}", each.generation, Beat(1)) for n, each in enumerate(written)]),
        store.get("k1"),
        store.blob("k1", written[1].generation),
        store.delete("k0"),
    ]
    await store.list()
    sent: list[int] = []
    send = Link.send

    async def counted(link: Link, commands: list[Command]) -> None:
        if commands[0][0] != "XREAD":
            sent.append(len(commands))
        await send(link, commands)

    await store.get("k1")
    await asyncio.gather(store.delete("k9"), store.touch([Touch("k8", 1, Beat(1))]))
    monkeypatch.setattr(Link, "send", counted)
    for call in calls:
        before = len(sent)
        await call
        assert len(sent) == before + 1, call


async def test_tls_looks_at_the_certificate(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    if b"SSL_CTX_new" not in Path(needs_redis()).read_bytes():
        pytest.skip("this redis-server was built without TLS")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ("-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, *subject],
        check=True,
        capture_output=True,
        timeout=60,
    )
    port = free_port()
    options = ("--tls-port", str(port), "--tls-auth-clients", "no")
    files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key))
    with redis_process(tmp_path / "redis", *options, *files):
        async with opened(f"rediss://127.0.0.1:{port}?ca={certificate}") as store:
            written = await store.put("k", {"n": 1}, blob=b"x" * 3_000_000)
            assert await store.blob("k", written.generation) == b"x" * 3_000_000
        async with opened(f"rediss://127.0.0.1:{port}?verify=no") as store:
            assert await store.get("k") is not None
        stranger = RedisStore(f"rediss://127.0.0.1:{port}", SystemClock())
        with pytest.raises(Unavailable, match="certificate"):
            await stranger.open()


async def test_a_store_behind_no_redis_does_not_open(tmp_path: Path) -> None:
    for url in (
        f"redis://127.0.0.1:{free_port()}",
        f"unix://{tmp_path}/none.sock",
        f"rediss://127.0.0.1:{free_port()}",
    ):
        store = RedisStore(url, SystemClock())
        with pytest.raises(Unavailable, match="cannot be reached"):
            await store.open()
        await store.close()


def test_the_folder_of_a_socket_is_left_clean(tmp_path: Path) -> None:
    with redis_process(tmp_path / "redis") as process:
        path = process.socket
        assert Path(path).exists()
    assert not Path(path).exists()
