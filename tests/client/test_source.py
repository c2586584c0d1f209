"""Sources over time: heartbeats, lost records, outages, and how they end."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from peerload import AsyncClient, ClientSettings, Status
from peerload.client import SourceEvent, SourceState
from peerload.clock import SystemClock
from peerload.engines.base import JobState, Publication, Range, Region
from peerload.engines.tcp import TcpEngine, TcpExporter
from peerload.errors import InvalidArgument, LimitExceeded, Unavailable
from peerload.store.memory import MemoryStore
from peerload.testing.clock import ManualClock
from peerload.testing.faulty_store import FaultyStore
from tests.support.live import free_port
from tests.support.server import LiveServer, serving

QUICK = ClientSettings(patience=0.1, call_timeout=5.0, heartbeat_interval=30.0, retire_grace=0.2)


class Diary:
    """Hears what happens to a source; `until` waits for it."""

    def __init__(self) -> None:
        self.events: list[SourceEvent] = []
        self._news = asyncio.Event()

    def __call__(self, event: SourceEvent) -> None:
        self.events.append(event)
        self._news.set()

    @property
    def states(self) -> list[SourceState]:
        return [event.state for event in self.events]

    async def until(self, state: SourceState) -> SourceEvent:
        """The latest event, once it is of that state."""
        async with asyncio.timeout(30):
            while not self.events or self.events[-1].state is not state:
                self._news.clear()
                await self._news.wait()
        return self.events[-1]


async def beats(clock: ManualClock, seconds: float) -> None:
    """Let the heart's next pause pass, once it has begun."""
    async with asyncio.timeout(30):
        while not clock.sleepers:
            await asyncio.sleep(0.001)
    await clock.advance(seconds)


async def test_heartbeats_carry_the_load() -> None:
    clock = ManualClock()
    async with serving() as server, AsyncClient(server.address, settings=QUICK, clock=clock) as client:
        async with client.publish({"w": b"x"}, model="m") as source:
            assert [(info.status, info.load) for info in await client.find()] == [(Status.READY, None)]
            changes = client.watch()
            await anext(changes)
            await beats(clock, 30)
            # A heartbeat alone is no change, but a load that was unknown before is heard of in time.
            async with asyncio.timeout(30):
                while (await client.find())[0].load is None:
                    await asyncio.sleep(0.01)
            assert (await client.find())[0].load == 0.0
            assert source.state is SourceState.LIVE
            await changes.aclose()


async def test_a_lost_record_is_published_again() -> None:
    clock, diary = ManualClock(), Diary()
    async with serving() as server, AsyncClient(server.address, settings=QUICK, clock=clock) as client:
        async with client.publish({"w": b"x"}, model="m", on_event=diary) as source:
            assert await client.withdraw(source.key)
            assert await client.find() == []
            await beats(clock, 30)
            async with asyncio.timeout(30):
                while len(diary.events) < 2:
                    await asyncio.sleep(0.001)
            assert "no record" in diary.events[1].reason
            assert [info.key for info in await client.find()] == [source.key]
    assert diary.states == [SourceState.LIVE, SourceState.LIVE, SourceState.CLOSED]


async def test_a_server_that_dies_and_comes_back_without_its_data() -> None:
    clock, diary = ManualClock(), Diary()
    with LiveServer("memory:") as live:
        live.start()
        async with AsyncClient(live.address, settings=QUICK, clock=clock) as client:
            async with client.publish({"w": b"x"}, model="m", on_event=diary) as source:
                live.kill()
                await beats(clock, 30)
                event = await diary.until(SourceState.UNREACHABLE)
                assert live.address in event.reason
                await asyncio.to_thread(live.start)
                async with asyncio.timeout(30):
                    while source.state is not SourceState.LIVE:
                        await clock.advance(30)
                        await asyncio.sleep(0.01)
                assert [info.key for info in await client.find()] == [source.key]
        assert diary.states == [SourceState.LIVE, SourceState.UNREACHABLE, SourceState.LIVE, SourceState.CLOSED]


