"""Stock peers that lie, stall or never end: every pull from them ends, in time and with a reason."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import tarfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from peerload import AsyncClient, ClientSettings
from peerload.client import PullProgress, SourceType, StockIdentity
from peerload.client.stock import artifact_pull, pulling, reading, sealing
from peerload.client.stock.agents import fetch_agent
from peerload.client.stock.artifact import ArtifactChunk, ArtifactFile, ArtifactManifest, header_of
from peerload.client.stock.service import WorkerService
from peerload.errors import LimitExceeded, NotFound, PullFailed
from peerload.wire import p2p_pb2
from tests.stock.test_artifact_parts import cache, content
from tests.support.live import LiveServer, Rpc, sqlite_url
from tests.support.stock_peers import needs_nixl

pytestmark = needs_nixl

IDENTITY = StockIdentity(model="org/model", mx_version="0.7.0")
CACHE = StockIdentity(model="org/model", mx_version="0.7.0", source_type=SourceType.TRITON_CACHE)
BLOB = b"nixlSerDes|Agent" + struct.pack("<Q", 5) + b"agent" + b"|Conns and more"


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with LiveServer("memory:") as made:
        yield made.start()


@pytest_asyncio.fixture
async def client(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncClient]:
    for module in (reading, artifact_pull):
        monkeypatch.setattr(module, "_CALL_S", 0.5)
    settings = ClientSettings(engines=("tcp", "nixl"), tries=1, retry_delay=0.01)
    async with AsyncClient(live.address, settings=settings) as made:
        yield made


class Liar(WorkerService):
    """A worker's service whose answers are what a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.manifest = p2p_pb2.GetTensorManifestResponse(
            tensors=[p2p_pb2.TensorDescriptor(name="w", addr=4096, size=8, dtype="torch.bfloat16")],
            mx_source_id=IDENTITY.source_id,
            agent_name="agent",
            accelerator="cpu",
            worker_id="liar",
        )
        self.lease = "lease"
        self.silent = False
        self.garbage = b""
        self.released: list[str] = []
        self.artifact: ArtifactManifest | None = None
        self.pages: Any = None
        self.prepared: Any = None
        self.calls = 0

    async def _prepare_tensor_read(self, request: Any) -> bytes:
        if self.silent:
            await asyncio.sleep(60)
        if self.garbage:
            return self.garbage
        return p2p_pb2.PrepareTensorReadResponse(lease_id=self.lease, manifest=self.manifest).SerializeToString()

    async def _release_tensor_read(self, request: Any) -> bytes:
        self.released.append(request.lease_id)
        raise NotFound("there is no such lease")

    async def _get_header(self, request: Any) -> bytes:
        assert self.artifact is not None
        message = header_of(self.artifact)
        message.mx_source_id = CACHE.source_id
        return message.SerializeToString()

    async def _get_chunks(self, request: Any) -> bytes:
        self.calls += 1
        chunks, token = self.pages(request.start_chunk_index)
        return p2p_pb2.GetArtifactManifestChunksResponse(
            mx_source_id=CACHE.source_id, artifact_id=request.artifact_id, chunks=chunks, next_page_token=token
        ).SerializeToString()

    async def _prepare_chunk(self, request: Any) -> bytes:
        self.calls += 1
        return self.prepared(request)  # type: ignore[no-any-return]

    async def _release_chunk(self, request: Any) -> bytes:
        self.released.append(request.lease_id)
        return p2p_pb2.ReleaseArtifactChunkResponse().SerializeToString()


