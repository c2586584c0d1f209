"""The doctor on a real Redis: its settings, its user's rights, its room, its replicas; and that nothing is left in it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

import peerload.store.redis
from peerload.clock import SystemClock
from peerload.errors import Unavailable
from peerload.finding import Finding, Level
from peerload.store.redis.examination import _memory, _replicas
from peerload.store.redis.place import RedisPlace
from peerload.store.redis.rights import _rights
from peerload.store.redis.store import RedisStore
from tests.doctor.examined import about, examined, problems
from tests.support.redis import RedisProcess, free_port, redis_process

LASTING = ("--appendonly", "yes", "--repl-diskless-sync-delay", "0")
DOCUMENTED = "-@all +@read +@write +@scripting +@connection +info +time +wait"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    with redis_process(tmp_path / "redis", *LASTING) as process:
        yield process


def keys(redis: RedisProcess) -> list[bytes]:
    found: list[bytes] = redis.ask("KEYS", "*")
    return sorted(found)


def dump(redis: RedisProcess) -> dict[bytes, bytes]:
    return {key: redis.ask("DUMP", key) for key in keys(redis)}


def slow(finding: Finding) -> bool:
    """A warning that says something of the machine that tests run on."""
    return "median of" in finding.what or "memory" in finding.what


async def test_a_redis_as_it_should_be_is_left_empty(redis: RedisProcess) -> None:
    report = await examined(redis.url)
    assert [finding for finding in report.findings if finding.level is not Level.OK and not slow(finding)] == []
    assert (report.reached, report.rehearsed) == (True, True)
    assert about(report, "namespace 'peerload' is empty")
    assert about(report, f"answers at 127.0.0.1:{redis.port}")
    assert keys(redis) == []


async def test_a_fleet_is_not_disturbed(redis: RedisProcess) -> None:
    store = RedisStore(redis.url, SystemClock())
    await store.open()
    try:
        await store.put("source/a/0/w", {}, blob=b"blob")
        before = dump(redis)
        report = await examined(redis.url)
        assert not problems(report)
        assert about(report, "namespace 'peerload' holds 1 entry in layout 1")
        assert dump(redis) == before
    finally:
        await store.close()


async def test_a_redis_that_is_not_there() -> None:
    report = await examined(f"redis://:secret@127.0.0.1:{free_port()}")
    (problem,) = problems(report)
    assert "cannot be reached" in problem.what
    assert (report.reached, report.rehearsed) == (False, False)
    assert "secret" not in str(report)


async def test_a_password_that_is_wrong_or_missing(redis: RedisProcess) -> None:
    redis.ask("ACL", "SETUSER", "worker", "on", ">secret", "~*", "+@all")
    for url, words in (
        (f"redis://worker:wrongword@127.0.0.1:{redis.port}", "refuses the user name or the password"),
        (f"redis://:wrongword@127.0.0.1:{redis.port}", "AUTH"),
        (f"redis://worker:secret@127.0.0.1:{redis.port}/77", "DB index is out of range"),
    ):
        report = await examined(url)
        (problem,) = problems(report)
        assert words in problem.what
        assert (report.reached, report.rehearsed) == (True, False)
        assert "wrongword" not in str(report)
        assert "secret" not in str(report)
    redis.ask("ACL", "SETUSER", "default", "resetpass", ">other")
    (problem,) = problems(await examined(redis.url))
    assert "wants a password, and the URL has none" in problem.what


class User:
    """A user of the shared Redis, and a namespace."""

    def __init__(self, redis: RedisProcess) -> None:
        self.name = f"user-{secrets.token_hex(4)}"
        self.namespace = f"test-{secrets.token_hex(4)}"
        self.url = f"redis://{self.name}:pw@127.0.0.1:{redis.port}?namespace={self.namespace}"
        self._redis = redis

    def may(self, *rules: str, keys: str | None = None) -> None:
        pattern = f"~{{{keys or self.namespace}}}*"
        self._redis.ask("ACL", "SETUSER", self.name, "reset", "on", ">pw", pattern, *rules)


@pytest.fixture
def user(shared_redis: RedisProcess) -> Iterator[User]:
    made = User(shared_redis)
    yield made
    shared_redis.ask("ACL", "DELUSER", made.name)


async def test_the_user_of_the_document_is_enough(user: User) -> None:
    document = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    assert DOCUMENTED in document
    user.may(*DOCUMENTED.split())
    report = await examined(user.url)
    assert not problems(report)
    assert report.rehearsed
    assert about(report, f"user {user.name} may run every command").level is Level.OK


async def test_the_commands_that_are_asked_for_are_all_that_is_needed(user: User) -> None:
    names = [right.name for right in _rights(RedisPlace.parse(user.url), "key")]
    user.may("-@all", *(f"+{name}" for name in names), "+auth")
    report = await examined(user.url)
    assert not problems(report)
    assert report.rehearsed


def test_every_command_of_the_scripts_is_asked_for() -> None:
    names = {right.name for right in _rights(RedisPlace.parse("redis://host"), "key")}
    (folder,) = peerload.store.redis.__path__
    scripts = [path.read_text() for path in (Path(folder) / "lua").glob("*.lua")]
    called = {name.lower() for text in scripts for name in re.findall(r"redis\.p?call\('(\w+)'", text)}
    assert len(called) > 10
    assert called <= names


async def test_each_right_that_is_missing_is_named(user: User, shared_redis: RedisProcess) -> None:
    before = dump(shared_redis)
    place = RedisPlace.parse(f"{user.url}&min_replicas=1")
    for right in _rights(place, "key"):
        user.may("+@all", f"-{right.name}")
        report = await examined(f"{user.url}&min_replicas=1")
        (problem,) = problems(report)
        assert f"does not allow user {user.name} the command {right.name}," in problem.what
        assert problem.advice == f"ACL SETUSER {user.name} +{right.name}"
        assert not report.rehearsed
    user.may("+@all", "-hset", "-xadd", "-get")
    (problem,) = problems(await examined(user.url))
    assert "the commands get, hset and xadd" in problem.what
    user.may("+@all", keys="elsewhere")
    (problem,) = problems(await examined(user.url))
    assert problem.advice == f"ACL SETUSER {user.name} ~{{{user.namespace}}}*"
    assert {key: text for key, text in dump(shared_redis).items() if key not in before} == {}


async def test_settings_that_lose_data_are_said_in_the_servers_words(tmp_path: Path) -> None:
    options = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with redis_process(tmp_path / "redis", *options) as redis:
        report = await examined(redis.url)
        assert about(report, "set maxmemory-policy noeviction").level is Level.WARNING
        assert about(report, "Redis keeps nothing on disk").level is Level.WARNING
        assert about(report, "% of its maxmemory").level is Level.OK
        assert not problems(report)
        redis.ask("ACL", "SETUSER", "default", "-config|get")
        assert about(await examined(redis.url), "are not to be seen without +config|get").level is Level.WARNING


async def test_a_redis_that_is_full(redis: RedisProcess) -> None:
    redis.ask("CONFIG", "SET", "maxmemory", "1")
    report = await examined(redis.url)
    assert about(report, "when it is full, nothing can be published").level is Level.WARNING
    (problem,) = problems(report)
    assert "out of memory" in problem.what
    redis.ask("CONFIG", "SET", "maxmemory", "0")
    assert keys(redis) == []


async def test_a_redis_whose_disk_fails(redis: RedisProcess, tmp_path: Path) -> None:
    (tmp_path / "redis" / "dump.rdb").mkdir()
    (tmp_path / "redis" / "dump.rdb" / "in the way").touch()
    redis.ask("BGSAVE")
    async with asyncio.timeout(20):
        while b"rdb_last_bgsave_status:err" not in redis.ask("INFO", "persistence"):
            await asyncio.sleep(0.01)
    assert about(await examined(redis.url), "could not write to its disk the last time").level is Level.WARNING


async def test_a_replica_is_no_place_to_write(tmp_path: Path, redis: RedisProcess) -> None:
    with redis_process(tmp_path / "replica", "--replicaof", "127.0.0.1", str(redis.port)) as replica:
        report = await examined(replica.url)
        (problem,) = problems(report)
        assert f"is a replica of 127.0.0.1:{redis.port}" in problem.what
        assert not report.rehearsed
        async with asyncio.timeout(20):
            while b"state=online" not in redis.ask("INFO", "replication"):
                await asyncio.sleep(0.01)
        report = await examined(f"{redis.url}?min_replicas=1")
        assert about(report, "when one fails, nothing can be published").level is Level.WARNING
        assert report.rehearsed
        assert not problems(report)
        (problem,) = problems(await examined(f"{redis.url}?min_replicas=2"))
        assert "min_replicas=2 in the URL, and 1 replica is in step: nothing can be published" in problem.what
        assert about(await examined(redis.url), "1 replica is in step").level is Level.OK
    assert keys(redis) == []


async def test_a_newer_layout(redis: RedisProcess) -> None:
    redis.ask("HSET", "{peerload}:meta", "layout", "2")
    report = await examined(redis.url)
    (problem,) = problems(report)
    assert "layout 2, which a newer Peerload wrote; this one understands layout 1" in problem.what
    assert "upgrade Peerload" in problem.advice
    assert (report.reached, report.rehearsed) == (True, False)
    assert keys(redis) == [b"{peerload}:meta"]


async def test_keys_of_somebody_else(redis: RedisProcess) -> None:
    redis.ask("SET", "{peerload}:meta", "theirs")
    report = await examined(redis.url)
    (problem,) = problems(report)
    assert "WRONGTYPE" in problem.what
    assert "namespace" in problem.advice
    assert not report.rehearsed


class FastClock(SystemClock):
    """A host's that is a minute ahead."""

    def wall_ms(self) -> int:
        return super().wall_ms() + 60_000


