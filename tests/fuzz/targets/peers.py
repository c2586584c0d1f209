"""What workers read from each other and from the server: manifests, records, verdicts, artifacts, calls of WorkerService."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError, Message

from peerload.checkpoint.model import Checkpoint, CheckpointFile, Part
from peerload.client.explanation import Explanation
from peerload.client.manifest import checkpoint_manifest, read_manifest, write_manifest
from peerload.client.sources import SourceChange, SourceInfo
from peerload.client.stock.agents import AgentListener, fetch_agent
from peerload.client.stock.artifact import (
    ArtifactChunk,
    ArtifactFile,
    ArtifactManifest,
    header_of,
    read_chunks,
    read_header,
)
from peerload.client.stock.leases import Leases
from peerload.client.stock.pool import ChunkPool
from peerload.client.stock.reading import _items, _Offer
from peerload.client.stock.service import ArtifactSource, TensorSource, WorkerService
from peerload.engines.agents import Exposed
from peerload.engines.base import Descriptor
from peerload.errors import InvalidArgument, InvalidCheckpoint, TransferFailed
from peerload.testing.clock import ManualClock
from peerload.wire import diagnosis_pb2, outline_pb2, p2p_pb2, sources_pb2
from tests.fuzz.house import run
from tests.fuzz.messages import filled
from tests.fuzz.mutation import record, records
from tests.fuzz.target import Target

__all__ = ["TARGETS"]

_SOURCE: Final = "0123456789abcdef"
_REFUSALS: Final = frozenset(
    (
        *(grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND),
        *(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE),
    )
)


def _decoded(kind: type[Message], data: bytes) -> Any:
    with suppress(DecodeError):
        return kind.FromString(data)
    return None


def run_manifests(data: bytes) -> None:
    """A Manifest."""
    message = _decoded(outline_pb2.Manifest, data)
    if message is not None:
        with suppress(InvalidArgument):
            manifest = read_manifest(message)
            # What is accepted is what would be sent on.
            sent = write_manifest(manifest).SerializeToString()
            assert read_manifest(outline_pb2.Manifest.FromString(sent)) == manifest


def seed_manifests() -> Iterator[bytes]:
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    header = len(header).to_bytes(8, "little") + header
    runtime = sources_pb2.Manifest(
        form=sources_pb2.FORM_RUNTIME,
        items=[
            sources_pb2.Item(name="a", size=8, dtype="torch.bfloat16", shape=[2, 2], stride=[1, 2], digest=bytes(16)),
            sources_pb2.Item(name="b", size=1, dtype="torch.float4_e2m1fn_x2", shape=[1], region=1, device=0),
        ],
        endpoints=[sources_pb2.Endpoint(engine="tcp", address="127.0.0.1:9", descriptor=b"\0\xff")],
    )
    yield runtime.SerializeToString()
    files = (
        CheckpointFile("config.json", 2, b"", (Part("config.json", 0, 2, bytes(16)),)),
        CheckpointFile("m.safetensors", len(header) + 8, header, (Part("a", len(header), 8, bytes(16), "F32", (2,)),)),
    )
    whole = checkpoint_manifest(Checkpoint(files), [Descriptor("tcp", "127.0.0.1:9", b"\0\xff")], refs=["main"])
    yield write_manifest(whole).SerializeToString()


def run_answers(data: bytes) -> None:
    """Answers of a server, which may be another release."""
    source = _decoded(sources_pb2.Source, data)
    if source is not None:
        SourceInfo.from_wire(source, 1_750_000_000_000)
    event = _decoded(sources_pb2.WatchResponse, data)
    if event is not None:
        SourceChange.from_wire(event)
    verdict = _decoded(diagnosis_pb2.ExplainResponse, data)
    if verdict is not None:
        Explanation.from_wire(verdict)


def seed_answers() -> Iterator[bytes]:
    source = sources_pb2.Source(
        source_id=_SOURCE,
        worker_id="w0",
        model_name="org/model",
        status=p2p_pb2.SOURCE_STATUS_READY,
        updated_at=1_750_000_000_000,
        topology={"rack": "r"},
        source_load=0.5,
        form=sources_pb2.FORM_CHECKPOINT,
        engines=["tcp"],
        refs=["main"],
    )
    yield source.SerializeToString()
    gone = sources_pb2.SourceRef(source_id=_SOURCE, worker_id="w1", worker_rank=3)
    yield sources_pb2.WatchResponse(
        complete=True, present=[source], gone=[gone], resume_token="x:1"
    ).SerializeToString()
    rng = random.Random(1)
    for _ in range(3):
        yield filled(diagnosis_pb2.ExplainResponse.DESCRIPTOR, rng, {}).SerializeToString()


def run_artifacts(data: bytes) -> None:
    """Records of a manifest's header and of pages of its chunks."""
    for head, *pages in records(data) or ():
        header = _decoded(p2p_pb2.GetArtifactManifestHeaderResponse, head)
        if header is None:
            continue
        with suppress(InvalidArgument, InvalidCheckpoint):
            manifest = read_header(header)
            chunks: list[ArtifactChunk] = []
            for page in pages:
                answer = _decoded(p2p_pb2.GetArtifactManifestChunksResponse, page)
                if answer is not None:
                    chunks += read_chunks(answer.chunks, len(chunks))
            whole = ArtifactManifest(manifest.source_type, manifest.chunk_size, manifest.files, tuple(chunks))
            whole.check()
            assert sum(chunk.length for chunk in chunks) == whole.total_size
            assert not any(name.startswith(("/", "../")) for name in whole.names)
            assert len(whole.artifact_id) == 64