async def test_a_server_that_is_away_for_an_hour() -> None:
    """Peers that know the source read on from it, and it is published again within a heartbeat's time of the server's return."""
    clock, diary = ManualClock(), Diary()
    hasty = replace(QUICK, patience=0.0)
    with LiveServer("memory:") as live:
        live.start()
        async with (
            AsyncClient(live.address, settings=hasty, clock=clock) as client,
            AsyncClient(live.address, settings=hasty) as peer,
        ):
            async with client.publish({"w": b"weights"}, model="m", on_event=diary) as source:
                found = await peer.manifest(source.key)
                live.kill()
                for minute in range(60):
                    await clock.advance(60)
                    if minute % 20 == 19:
                        assert bytes((await peer.read(found))["w"]) == b"weights"
                await diary.until(SourceState.UNREACHABLE)
                await asyncio.to_thread(live.start)
                back = clock.monotonic()
                async with asyncio.timeout(30):
                    while source.state is not SourceState.LIVE:
                        if clock.sleepers:
                            await clock.advance(1)
                        await asyncio.sleep(0.001)
                assert clock.monotonic() - back <= QUICK.heartbeat_interval + 1
                assert [info.key for info in await peer.find("m")] == [source.key]
    assert diary.states == [SourceState.LIVE, SourceState.UNREACHABLE, SourceState.LIVE, SourceState.CLOSED]


async def test_a_source_ends_without_its_server() -> None:
    with LiveServer("memory:") as live:
        live.start()
        diary = Diary()
        async with AsyncClient(live.address, settings=QUICK) as client:
            async with client.publish({"w": b"x"}, model="m", on_event=diary) as source:
                live.kill()
            assert source.state is SourceState.CLOSED
            await source.close()
    assert diary.states == [SourceState.LIVE, SourceState.CLOSED]


async def test_what_cannot_be_published_leaves_nothing_behind() -> None:
    async with AsyncClient(f"127.0.0.1:{free_port()}", settings=QUICK) as client:
        with pytest.raises(Unavailable):
            await client.publish({"w": b"x"}, model="m")
    async with serving() as server, AsyncClient(server.address, settings=QUICK) as client:
        with pytest.raises(InvalidArgument):
            await client.publish({"w": b"x"}, model="m" * 100_000)
        assert await client.find() == []


async def test_the_memory_is_the_callers_again() -> None:
    data = np.zeros(1000)
    gone = weakref.ref(data)
    async with serving() as server, AsyncClient(server.address, settings=QUICK) as client:
        source = await client.publish({"w": data}, model="m")
        del data
        gc.collect()
        assert gone() is not None, "a source holds what it serves"
        await source.close()
        gc.collect()
        assert gone() is None


