"""Workers and servers that die in the middle: real processes, killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from peerload import AsyncClient, ClientSettings
from peerload.client import PullProgress
from peerload.errors import PullFailed, Unavailable
from peerload.server.app import Server
from tests.client.worker import content
from tests.client.workers import Worker, working
from tests.support.server import LiveServer, sqlite_url

MIB = 1 << 20
QUICK = ClientSettings(patience=1.0, retry_delay=0.05, tries=2)
NEAR = {"host": "near"}
FAR = {"host": "far"}


@pytest.fixture
async def target(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, settings=QUICK, topology=NEAR) as client:
        yield client


def killing(worker: Worker, nbytes: int, killed: list[int]) -> Callable[[PullProgress], None]:
    """A progress callback that kills a worker once so many bytes have come from it."""

    def progress(step: PullProgress) -> None:
        reading = step.source is not None and step.source.worker_id == worker.worker_id
        if reading and step.bytes_done >= nbytes and worker.process.returncode is None and not killed:
            killed.append(step.bytes_done)
            worker.process.kill()

    return progress


def tensors(count: int, changed: int | None = None) -> dict[str, tuple[int, int]]:
    return {f"t{i}": (i + (1000 if i == changed else 0), MIB) for i in range(count)}


async def test_weights_of_two_sources_never_mix(server: Server, target: AsyncClient) -> None:
    """The near source dies after its t1, which differs, was verified; what agrees is kept, t1 is read again."""
    killed: list[int] = []
    async with (
        working(server.address, tensors(8, changed=1), rate=2 * MIB, topology=NEAR) as first,
        working(server.address, tensors(8), topology=FAR) as second,
    ):
        pulled = await target.pull("org/model", progress=killing(first, 4 * MIB, killed))
    assert killed, "the first source was killed in the middle"
    assert {name: bytes(tensor.memory) for name, tensor in pulled.items()} == {
        name: content(*spec) for name, spec in tensors(8).items()
    }
    given = {each.source.worker_id: each.bytes_verified for each in pulled.report.sources}
    assert sum(given.values()) == 8 * MIB
    assert 2 * MIB <= given[first.worker_id] <= 6 * MIB, "what agreed was kept, t1 was not"
    assert given[second.worker_id] == 8 * MIB - given[first.worker_id]
    assert [bool(attempt.error) for attempt in pulled.report.attempts] == [True, False]
    assert pulled.report.attempts[0].bytes_verified >= 3 * MIB


async def test_what_has_no_digest_is_read_again_as_a_whole(server: Server, target: AsyncClient) -> None:
    killed: list[int] = []
    async with (
        working(server.address, tensors(6, changed=1), rate=2 * MIB, topology=NEAR, digests=False) as first,
        working(server.address, tensors(6), topology=FAR, digests=False) as second,
    ):
        pulled = await target.pull("org/model", progress=killing(first, 3 * MIB, killed))
    assert killed
    assert [each.source.worker_id for each in pulled.report.sources] == [second.worker_id]
    assert bytes(pulled["t1"].memory) == content(1, MIB)
    assert pulled.report.verified.unchecked_items == 6


async def test_when_the_only_source_dies_the_error_tells_of_each_try(server: Server, target: AsyncClient) -> None:
    killed: list[int] = []
    async with working(server.address, tensors(8), rate=8 * MIB) as only:
        with pytest.raises(PullFailed) as error:
            await target.pull("org/model", progress=killing(only, 2 * MIB, killed))
    assert killed
    assert str(error.value).startswith("no source of 'org/model' could give it\n  - worker ")
    # The server is told, finds its host refusing, and from then on knows no source: that may be before a second try.
    assert 1 <= len(error.value.attempts) <= 4
    assert all(only.worker_id[:8] in line for line in error.value.attempts)


async def test_waiting_outlasts_the_death_of_the_only_source(server: Server, target: AsyncClient) -> None:
    killed: list[int] = []
    async with working(server.address, tensors(8), rate=8 * MIB) as only:
        pull = asyncio.create_task(target.pull("org/model", wait=60, progress=killing(only, 2 * MIB, killed)))
        await only.process.wait()
        async with working(server.address, tensors(8)) as other:
            pulled = await pull
    given = {each.source.worker_id: each.bytes_verified for each in pulled.report.sources}
    assert set(given) == {only.worker_id, other.worker_id}


async def test_a_worker_that_ends_withdraws(server: Server, target: AsyncClient) -> None:
    async with working(server.address, tensors(1)) as worker:
        assert [info.worker_id for info in await target.find()] == [worker.worker_id]
        assert await worker.end() == 0
        assert await target.find() == []


async def test_a_server_that_dies_is_waited_for(tmp_path: Path) -> None:
    settings = ClientSettings(patience=0.2, retry_delay=0.05)
    with LiveServer(sqlite_url(tmp_path)) as live:
        live.start()
        told: asyncio.Queue[str] = asyncio.Queue()
        away = asyncio.Event()

        def progress(step: PullProgress) -> None:
            if step.phase == "waiting":
                told.put_nowait(step.reason)

        async def watch(client: AsyncClient) -> None:
            async for _ in client.watch("org/model", on_outage=lambda error: away.set()):
                pass

        async with AsyncClient(live.address, settings=settings) as target:
            watching = asyncio.create_task(watch(target))
            pull = asyncio.create_task(target.pull("org/model", wait=90, progress=progress))
            assert await told.get() == ""
            live.kill()
            assert live.address in await told.get()
            await away.wait()
            watching.cancel()
            await asyncio.to_thread(live.start)
            assert await told.get() == ""
            async with working(live.address, tensors(1)):
                pulled = await pull
            assert bytes(pulled["t0"].memory) == content(0, MIB)
            assert await asyncio.to_thread(live.stop) == 0


async def test_what_is_no_answer_of_ours_is_asked_of_another(server: Server) -> None:
    """As where an address has become another program's."""

    async def garbage(request: bytes, context: object) -> bytes:
        return b"\xff\xff\xff"

    async def garbled(request: bytes, context: object) -> AsyncIterator[bytes]:
        yield b"\xff\xff\xff"

    stranger = grpc.aio.server()
    port = stranger.add_insecure_port("127.0.0.1:0")
    handlers = {
        "List": grpc.unary_unary_rpc_method_handler(garbage),
        "Watch": grpc.unary_stream_rpc_method_handler(garbled),
    }
    stranger.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("peerload.v1.SourceService", handlers),))
    await stranger.start()
    try:
        async with AsyncClient(f"127.0.0.1:{port}", settings=QUICK) as alone:
            with pytest.raises(Unavailable, match=f"127.0.0.1:{port} answered to List is no ListResponse"):
                await alone.find()
            outage: asyncio.Future[Unavailable] = asyncio.get_running_loop().create_future()
            watching = asyncio.ensure_future(anext(alone.watch("org/model", on_outage=outage.set_result)))
            assert "answered to Watch is no WatchResponse" in str(await outage)
            watching.cancel()
        async with (
            working(server.address, tensors(1)) as worker,
            AsyncClient(f"127.0.0.1:{port},{server.address}", settings=QUICK) as client,
        ):
            for _ in range(4):
                assert [info.worker_id for info in await client.find()] == [worker.worker_id]
            async for change in client.watch("org/model"):
                assert [info.worker_id for info in change.present] == [worker.worker_id]
                break
    finally:
        await stranger.stop(None)


async def test_a_pull_goes_on_while_the_server_is_away(tmp_path: Path) -> None:
    """Bytes do not pass the server, and a source whose manifest is here can be read without it."""
    settings = ClientSettings(patience=0.1, retry_delay=0.05, tries=3)
    with LiveServer(sqlite_url(tmp_path)) as live:
        live.start()
        async with (
            AsyncClient(live.address, settings=settings) as target,
            working(live.address, tensors(4), rate=8 * MIB),
        ):
            killed = False

            def progress(step: PullProgress) -> None:
                nonlocal killed
                if step.bytes_done >= MIB and not killed:
                    killed = True
                    live.kill()

            pulled = await target.pull("org/model", progress=progress)
        assert killed
        assert pulled.report.bytes_moved == 4 * MIB