def seed_artifacts() -> Iterator[bytes]:
    manifest = _artifact()
    page = p2p_pb2.GetArtifactManifestChunksResponse(chunks=manifest.page(0, 10)).SerializeToString()
    yield record(header_of(manifest).SerializeToString(), page)
    yield record(header_of(manifest).SerializeToString())


def _artifact() -> ArtifactManifest:
    files = (ArtifactFile("/cache/a.tar", 16, "0" * 8), ArtifactFile("/cache/b/c", 3, "f" * 8))
    chunks = (ArtifactChunk(0, 0, 8, "1" * 8), ArtifactChunk(0, 8, 8, "2" * 8), ArtifactChunk(1, 0, 3, "3" * 8))
    return ArtifactManifest(4, 8, files, chunks)


def run_tensors(data: bytes) -> None:
    """A stock worker's list of tensors."""
    answer = _decoded(p2p_pb2.GetTensorManifestResponse, data)
    if answer is not None:
        with suppress(InvalidArgument):
            offer = _Offer(answer.tensors, answer.accelerator, answer.agent_name, "host", b"")
            items, memory = _items(offer)
            assert all(0 <= item.region < len(memory) and item.size >= 0 for item in items)
            struct.pack(f"<{2 * len(memory)}Q", *(number for each in memory for number in (each.address, each.nbytes)))


def _tensors() -> p2p_pb2.GetTensorManifestResponse:
    return p2p_pb2.GetTensorManifestResponse(
        tensors=[
            p2p_pb2.TensorDescriptor(name="a", addr=4096, size=8, dtype="torch.bfloat16"),
            p2p_pb2.TensorDescriptor(name="b", addr=8192, size=8, dtype="torch.float32", device_id=1),
        ],
        mx_source_id=_SOURCE,
        metadata_endpoint="127.0.0.1:5555",
        agent_name="agent",
        accelerator="cpu",
        worker_id="w1",
    )


def seed_tensors() -> Iterator[bytes]:
    yield _tensors().SerializeToString()


def run_worker(data: bytes) -> None:
    """Records of a call and a request: WorkerService's."""
    calls = records(data)
    if calls is not None:
        run(_ask(calls[:8]))


class _Aborted(Exception):
    pass


class _Context:
    async def abort(self, code: grpc.StatusCode, text: str) -> None:
        assert code in _REFUSALS, f"{code}: {text}"
        raise _Aborted