async def test_files_are_let_go(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_bytes(bytes(1 << 20))
    async with serving() as server, AsyncClient(server.address, settings=QUICK) as client:
        async with client.share(tmp_path, model="m"):
            assert str(tmp_path) in Path("/proc/self/maps").read_text()
        gc.collect()
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()


async def test_closing_the_client_ends_its_sources() -> None:
    async with serving() as server, AsyncClient(server.address, settings=QUICK) as other:
        client = AsyncClient(server.address, settings=QUICK)
        sources = [await client.publish({"w": b"x"}, model="m", rank=rank) for rank in range(3)]
        assert len(await other.find()) == 3
        await client.close()
        await client.close()
        assert await other.find() == []
        assert {source.state for source in sources} == {SourceState.CLOSED}
        with pytest.raises(RuntimeError):
            await client.find()


async def test_the_token_of_a_file_goes_with_every_call(tmp_path: Path) -> None:
    from peerload.client.connection import _Token

    token = _Token(tmp_path / "token")
    assert token.metadata() == ()
    (tmp_path / "token").write_text("first\n")
    assert token.metadata() == (("authorization", "Bearer first"),)
    (tmp_path / "token").write_text("the second\n")
    assert token.metadata() == (("authorization", "Bearer the second"),)
    (tmp_path / "token").unlink()
    assert token.metadata() == ()


async def test_what_was_pulled_is_not_lost_with_the_server() -> None:
    """The server dies once the bytes are here: the pull is done, and its source publishes when the server is back."""
    clock, diary = ManualClock(), Diary()
    with LiveServer("memory:") as live:
        live.start()
        async with (
            AsyncClient(live.address, settings=QUICK) as first,
            AsyncClient(live.address, settings=QUICK, clock=clock) as second,
        ):
            source = await first.publish({"w": b"x"}, model="m")
            pulled = await second.pull(
                "m", publish=True, on_event=diary, progress=lambda step: live.kill() if step.bytes_done else None
            )
            assert bytes(pulled["w"].memory) == b"x"
            assert pulled.source is not None
            assert pulled.source.state is SourceState.UNREACHABLE
            await asyncio.to_thread(live.start)
            async with asyncio.timeout(30):
                while diary.states[-1] is not SourceState.LIVE:
                    await clock.advance(1)
                    await asyncio.sleep(0.01)
            assert pulled.source.key in {info.key for info in await first.find()}
            await source.close()
    assert diary.states == [SourceState.UNREACHABLE, SourceState.LIVE, SourceState.CLOSED]


async def test_a_callback_that_fails_does_not_stop_the_heart(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()

    def fails(event: SourceEvent) -> None:
        raise ValueError(event.state.value)

    async with serving() as server, AsyncClient(server.address, settings=QUICK, clock=clock) as client:
        async with client.publish({"w": b"x"}, model="m", on_event=fails) as source:
            await client.withdraw(source.key)
            await beats(clock, 30)
            async with asyncio.timeout(30):
                while not (await client.find() and clock.sleepers):
                    await asyncio.sleep(0.01)
    assert "ValueError: live" in caplog.text


async def test_a_publish_without_an_answer_leaves_no_record() -> None:
    clock = SystemClock()
    store = FaultyStore(MemoryStore(clock))
    async with serving(store=store) as server, AsyncClient(server.address, settings=QUICK) as client:
        store.lose_answers("put")  # it takes effect, and nobody is told
        with pytest.raises(Unavailable):
            await client.publish({"w": b"x"}, model="m")
        store.heal()
        assert await client.find() == []


async def test_memory_that_must_be_copied_is_announced_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerload.engines.tcp.TcpEngine.registers_memory", True)
    monkeypatch.setattr("peerload.engines.tcp.TcpExporter.copies", lambda self, regions: regions[0].nbytes)
    diary = Diary()
    async with serving() as server, AsyncClient(server.address, settings=QUICK) as client:
        async with client.publish({"w": bytes(4096)}, model="m", on_event=diary):
            first = await diary.until(SourceState.LIVE)
            assert first.reason == ""
        assert (diary.events[0].state, diary.events[0].reason) == (
            SourceState.STARTING,
            "tcp copies 4,096 bytes of memory",
        )
        monkeypatch.setattr("peerload.client.source.available_memory", lambda: 4095)
        with pytest.raises(LimitExceeded, match=r"4,096 bytes .* 4,095"):
            await client.publish({"w": bytes(4096)}, model="m")
        assert await client.find() == []


async def test_a_publish_that_is_cancelled_is_served_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    publish, begun, go_on = TcpExporter.publish, threading.Event(), threading.Event()
    made: list[Publication] = []

    def slowly(exporter: TcpExporter, regions: Sequence[Region]) -> Publication:
        begun.set()
        assert go_on.wait(60)
        made.append(publish(exporter, regions))
        return made[0]

    monkeypatch.setattr(TcpExporter, "publish", slowly)
    async with serving() as server, AsyncClient(server.address, settings=replace(QUICK, engines=("tcp",))) as client:
        publishing = asyncio.ensure_future(client.publish({"w": b"x"}, model="m").__aenter__())
        assert await asyncio.to_thread(begun.wait, 60)
        publishing.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        async with asyncio.timeout(60):
            while not made:
                await asyncio.sleep(0.001)
        reader = (importer := TcpEngine().importer()).open(made[0].descriptor)
        job = reader.read([Range(0, 0, 1)], [memoryview(bytearray(1))], deadline=60.0)
        while (progress := await asyncio.to_thread(job.wait, 1.0)).state is JobState.RUNNING:
            pass
        assert progress.state is JobState.FAILED
        assert "no longer offered" in progress.reason
        importer.close()
        assert await client.find() == []
