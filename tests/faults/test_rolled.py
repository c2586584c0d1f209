"""Servers that are rolled: one after the other goes and comes back, and nobody who asks them notices."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from peerload import AsyncClient, ClientSettings
from peerload.client import SourceEvent, SourceState
from peerload.errors import Unavailable
from tests.support.server import LiveServer, sqlite_url

PATIENT = ClientSettings(heartbeat_interval=0.2, retire_grace=0.2)


@pytest.fixture(params=["sqlite", "redis"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[LiveServer, LiveServer]]:
    """Two server processes on one store."""
    url = sqlite_url(tmp_path) if request.param == "sqlite" else request.getfixturevalue("redis_url")
    with LiveServer(url) as first, LiveServer(url) as second:
        with ThreadPoolExecutor(2) as executor:
            yield tuple(executor.map(LiveServer.start, (first, second)))  # type: ignore[misc]


@asynccontextmanager
async def asking(pair: tuple[LiveServer, LiveServer], seed: int) -> AsyncIterator[AsyncClient]:
    addresses = ",".join(server.address for server in pair)
    async with AsyncClient(addresses, settings=PATIENT, rng=random.Random(seed)) as client:
        yield client


async def test_rolled_servers_go_unnoticed(pair: tuple[LiveServer, LiveServer]) -> None:
    events: list[SourceEvent] = []
    outages: list[Unavailable] = []
    told: list[str] = []
    async with asking(pair, 1) as client, asking(pair, 2) as watcher, asking(pair, 3) as puller:
        async with (
            client.publish({"w": b"weights"}, model="there", on_event=events.append) as source,
            aclosing(watcher.watch(on_outage=outages.append)) as changes,
        ):
            await anext(changes)
            pull = asyncio.ensure_future(
                puller.pull("later", wait=120, progress=lambda step: told.append(step.reason) if step.reason else None)
            )
            for server, go in zip(pair, (LiveServer.stop, LiveServer.kill), strict=True):
                await asyncio.to_thread(go, server)
                for _ in range(3):
                    await source.beat()
                    assert [info.key for info in await puller.find("there")] == [source.key]
                await asyncio.to_thread(server.start)
            async with client.publish({"w": b"later"}, model="later"):
                seen: set[str] = set()
                async with asyncio.timeout(60):
                    while "later" not in seen:
                        seen |= {info.model for info in (await anext(changes)).present}
                    assert bytes((await pull)["w"].memory) == b"later"
            assert source.state is SourceState.LIVE
            await asyncio.sleep(0)
    assert {event.state for event in events} == {SourceState.LIVE, SourceState.CLOSED}
    assert outages == []
    assert told == []