async def _ask(calls: list[tuple[bytes, ...]]) -> None:
    clock = ManualClock()
    manifest = _artifact()
    memory = memoryview(bytearray(16))
    pool = ChunkPool(memory, 8, lambda chunk, into: None, clock=clock, executor=_threads())
    exposed = Exposed("agent", b"blob", (1 << 20,))

    async def hold(seconds: float) -> Exposed:
        return exposed

    async def listed() -> bytes:
        return _tensors().SerializeToString()

    service = WorkerService()
    service.add(TensorSource(_SOURCE, "w1", listed, Leases(clock, 60.0, most=2)))
    service.add(ArtifactSource("a" * 16, 0, "127.0.0.1:5555", manifest, pool, 8, hold))
    methods = service._methods()
    for name, *body in calls:
        method = methods.get(f"/model_express.p2p.WorkerService/{name.decode(errors='replace')}")
        if method is None:
            continue
        try:
            request = method.request_deserializer(b"".join(body))
        except DecodeError:
            continue  # grpc answers that by itself
        with suppress(_Aborted):
            await asyncio.wait_for(method.unary_unary(request, _Context()), 20.0)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


def seed_worker() -> Iterator[bytes]:
    tensors = {"mx_source_id": _SOURCE, "worker_id": "w1"}
    artifact = {"mx_source_id": "a" * 16, "artifact_id": _artifact().artifact_id}
    prepare = record(b"PrepareTensorRead", p2p_pb2.PrepareTensorReadRequest(**tensors).SerializeToString())
    yield record(b"GetTensorManifest", p2p_pb2.GetTensorManifestRequest(**tensors).SerializeToString()) + prepare * 3
    release = p2p_pb2.ReleaseTensorReadRequest(lease_id="x", **tensors)
    yield prepare + record(b"ReleaseTensorRead", release.SerializeToString())
    yield record(b"GetArtifactManifestHeader", p2p_pb2.GetArtifactManifestHeaderRequest(**artifact).SerializeToString())
    chunks = p2p_pb2.GetArtifactManifestChunksRequest(start_chunk_index=1, max_chunks=1, **artifact)
    yield record(b"GetArtifactManifestChunks", chunks.SerializeToString())
    chunk = p2p_pb2.PrepareArtifactChunkRequest(chunk_index=2, **artifact)
    done = p2p_pb2.ReleaseArtifactChunkRequest(lease_id="x", **artifact)
    yield record(b"PrepareArtifactChunk", chunk.SerializeToString()) + record(
        b"ReleaseArtifactChunk", done.SerializeToString()
    )


def run_agents(data: bytes) -> None:
    """What a NIXL listener is told, and what one answers."""
    run(_talk(data))


async def _talk(data: bytes) -> None:
    async def metadata() -> bytes:
        return b"blob"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.close()

    listener = AgentListener(metadata)
    await listener.start("127.0.0.1")
    stranger = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        with suppress(OSError):
            writer.write(data)
            writer.write_eof()
            await reader.read()
        writer.transport.abort()
        assert await fetch_agent(f"127.0.0.1:{listener.port}", timeout=20.0) == b"blob"
        with suppress(TransferFailed):
            await fetch_agent(f"127.0.0.1:{stranger.sockets[0].getsockname()[1]}", timeout=20.0)
    finally:
        stranger.close()
        await listener.close()


def seed_agents() -> Iterator[bytes]:
    for message in (b"NIXLCOMM:SEND", b"NIXLCOMM:LOADblob", b"NIXLCOMM:INVLagent"):
        yield struct.pack("<Q", len(message)) + message
    yield struct.pack("<Q", 2**63) + b"NIXLCOMM:LOAD"


TARGETS = (
    Target("manifests", run_manifests, seed_manifests),
    Target("answers", run_answers, seed_answers),
    Target("artifacts", run_artifacts, seed_artifacts),
    Target("tensors", run_tensors, seed_tensors),
    Target("worker", run_worker, seed_worker),
    Target("agents", run_agents, seed_agents, mutations=60),
)
