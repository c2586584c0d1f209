"""WorkerService as our workers serve it, asked by the stock package's own functions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import pytest_asyncio

from peerload.client.stock.artifact import ArtifactChunk, ArtifactFile, ArtifactManifest
from peerload.client.stock.leases import Leases
from peerload.client.stock.pool import ChunkPool
from peerload.client.stock.service import ArtifactSource, TensorSource, WorkerService
from peerload.engines.agents import Exposed
from peerload.errors import LimitExceeded, NotFound, TransferFailed, Unavailable
from peerload.testing import ManualClock
from peerload.wire import p2p_pb2
from tests.support.stock import import_stock

SOURCE = "0123456789abcdef"
CHUNKS = 2500
CHUNK_BYTES = 8


async def tensor_answer() -> bytes:
    return p2p_pb2.GetTensorManifestResponse(
        tensors=[p2p_pb2.TensorDescriptor(name="w", addr=4096, size=8, dtype="torch.bfloat16")],
        mx_source_id=SOURCE,
        metadata_endpoint="127.0.0.1:5555",
        agent_name="agent",
        worker_rank=3,
        accelerator="cpu",
        worker_id="w1",
    ).SerializeToString()


def manifest_of(chunks: int) -> ArtifactManifest:
    return ArtifactManifest(
        4,
        CHUNK_BYTES,
        (ArtifactFile("/artifact/artifact.tar", chunks * CHUNK_BYTES, "00000000"),),
        tuple(ArtifactChunk(0, index * CHUNK_BYTES, CHUNK_BYTES, f"{index:08x}") for index in range(chunks)),
    )


class Served:
    """A service with a source of each kind, on a clock that stands still."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.leases = Leases(self.clock, 1830.0, most=2)
        self.executor = ThreadPoolExecutor(2)
        self.filled: list[int] = []
        self.held: list[float] = []
        self.memory = memoryview(bytearray(2 * CHUNK_BYTES))
        self.pool = ChunkPool(self.memory, CHUNK_BYTES, self.fill, clock=self.clock, executor=self.executor)
        self.service = WorkerService()
        self.manifest = manifest_of(CHUNKS)

    def fill(self, chunk: int, into: memoryview) -> None:
        self.filled.append(chunk)
        into[:] = chunk.to_bytes(CHUNK_BYTES, "big")

    async def start(self) -> str:
        await self.service.start("127.0.0.1")
        self.service.add(TensorSource(SOURCE, "w1", tensor_answer, self.leases))
        exposed = Exposed("agent", b"blob", (1 << 20,))
        self.service.add(
            ArtifactSource("a" * 16, 3, "127.0.0.1:5555", self.manifest, self.pool, CHUNK_BYTES, self.now(exposed))
        )
        return f"127.0.0.1:{self.service.port}"

    def now(self, exposed: Exposed) -> Callable[[float], Any]:
        async def get(hold: float) -> Exposed:
            self.held.append(hold)
            return exposed

        return get


@pytest_asyncio.fixture
async def served() -> AsyncIterator[tuple[Served, str]]:
    made = Served()
    yield made, await made.start()
    await made.service.stop()
    made.executor.shutdown()