async def test_a_host_whose_clock_is_not_that_of_redis(shared_redis: RedisProcess, redis_url: str) -> None:
    found = about(await examined(redis_url, FastClock()), "this host's clock is")
    assert found.level is Level.WARNING
    assert "s ahead of the store's" in found.what


async def test_a_redis_that_is_too_old(redis: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerload.store.redis.checks._OLDEST", (99, 0))
    (problem,) = problems(await examined(redis.url))
    assert "99.0 or later is needed" in problem.what
    assert not problem.what.startswith("store")


async def test_what_is_left_behind_is_named(redis: RedisProcess) -> None:
    store = RedisStore(redis.url, SystemClock())
    with pytest.raises(Unavailable, match=r"keys that begin with \{peerload\}:doctor-[0-9a-f]{12}: may be left behind"):
        async with store.rehearsal() as trial:
            await trial.put("doctor/1", {})
            redis.kill()


async def test_cancelled_in_the_middle_it_leaves_nothing(redis: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = asyncio.Event()

    async def get(store: RedisStore, key: str) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(RedisStore, "get", get)
    task = asyncio.create_task(examined(redis.url))
    await reached.wait()
    assert any(key.startswith(b"{peerload}:doctor-") for key in keys(redis))
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert keys(redis) == []


def test_replicas_that_are_behind() -> None:
    fields = {
        "role": "master",
        "connected_slaves": "3",
        "slave0": "ip=10.0.0.1,port=6379,state=online,offset=9,lag=0",
        "slave1": "ip=10.0.0.2,port=6379,state=online,offset=1,lag=9",
        "slave2": "ip=10.0.0.3,port=6379,state=send_bulk,offset=0,lag=0",
    }
    found = [*_replicas(fields, RedisPlace.parse("redis://host"))]
    assert [finding.level for finding in found] == [Level.WARNING, Level.WARNING, Level.OK]
    assert "10.0.0.2:6379 was last heard of 9 s ago" in found[0].what
    assert "10.0.0.3:6379 is not in step yet (send_bulk)" in found[1].what
    (alone,) = _replicas({"role": "master"}, RedisPlace.parse("redis+sentinel://host/service"))
    assert "nobody can take its place" in alone.what


@pytest.mark.parametrize(
    ("fields", "level", "words"),
    [
        ({"used_memory": "900", "maxmemory": "1000"}, Level.WARNING, "90 % of its maxmemory"),
        ({"used_memory": "900", "total_system_memory": "1000"}, Level.WARNING, "90 % of its machine's memory"),
        ({"used_memory": "9000000", "maxmemory": "2000000000"}, Level.OK, "(9.0 MB of 2.0 GB)"),
        ({"used_memory": "9000000"}, Level.OK, "uses 9.0 MB of memory"),
    ],
)
def test_room(fields: dict[str, str], level: Level, words: str) -> None:
    found = _memory(fields)
    assert found.level is level
    assert words in found.what