@contextlib.asynccontextmanager
async def listening(answer: bytes | None) -> AsyncIterator[str]:
    """What should be a NIXL listener."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readexactly(21)
            if answer is not None:
                writer.write(struct.pack("<Q", 13 + len(answer)) + b"NIXLCOMM:LOAD" + answer)
            await reader.read()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1")
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@contextlib.asynccontextmanager
async def lying(
    live: LiveServer, identity: StockIdentity, blob: bytes | None = BLOB, artifact: Any = None
) -> AsyncIterator[Liar]:
    """A liar with its record."""
    made = Liar()
    await made.start("127.0.0.1")
    async with listening(blob) as endpoint:
        made.manifest.metadata_endpoint = endpoint
        record = p2p_pb2.PublishMetadataRequest(
            identity=identity.to_wire(),
            worker=p2p_pb2.WorkerMetadata(
                worker_grpc_endpoint=f"127.0.0.1:{made.port}",
                metadata_endpoint=endpoint,
                status=p2p_pb2.SOURCE_STATUS_READY,
                artifact_source=artifact,
            ),
            worker_id="liar",
        )
        with Rpc(live.address) as rpc:
            assert (await asyncio.to_thread(rpc.publish, record)).success
            try:
                yield made
            finally:
                await asyncio.to_thread(rpc.withdraw, identity.source_id, "liar")
                await made.stop()


async def failure(client: AsyncClient) -> str:
    with pytest.raises(PullFailed) as error:
        await client.pull(IDENTITY)
    return str(error.value)


async def test_a_worker_that_does_not_answer(live: LiveServer, client: AsyncClient) -> None:
    async with lying(live, IDENTITY) as liar:
        liar.silent = True
        assert "PrepareTensorRead at 127.0.0.1" in (said := await failure(client))
        assert "no answer within 0.5 s" in said


async def test_an_answer_that_is_no_message(live: LiveServer, client: AsyncClient) -> None:
    async with lying(live, IDENTITY) as liar:
        liar.garbage = b"\xff\xff\xff"
        assert "the answer is no PrepareTensorReadResponse" in await failure(client)


async def test_a_listener_that_does_not_answer(live: LiveServer, client: AsyncClient) -> None:
    async with lying(live, IDENTITY, blob=None) as liar:
        assert "gave nothing within 0.5 s" in await failure(client)
        assert liar.released == ["lease"], "the lease is given back nevertheless"


@pytest.mark.parametrize(
    ("blob", "said"),
    [(b"what", "is none"), (BLOB.replace(b"agent|", b"other|"), "is 'other', and not 'agent'"), (BLOB, "NIXL")],
    ids=["no metadata", "another agent", "damaged"],
)
async def test_an_agent_that_is_none(live: LiveServer, client: AsyncClient, blob: bytes, said: str) -> None:
    async with lying(live, IDENTITY, blob=blob) as liar:
        assert said in await failure(client)
        assert liar.released


def tensor(**changed: Any) -> p2p_pb2.TensorDescriptor:
    fields: dict[str, Any] = {"name": "w", "addr": 4096, "size": 8, "dtype": "torch.bfloat16", **changed}
    return p2p_pb2.TensorDescriptor(**fields)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([], "there is none"),
        ([tensor(), tensor()], "there twice"),
        ([tensor(name="")], "is empty"),
        ([tensor(name="n" * 5000)], "longer than 4096 bytes"),
        ([tensor(size=2**64 - 1)], "beyond any memory"),
        ([tensor(addr=2**64 - 4)], "beyond any memory"),
        ([tensor(size=7)], "is no number of torch.bfloat16"),
        ([tensor(device_id=2**32 - 1)], "no number of an accelerator"),
        ([tensor(size=2**62), tensor(name="v", addr=1, size=2**62)], "add up"),
        ([tensor(size=2**50)], "bytes of memory, and"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_list_of_tensors_that_is_not_right(
    live: LiveServer, client: AsyncClient, tensors: Any, said: str
) -> None:
    async with lying(live, IDENTITY) as liar:
        del liar.manifest.tensors[:]
        liar.manifest.tensors.extend(tensors)
        assert said in await failure(client)
        assert liar.released == ["lease"]


async def test_a_worker_that_is_another(live: LiveServer, client: AsyncClient) -> None:
    async with lying(live, IDENTITY) as liar:
        liar.manifest.worker_id = "its successor"
        assert "is 'its successor', and not 'liar' any more" in await failure(client)
        liar.manifest.worker_id = "liar"
        liar.manifest.mx_source_id = "f" * 16
        assert "answered for source 'ffffffffffffffff'" in await failure(client)


async def test_a_read_that_cannot_be_confirmed_does_not_count(live: LiveServer, client: AsyncClient) -> None:
    """A worker whose lease has run out may have changed its memory meanwhile."""
    async with lying(live, IDENTITY) as liar:
        del liar.manifest.tensors[:]
        # Of no bytes, so that the read itself succeeds.
        liar.manifest.tensors.append(tensor(size=0))
        assert "no such lease" in await failure(client)


async def test_memory_that_was_never_registered_is_not_read(live: LiveServer, client: AsyncClient) -> None:
    elsewhere = StockIdentity(model="org/elsewhere", mx_version="0.7.0")
    settings = ClientSettings(engines=("nixl",))
    async with (
        AsyncClient(live.address, settings=settings) as other,
        other.publish({"w": bytes(4096)}, model=elsewhere),
    ):
        with Rpc(live.address) as rpc:
            (found,) = (
                await asyncio.to_thread(rpc.list, p2p_pb2.ListSourcesRequest(identity=elsewhere.to_wire()))
            ).instances
            worker = (await asyncio.to_thread(rpc.get, found.mx_source_id, found.worker_id)).worker
        blob = await fetch_agent(worker.metadata_endpoint, timeout=5.0)
        async with lying(live, IDENTITY, blob=blob) as liar:
            liar.manifest.agent_name = worker.agent_name
            del liar.manifest.tensors[:]
            liar.manifest.tensors.append(tensor(addr=1 << 30, size=1 << 20))
            assert "NIXL" in (said := await failure(client)), said


# Artifacts.


def manifest(chunks: int, length: int = 8) -> ArtifactManifest:
    return ArtifactManifest(
        int(SourceType.TRITON_CACHE),
        length,
        (ArtifactFile("/a/artifact.tar", chunks * length, "0" * 8),),
        tuple(ArtifactChunk(0, index * length, length, "0" * 8) for index in range(chunks)),
    )


@contextlib.asynccontextmanager
async def lying_artifact(live: LiveServer, made: ArtifactManifest) -> AsyncIterator[Liar]:
    record = p2p_pb2.ArtifactSourceMetadata(artifact_id=made.artifact_id)
    async with lying(live, CACHE, artifact=record) as liar:
        liar.artifact = made
        liar.pages = lambda start: (made.page(start, 1024), "")
        yield liar


async def artifact_failure(client: AsyncClient, folder: Path) -> str:
    with pytest.raises(PullFailed) as error:
        await client.pull_artifact(CACHE, folder)
    left = content(folder) if folder.exists() else {}
    assert all(path.startswith(".peerload/") for path in left), "nothing has its name"
    return str(error.value)


async def test_pages_that_never_end(
    live: LiveServer, client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "_PAGES", 20)
    made = manifest(1000)
    async with lying_artifact(live, made) as liar:
        liar.pages = lambda start: ([], str(start))
        assert "0 chunks on a page" in await artifact_failure(client, tmp_path / "a")
        liar.pages, liar.calls = lambda start: (made.page(start, 1), str(start + 1)), 0
        assert "more than 20 pages" in await artifact_failure(client, tmp_path / "a")
        assert liar.calls == 20
        liar.pages = lambda start: (made.page(0, 10), "")
        assert "chunk_index" in await artifact_failure(client, tmp_path / "a")
        liar.pages = lambda start: (made.page(0, 1000) + made.page(0, 1000), "")
        assert "2000 chunks on a page" in await artifact_failure(client, tmp_path / "a")


async def test_a_manifest_that_is_another_than_was_announced(
    live: LiveServer, client: AsyncClient, tmp_path: Path
) -> None:
    async with lying_artifact(live, manifest(3)) as liar:
        other = manifest(3).page(0, 3)
        other[1].checksum = "1" * 8
        liar.pages = lambda start: (other, "")
        assert "not the one that its artifact id stands for" in await artifact_failure(client, tmp_path / "a")
    with pytest.raises(PullFailed, match="nobody"):
        await client.pull_artifact(CACHE, tmp_path / "a")


async def test_chunks_that_are_not_what_was_asked_for(
    live: LiveServer, client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "_BUSY_TRIES", 3)
    monkeypatch.setattr(pulling, "_BUSY_S", 0.01)
    made = manifest(3)

    def answer(**changed: Any) -> Any:
        def prepare(request: Any) -> bytes:
            fields: dict[str, Any] = {
                "mx_source_id": CACHE.source_id,
                "artifact_id": made.artifact_id,
                "lease_id": f"lease-{request.chunk_index}",
                "chunk": made.chunk(request.chunk_index),
                "source": p2p_pb2.ArtifactChunkTransferDescriptor(addr=4096, length=8),
                "source_metadata": BLOB,
                **changed,
            }
            return p2p_pb2.PrepareArtifactChunkResponse(**fields).SerializeToString()

        return prepare

    async with lying_artifact(live, made) as liar:
        for changed, said in (
            ({"chunk": made.chunk(2)}, "is not what the manifest says"),
            (
                {"source": p2p_pb2.ArtifactChunkTransferDescriptor(addr=1, length=1 << 40)},
                "is not what the manifest says",
            ),
            ({"source": p2p_pb2.ArtifactChunkTransferDescriptor(addr=2**64 - 1, length=8)}, "not in host memory"),
            ({"source_metadata": b""}, "without a lease, or without an agent"),
            ({"artifact_id": "f" * 64}, "answered for artifact"),
            ({"source_metadata": b"what"}, "metadata is none"),
        ):
            liar.prepared = answer(**changed)
            assert said in await artifact_failure(client, tmp_path / "a")
        assert liar.released, "what was leased before is given back"

        def busy(request: Any) -> bytes:
            raise LimitExceeded("chunk_index", "all leased", limit=4)

        liar.prepared, liar.calls = busy, 0
        assert "no room for another reader" in await artifact_failure(client, tmp_path / "a")
        assert liar.calls == 1 + 3


async def test_places_of_an_agent_that_was_replaced_are_not_read(
    live: LiveServer, client: AsyncClient, tmp_path: Path
) -> None:
    made = manifest(3)

    def prepare(request: Any) -> bytes:
        return p2p_pb2.PrepareArtifactChunkResponse(
            mx_source_id=CACHE.source_id,
            artifact_id=made.artifact_id,
            lease_id=f"lease-{request.chunk_index}",
            chunk=made.chunk(request.chunk_index),
            source=p2p_pb2.ArtifactChunkTransferDescriptor(addr=4096, length=8),
            source_metadata=BLOB + b"%d" % (request.chunk_index > 1),
        ).SerializeToString()

    async with lying_artifact(live, made) as liar:
        liar.prepared = prepare
        assert "by another agent than a moment ago" in await artifact_failure(client, tmp_path / "a")
        assert sorted(liar.released) == ["lease-0", "lease-1", "lease-2"]


async def test_a_server_that_goes_away_between_two_sources_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = cache(tmp_path / "here")
    settings = ClientSettings(engines=("nixl",), patience=0.1, retry_delay=0.05)
    told: list[str] = []
    with LiveServer(sqlite_url(tmp_path)) as live:
        live.start()

        def progress(step: PullProgress) -> None:
            if step.phase == "waiting":
                told.append(step.reason)
                live.start()

        async with (
            AsyncClient(live.address, settings=settings) as source,
            AsyncClient(live.address, settings=settings) as client,
            source.share_artifact(tmp_path / "here", CACHE, chunk_size=50_000) as shared,
        ):
            assert shared._pool is not None
            fill = shared._pool._fill

            def failing(index: int, into: memoryview) -> None:
                monkeypatch.setattr(shared._pool, "_fill", fill)
                live.kill()
                raise OSError("the disk is gone")

            monkeypatch.setattr(shared._pool, "_fill", failing)
            pulled = await client.pull_artifact(CACHE, tmp_path / "a", progress=progress)
    assert [bool(attempt.error) for attempt in pulled.attempts] == [True, False]
    assert len(told) == 1, told
    assert live.address in told[0]
    assert content(tmp_path / "a") == files


async def test_bytes_that_are_not_the_manifests(
    live: LiveServer, client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One source spoils a chunk; what it gave right is kept, and another completes it."""
    files = cache(tmp_path / "here")
    settings = ClientSettings(engines=("nixl",))
    share: dict[str, Any] = {"chunk_size": 50_000}
    async with (
        AsyncClient(live.address, settings=settings) as bad,
        AsyncClient(live.address, settings=settings) as good,
    ):
        async with bad.share_artifact(tmp_path / "here", CACHE, **share) as spoilt:
            read = type(spoilt._sealed).read

            def spoil(index: int, into: memoryview) -> None:
                read(spoilt._sealed, index, into)
                into[0] ^= index == 5

            assert spoilt._pool is not None
            monkeypatch.setattr(spoilt._pool, "_fill", spoil)
            assert "chunk 5: the bytes that arrived" in await artifact_failure(client, tmp_path / "a")
            async with good.share_artifact(tmp_path / "here", CACHE, **share) as whole:
                assert whole.artifact_id == spoilt.artifact_id
                await spoilt.close()
                pulled = await client.pull_artifact(CACHE, tmp_path / "a", artifact_id=whole.artifact_id)
                assert pulled.bytes_reused == 5 * 50_000
                assert content(tmp_path / "a") == files


async def test_an_archive_that_is_unsafe_keeps_nobody_from_another(
    live: LiveServer, client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = cache(tmp_path / "here")
    settings = ClientSettings(engines=("nixl",))

    def evil(folder: Path, output: Any, stop: threading.Event) -> list[Any]:
        with tarfile.open(fileobj=output, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("../evil"))
        return []

    async with (
        AsyncClient(live.address, settings=settings) as bad,
        AsyncClient(live.address, settings=settings) as good,
    ):
        with monkeypatch.context() as patched:
            patched.setattr(sealing, "pack", evil)
            poison = await bad.share_artifact(tmp_path / "here", CACHE)
        assert "../evil" in await artifact_failure(client, tmp_path / "a")
        async with good.share_artifact(tmp_path / "here", CACHE) as whole:
            pulled = await client.pull_artifact(CACHE, tmp_path / "a")
            assert pulled.artifact_id == whole.artifact_id
        assert content(tmp_path / "a") == files
        assert not (tmp_path / "evil").exists()
        await poison.close()