async def code(call: Callable[..., Any], *arguments: Any, **named: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as error:
        await asyncio.to_thread(call, *arguments, **named)
    return error.value.code()  # type: ignore[no-any-return, attr-defined]


async def test_tensors_are_told_and_leased(served: tuple[Served, str]) -> None:
    made, endpoint = served
    stock = import_stock("metadata.worker_server")
    tensors, _ = await asyncio.to_thread(stock.fetch_tensor_manifest, endpoint, SOURCE, worker_id="w1")
    assert [(each.name, each.addr, each.size, each.dtype) for each in tensors] == [("w", 4096, 8, "torch.bfloat16")]
    lease, _ = await asyncio.to_thread(stock.prepare_tensor_read, endpoint, SOURCE, worker_id="w1")
    told = lease.manifest
    assert (told.mx_source_id, told.worker_id, told.worker_rank, told.metadata_endpoint, told.agent_name) == (
        SOURCE,
        "w1",
        3,
        "127.0.0.1:5555",
        "agent",
    )
    assert len(made.leases) == 1
    await asyncio.to_thread(lease.close)
    assert len(made.leases) == 0


async def test_what_is_not_here_is_told_apart(served: tuple[Served, str]) -> None:
    made, endpoint = served
    stock = import_stock("metadata.worker_server")
    assert await code(stock.fetch_tensor_manifest, endpoint, "") is grpc.StatusCode.INVALID_ARGUMENT
    assert await code(stock.fetch_tensor_manifest, endpoint, "f" * 16) is grpc.StatusCode.FAILED_PRECONDITION
    other = code(stock.fetch_tensor_manifest, endpoint, SOURCE, worker_id="w2")
    assert await other is grpc.StatusCode.FAILED_PRECONDITION
    gone = code(stock.fetch_artifact_manifest_header, endpoint, "f" * 16)
    assert await gone is grpc.StatusCode.FAILED_PRECONDITION
    beyond = code(stock.fetch_artifact_manifest_chunks, endpoint, "", made.manifest.artifact_id, CHUNKS + 1)
    assert await beyond is grpc.StatusCode.INVALID_ARGUMENT
    none = code(stock.prepare_artifact_chunk, endpoint, "", "", CHUNKS)
    assert await none is grpc.StatusCode.INVALID_ARGUMENT
    assert await code(stock.release_artifact_chunk, endpoint, "", "", "no-such") is grpc.StatusCode.NOT_FOUND


async def test_leases_are_few_and_run_out(served: tuple[Served, str]) -> None:
    made, endpoint = served
    stock = import_stock("metadata.worker_server")
    held = [(await asyncio.to_thread(stock.prepare_tensor_read, endpoint, SOURCE, worker_id="w1"))[0] for _ in "ab"]
    refused = code(stock.prepare_tensor_read, endpoint, SOURCE, worker_id="w1")
    assert await refused is grpc.StatusCode.RESOURCE_EXHAUSTED
    await made.clock.advance(1830.0)
    assert len(made.leases) == 0, "whoever never releases keeps nothing for ever"
    assert await code(held[0].release) is grpc.StatusCode.NOT_FOUND
    again, _ = await asyncio.to_thread(stock.prepare_tensor_read, endpoint, SOURCE, worker_id="w1")
    draining = asyncio.create_task(made.leases.drain(60.0))
    await made.clock.settle()
    assert await code(stock.fetch_tensor_manifest, endpoint, SOURCE) is grpc.StatusCode.UNAVAILABLE
    await asyncio.to_thread(again.close)
    await made.clock.advance(1.0)
    assert await draining
    for lease in held:
        lease._channel.close()


async def test_an_artifact_is_told_page_by_page(served: tuple[Served, str]) -> None:
    made, endpoint = served
    stock = import_stock("metadata.worker_server")
    transfer = pytest.importorskip("google_crc32c") and import_stock("metadata.artifact_manifest")
    header, _ = await asyncio.to_thread(stock.fetch_artifact_manifest_header, endpoint, "a" * 16)
    assert (header.file_count, header.chunk_count, header.chunk_size) == (1, CHUNKS, CHUNK_BYTES)
    assert header.artifact_id == made.manifest.artifact_id
    chunks: list[Any] = []
    while len(chunks) < CHUNKS:
        page, _ = await asyncio.to_thread(
            stock.fetch_artifact_manifest_chunks, endpoint, "a" * 16, header.artifact_id, len(chunks)
        )
        chunks += page.chunks
        assert page.next_page_token == (str(len(chunks)) if len(chunks) < CHUNKS else "")
    assert len(chunks) == CHUNKS
    p2p = import_stock("p2p_pb2")
    whole = p2p.ArtifactManifest(
        manifest_version=1, mx_source_type=4, chunk_size=CHUNK_BYTES, files=header.files, chunks=chunks
    )
    assert transfer.artifact_manifest_id(whole) == header.artifact_id


async def test_chunks_are_leased(served: tuple[Served, str]) -> None:
    made, endpoint = served
    stock = import_stock("metadata.worker_server")

    async def prepare(index: int) -> Any:
        return (await asyncio.to_thread(stock.prepare_artifact_chunk, endpoint, "", "", index))[0]

    first, same = await prepare(7), await prepare(7)
    assert (first.source.addr, first.source.length) == (1 << 20, CHUNK_BYTES) == (same.source.addr, same.source.length)
    assert first.lease_id != same.lease_id
    assert first.source_metadata == b"blob"
    second = await prepare(8)
    assert second.source.addr == (1 << 20) + CHUNK_BYTES
    assert made.filled == [7, 8], "two readers of one chunk share it"
    assert bytes(made.memory) == (7).to_bytes(8, "big") + (8).to_bytes(8, "big")
    released, _ = await asyncio.to_thread(stock.release_artifact_chunk, endpoint, "", "", first.lease_id)
    assert released.chunk.chunk_index == 7
    assert made.held == [300.0, 300.0, 300.0], "it is kept served for as long as a lease lasts"


async def test_a_slot_is_not_taken_from_who_leases_it() -> None:
    made = Served()
    one, two = await made.pool.prepare(1), await made.pool.prepare(2)
    waiting = asyncio.create_task(made.pool.prepare(3))
    await made.clock.advance(2.9)
    assert not waiting.done(), "a slot may yet be free"
    await made.clock.advance(0.2)
    with pytest.raises(LimitExceeded):
        await waiting
    again = asyncio.create_task(made.pool.prepare(3))
    await made.clock.advance(1.0)
    assert made.pool.release(one.lease) == 1
    await made.clock.advance(0.1)
    assert (await again).slot == one.slot
    assert made.pool.load == 1.0
    await made.clock.advance(300.0)
    assert made.pool.load == 0.0
    with pytest.raises(NotFound):
        made.pool.release(two.lease)
    assert (await made.pool.prepare(2)).slot == two.slot
    assert made.filled == [1, 2, 3], "what is in a slot is not read again"
    await made.pool.drain(0.0)
    with pytest.raises(Unavailable):
        await made.pool.prepare(2)
    made.executor.shutdown()


async def test_a_chunk_that_cannot_be_read_frees_its_slot() -> None:
    made = Served()

    def fail(chunk: int, into: memoryview) -> None:
        raise OSError("the disk is gone")

    pool = ChunkPool(made.memory, CHUNK_BYTES, fail, clock=made.clock, executor=made.executor)
    for _ in range(3):
        with pytest.raises(OSError):
            await asyncio.gather(pool.prepare(1), pool.prepare(1))
        assert pool.load == 0.0
    made.executor.shutdown()


@pytest.mark.parametrize("hangs", [False, True], ids=["fails", "hangs"])
async def test_a_reader_that_is_told_of_no_memory_holds_no_lease(hangs: bool) -> None:
    made = Served()
    asked = asyncio.Event()

    async def no_child(hold: float) -> Exposed:
        asked.set()
        if hangs:
            await asyncio.Event().wait()
        raise TransferFailed("the child that serves died, and no other could be started")

    made.service.add(ArtifactSource("a" * 16, 3, "", made.manifest, made.pool, CHUNK_BYTES, no_child))
    for index in range(5):
        asked.clear()
        call = asyncio.create_task(made.service._prepare_chunk(p2p_pb2.PrepareArtifactChunkRequest(chunk_index=index)))
        await asked.wait()
        call.cancel()  # The reader's patience is at an end, where it has had no answer.
        with pytest.raises(asyncio.CancelledError if hangs else TransferFailed):
            await call
        assert made.pool.load == 0.0
    made.executor.shutdown()
