"""Whole servers over a Redis that is stopped, killed, emptied, filled and locked; and several over one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from peerload import AsyncClient, ClientSettings
from peerload.client import PullProgress
from peerload.errors import Unavailable
from peerload.wire import p2p_pb2
from tests.support.asking import answered, heartbeat, listed, refusal
from tests.support.live import LiveServer, Rpc, eventually, publication, ready
from tests.support.redis import RedisProcess, free_port, redis_process
from tests.support.working import WorkingTime

LASTING = ("--appendonly", "yes", "--appendfsync", "always")
RECOVER = 5.0
"""Seconds from Redis's return until everything is taken and known again."""
Fault: TypeAlias = Callable[[RedisProcess], None]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    with redis_process(tmp_path / "redis", *LASTING) as process:
        yield process


@pytest.fixture
def server(redis: RedisProcess) -> Iterator[LiveServer]:
    with LiveServer(redis.url) as live:
        yield live.start()


def lock(redis: RedisProcess) -> None:
    redis.ask("ACL", "SETUSER", "default", "-@write")


def unlock(redis: RedisProcess) -> None:
    redis.ask("ACL", "SETUSER", "default", "+@all")


FAULTS: dict[str, tuple[Fault, Fault, str]] = {
    "stopped": (RedisProcess.pause, RedisProcess.resume, "did not answer in time"),
    "killed": (RedisProcess.kill, RedisProcess.start, "cannot be reached"),  # type: ignore[dict-item]
    "read-only": (
        lambda redis: redis.ask("REPLICAOF", "127.0.0.1", str(free_port())),
        lambda redis: redis.ask("REPLICAOF", "NO", "ONE"),
        "read-only replica",
    ),
    "full": (
        lambda redis: redis.ask("CONFIG", "SET", "maxmemory", "1"),
        lambda redis: redis.ask("CONFIG", "SET", "maxmemory", "0"),
        "out of memory",
    ),
    "not allowed": (lock, unlock, "does not allow this user"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_writers_are_told_lists_go_on_and_all_recovers(redis: RedisProcess, server: LiveServer, name: str) -> None:
    harm, mend, reason = FAULTS[name]
    with Rpc(server.address) as rpc:
        source = rpc.publish(publication(tensors=100)).mx_source_id
        harm(redis)
        try:
            assert reason in refusal(lambda: rpc.publish(publication(worker_id="w1"), timeout=3))
            assert listed(rpc) == {"w0"}
            eventually(lambda: not answered(lambda: rpc.update(heartbeat(source), timeout=3)))
            assert listed(rpc) == {"w0"}
        finally:
            mend(redis)
        with WorkingTime() as time:
            assert eventually(lambda: answered(lambda: rpc.publish(publication(worker_id="w1"), timeout=3)))
            assert eventually(lambda: answered(lambda: rpc.update(heartbeat(source), timeout=3)))
            assert rpc.update(heartbeat(source)).success, "what was published before is still known"
            assert len(rpc.get(source, "w0").worker.tensor_source.tensors) == 100
            assert eventually(lambda: listed(rpc) == {"w0", "w1"})
            assert time.seconds() < RECOVER
    assert server.stop() == 0
    assert "Traceback" not in server.log()


def test_a_redis_that_comes_back_empty(tmp_path: Path) -> None:
    """No ghosts, and no empty list either: workers are told to publish again, and readers that nothing is known."""
    with (
        redis_process(tmp_path / "redis") as redis,
        LiveServer(redis.url) as server,
        Rpc(server.start().address) as rpc,
    ):
        source = rpc.publish(publication()).mx_source_id
        assert listed(rpc) == {"w0"}
        redis.restart()
        eventually(lambda: "came back without its data" in server.log())
        assert not rpc.update(heartbeat(source)).success
        assert not rpc.get(source, "w0").found
        assert refusal(lambda: rpc.list(ready(), timeout=1))
        assert rpc.publish(publication()).success
        assert listed(rpc) == {"w0"}
        assert rpc.update(heartbeat(source)).success


async def test_a_pull_whose_manifest_no_server_can_read_ends(redis: RedisProcess, server: LiveServer) -> None:
    """Sources are listed from memory for as long as a heartbeat counts; what one of them published is in Redis alone."""
    told: list[PullProgress] = []
    quick = ClientSettings(patience=0.5, retry_delay=0.05, tries=2, outage_patience=0.5, call_timeout=2.0)
    with LiveServer(redis.url) as other:
        async with (
            AsyncClient(other.start().address, host="127.0.0.1") as publisher,
            AsyncClient(server.address, settings=quick) as reader,
            publisher.publish({"a": b"weights"}, model="org/model"),
        ):
            await asyncio.to_thread(eventually, lambda: len(listed_by(server)) == 1)
            redis.kill()
            with pytest.raises(Unavailable) as error:
                await reader.pull("org/model", progress=told.append)
            redis.start()
    assert f"the server at {server.address} is not available: Redis at" in str(error.value)
    assert "connection refused" in str(error.value)
    waits = [step.reason for step in told if step.phase == "waiting"]
    assert len(waits) == 1, "who waits is told so, once"
    assert "connection refused" in waits[0]


def listed_by(server: LiveServer) -> set[str]:
    with Rpc(server.address) as rpc:
        return listed(rpc)


def test_a_server_starts_when_redis_is_there(tmp_path: Path) -> None:
    with redis_process(tmp_path / "redis") as redis:
        redis.kill()
        with LiveServer(redis.url.replace("//", "//:secret@")) as server:
            server.start(wait=False)
            assert server.wait() == 1
            assert "cannot be reached" in server.log()
            assert "secret" not in server.log()


def test_three_servers_are_one_directory(redis: RedisProcess) -> None:
    """Published at one, alive by another, found at the third; and it stays so when one is killed."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(LiveServer(redis.url)).start() for _ in range(3)]
        one, two, three = (stack.enter_context(Rpc(server.address)) for server in servers)
        source = one.publish(publication(tensors=50)).mx_source_id
        assert two.update(heartbeat(source)).success
        eventually(lambda: listed(three) == {"w0"})
        assert len(three.get(source, "w0").worker.tensor_source.tensors) == 50
        servers[0].kill()
        assert two.publish(publication(worker_id="w1")).success
        eventually(lambda: listed(three) == {"w0", "w1"})
        assert three.withdraw(source, "w0")
        eventually(lambda: listed(two) == {"w1"})
        assert not two.update(heartbeat(source)).success


def test_watchers_on_every_server_see_the_same_sequence(redis: RedisProcess) -> None:
    from peerload.wire import sources_pb2

    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(LiveServer(redis.url)).start() for _ in range(2)]
        rpcs = [stack.enter_context(Rpc(server.address)) for server in servers]
        seen: list[list[str]] = [[], []]
        begun = [threading.Event() for _ in rpcs]

        def follow(number: int) -> None:
            stream = rpcs[number].channel.unary_stream("/peerload.v1.SourceService/Watch")(b"", timeout=60)
            for data in stream:
                answer = sources_pb2.WatchResponse.FromString(data)
                begun[number].set()
                for record in answer.present:
                    seen[number].append(f"{record.worker_id} {record.status}")
                seen[number].extend(f"gone {record.worker_id}" for record in answer.gone)
                if "w-end" in " ".join(seen[number]):
                    stream.cancel()
                    return

        threads = [threading.Thread(target=follow, args=(number,), daemon=True) for number in range(2)]
        for thread, event in zip(threads, begun, strict=True):
            thread.start()
            assert event.wait(20)
        for turn in range(10):
            at = rpcs[turn % 2]
            source = at.publish(publication(worker_id="w0")).mx_source_id
            request = heartbeat(source)
            request.status = p2p_pb2.SOURCE_STATUS_STALE
            eventually(lambda: rpcs[(turn + 1) % 2].update(request).success)  # noqa: B023
        rpcs[0].publish(publication(worker_id="w-end"))
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        # A watch may leave out what changed again at once; what it tells is in the same order everywhere.
        assert seen[0][-1] == seen[1][-1]
