"""A server that was down for a while: what it did not see does not count against anybody.

Time is driven by hand; the server is whole and spoken to through gRPC.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from peerload.store.base import Store
from peerload.store.memory import MemoryStore
from peerload.store.sqlite import SqliteStore
from peerload.testing import ManualClock
from peerload.wire import p2p_pb2
from tests.support.house import House, house
from tests.support.kube.clocked import ClockedKubernetesStore
from tests.support.live import publication, ready
from tests.support.redis import HandTimedRedisStore

TIMEOUT = 90.0
GRACE = 150.0
BEAT = 30.0
LIVE = ("w1", "w2", "w3")


@pytest.fixture(params=["memory", "sqlite", "redis", "kubernetes"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Callable[[], Store]:
    """The store that a server finds again after it was down: the same file or namespace, or the same memory outside of it."""
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        return lambda: HandTimedRedisStore(url, clock)
    if request.param == "kubernetes":
        url = request.getfixturevalue("kube_url")
        return lambda: ClockedKubernetesStore(url, clock)
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "peerload.sqlite", clock)
    kept = MemoryStore(clock)
    return lambda: kept


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def ready_now(server: House) -> set[str] | None:
    """Who is READY; None if the server says that it cannot know."""
    try:
        return {ref.worker_id for ref in (await server.list(ready())).instances}
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error  # noqa: PT017
        return None


async def beat(server: House, source_id: str, workers: tuple[str, ...], seconds: float) -> None:
    """Let these workers live for a while."""
    while seconds > 0:
        for worker_id in workers:
            assert await server.update(source_id, worker_id), f"{worker_id} is told that it is unknown"
        await server.advance(min(BEAT, seconds))
        seconds -= BEAT


@pytest.mark.parametrize(
    ("down", "killed", "reconnect"),
    [(600.0, True, 125.0), (600.0, False, 5.0), (3.0, True, 5.0), (3.0, False, 125.0)],
    ids=["killed, long down, back late", "stopped, long down", "killed, soon up", "stopped, soon up, back late"],
)
async def test_live_sources_are_never_lost(
    clock: ManualClock, make_store: Callable[[], Store], down: float, killed: bool, reconnect: float
) -> None:
    async with house(clock, make_store, heartbeat_timeout=TIMEOUT) as server:
        for worker_id in (*LIVE, "dead"):
            source_id = (await server.publish(publication(worker_id=worker_id))).mx_source_id
        await beat(server, source_id, LIVE, 4 * BEAT)
        assert await ready_now(server) == set(LIVE)
        await server.advance(20)

        await (server.kill() if killed else server.stop())
        await clock.advance(down)
        await server.start()

        started = clock.monotonic()
        while (waited := clock.monotonic() - started) < reconnect:
            # A list that is held takes some of that time itself.
            listed = await ready_now(server)
            assert listed is None or listed, f"{waited} s after the start nobody is said to be there"
            await server.advance(5)
        await beat(server, source_id, LIVE, 2 * BEAT)
        assert await ready_now(server) == set(LIVE)

        # From here on absence is a fact again.
        await beat(server, source_id, LIVE[:1], TIMEOUT + GRACE + 2 * BEAT)
        assert await ready_now(server) == set(LIVE[:1])
        for worker_id in (*LIVE[1:], "dead"):
            found = await server.get(source_id, worker_id)
            assert found.worker.status == p2p_pb2.SOURCE_STATUS_STALE


async def test_the_last_of_all_is_not_lost_either(clock: ManualClock, make_store: Callable[[], Store]) -> None:
    """One live source, whose last heartbeats before the crash were answered but not yet stored."""
    async with house(clock, make_store, heartbeat_timeout=TIMEOUT) as server:
        source_id = (await server.publish(publication(worker_id="w1"))).mx_source_id
        await beat(server, source_id, ("w1",), 2 * BEAT)
        assert await server.update(source_id, "w1")
        await server.kill()
        await clock.advance(600)
        await server.start()
        assert await ready_now(server) in ({"w1"}, None)
        assert await server.update(source_id, "w1")
        assert await ready_now(server) == {"w1"}


async def test_a_server_that_comes_back_again_and_again(clock: ManualClock, make_store: Callable[[], Store]) -> None:
    """Twenty short lives, each shorter than anybody's heartbeat interval: nobody dies of them."""
    async with house(clock, make_store, heartbeat_timeout=TIMEOUT) as server:
        source_id = (await server.publish(publication(worker_id="w1"))).mx_source_id
        for _ in range(20):
            await server.advance(4)
            await server.kill()
            await clock.advance(20)
            await server.start()
            assert await ready_now(server) in ({"w1"}, None)
        assert await server.update(source_id, "w1")
        assert await ready_now(server) == {"w1"}


async def test_a_store_that_came_back_empty(clock: ManualClock) -> None:
    """The records are gone; that is no proof that nobody has weights, until they had time to say so."""
    async with house(clock, lambda: MemoryStore(clock), heartbeat_timeout=TIMEOUT) as server:
        source_id = (await server.publish(publication(worker_id="w1"))).mx_source_id
        await server.kill()
        await clock.advance(5)
        await server.start()
        # As the stock client does it: refused twice, then published again.
        assert not await server.update(source_id, "w1")
        assert not await server.update(source_id, "w1")
        await server.publish(publication(worker_id="w1"))
        assert await ready_now(server) == {"w1"}
