"""Fail-over with real processes: three sentinels over a primary and two replicas, and a cluster of three."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import hiredis
import pytest

from peerload.clock import SystemClock
from peerload.errors import Compacted, Unavailable
from peerload.finding import Level
from peerload.store.base import Beat, Position, Store, Touch, Touched
from peerload.store.redis.slot import slot
from peerload.store.redis.store import RedisStore
from tests.doctor.examined import about, examined, problems
from tests.support.deployments import PATIENCE, Cluster, Trio, leads, until
from tests.support.redis import RedisProcess, free_port


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    with contextlib.ExitStack() as stack:
        yield Trio(stack, tmp_path)


class Load:
    """Writers that never stop; what was acknowledged."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.acknowledged: dict[str, int] = {}
        self.failed = 0
        self._tasks = [asyncio.create_task(self._write(n)) for n in range(4)]

    async def _write(self, writer: int) -> None:
        turn = 0
        while True:
            key = f"{writer}/{turn}"
            try:
                self.acknowledged[key] = (await self._store.put(key, {"turn": turn}, blob=b"x" * 1_000)).revision
            except Unavailable:
                self.failed += 1
                await asyncio.sleep(0.02)  # as a caller does; the key is tried again, which is safe
            else:
                turn += 1

    async def grow(self, by: int) -> None:
        """Return once so many more writes were acknowledged."""
        wanted = len(self.acknowledged) + by
        async with asyncio.timeout(PATIENCE):
            while len(self.acknowledged) < wanted:
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            assert isinstance(outcome, asyncio.CancelledError), outcome


async def lists_well(store: Store, position: Position) -> None:
    """A reader from before the fail-over goes on, or is told to list again; it is never left with a gap."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                async with contextlib.aclosing(store.watch(position)) as feeds:
                    await anext(feeds)
                return
            except Compacted:
                position = (await store.list()).position
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_a_primary_killed_under_load_loses_nothing_acknowledged(trio: Trio) -> None:
    store = RedisStore(f"{trio.url}?min_replicas=2", SystemClock())
    await store.open()
    try:
        position = (await store.list()).position
        load = Load(store)
        await load.grow(200)
        await asyncio.to_thread(trio.primary.kill)
        await asyncio.to_thread(until, lambda: any(leads(each) for each in trio.replicas), "a new primary")
        new = next(each for each in trio.replicas if leads(each))
        # Two replicas are asked for, so the dead one has to come back, as one.
        trio.primary.options += ["--replicaof", "127.0.0.1", str(new.port)]
        await asyncio.to_thread(trio.primary.start)
        await load.grow(200)
        await load.stop()
        assert load.failed
        held = {entry.key: entry.revision for entry in (await store.list()).entries}
        assert {key: held.get(key) for key in load.acknowledged} == load.acknowledged
        await lists_well(store, position)
    finally:
        await store.close()


async def test_a_primary_that_is_silent_is_named_and_not_its_sentinels(trio: Trio) -> None:
    store = RedisStore(trio.url, SystemClock())
    await store.open()
    try:
        await store.put("k", {"n": 1})
        for sentinel in trio.sentinels:  # nobody is appointed in its place
            sentinel.kill()
        trio.primary.pause()
        with pytest.raises(Unavailable, match=f"^Redis at 127.0.0.1:{trio.primary.port} did not answer in time"):
            await store.put("k", {"n": 2})
    finally:
        trio.primary.resume()
        await store.close()


async def test_a_service_that_the_sentinels_do_not_know(trio: Trio) -> None:
    store = RedisStore(trio.url.replace("mymaster", "other"), SystemClock())
    with pytest.raises(Unavailable, match="knows no service 'other'"):
        await store.open()


async def test_the_doctor_asks_every_sentinel(trio: Trio) -> None:
    report = await examined(f"{trio.url}?min_replicas=1")
    assert problems(report) == []
    assert about(report, "sentinel").what == (
        f"3 sentinels agree on 127.0.0.1:{trio.primary.port} as the primary, and can appoint another"
    )
    assert about(report, "2 replicas are in step").level is Level.OK
    assert trio.primary.ask("KEYS", "*") == []

    (problem,) = problems(await examined(trio.url.replace("mymaster", "other")))
    assert "no sentinel knows a service 'other'" in problem.what

    elsewhere = trio.sentinels[1]
    elsewhere.ask("SENTINEL", "REMOVE", "mymaster")
    elsewhere.ask("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", free_port(), 2)
    (problem,) = problems(await examined(trio.url))
    assert "the sentinels do not agree on the primary" in problem.what

    elsewhere.kill()
    trio.sentinels[2].kill()
    until(lambda: _alone(trio.sentinels[0]), "the sentinel to miss the others")
    report = await examined(trio.url)
    assert [finding.what for finding in report.findings if "has to do without this sentinel" in finding.what]
    (problem,) = problems(report)
    assert "could not appoint another primary when this one fails (NOQUORUM" in problem.what
    trio.sentinels[0].kill()
    assert not (await examined(trio.url)).reached


def _alone(sentinel: RedisProcess) -> bool:
    try:
        sentinel.ask("SENTINEL", "CKQUORUM", "mymaster")
    except hiredis.ReplyError:
        return True
    return False


async def test_a_cluster_serves_and_fails_over(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        cluster = Cluster(stack, tmp_path)
        report = await examined(f"{cluster.url}?min_replicas=1")
        assert problems(report) == []
        assert report.rehearsed
        ours = f"slot {slot('peerload')}, which holds all keys, is served by 127.0.0.1:{cluster.owner.port}"
        assert about(report, ours).what.startswith("the cluster's state is ok")
        assert cluster.owner.ask("KEYS", "*") == []
        rules = "-@all +@read +@write +@scripting +@connection +info +time +wait +cluster|slots"
        for node in cluster.nodes:
            node.ask("ACL", "SETUSER", "least", "on", ">pw", "~{peerload}*", *rules.split())
        report = await examined(cluster.url.replace("://", "://least:pw@"))
        assert problems(report) == []
        assert about(report, ours).what == ours
        store = RedisStore(f"{cluster.url}?min_replicas=1", SystemClock())
        await store.open()
        try:
            written = await store.put("k", {"n": 1}, blob=b"blob")
            listing = await store.list()
            assert [entry.key for entry in listing.entries] == ["k"]
            assert await store.touch([Touch("k", written.generation, Beat(1))]) == [Touched.APPLIED]
            await asyncio.to_thread(cluster.owner.kill)
            async with asyncio.timeout(PATIENCE):
                while True:  # until the replica has taken over
                    with contextlib.suppress(Unavailable):
                        touched = await store.touch([Touch("k", written.generation, Beat(2))])
                        break
            assert touched == [Touched.APPLIED]
            assert await store.blob("k", written.generation) == b"blob"
            with pytest.raises(Unavailable, match="min_replicas"):
                await store.put("k", {"n": 2})
            await lists_well(store, listing.position)
        finally:
            await store.close()
