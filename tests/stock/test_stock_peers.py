"""Workers of both packages read from each other: real processes, real NIXL, the stock package's own classes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

from peerload import AsyncClient, Client, ClientSettings
from peerload.client import PullProgress, SourceType, StockIdentity
from peerload.errors import InvalidArgument, PullFailed
from peerload.wire import p2p_pb2
from tests.stock.test_artifact_parts import cache, content
from tests.support.live import LiveServer, Rpc, free_port
from tests.support.stock import import_stock
from tests.support.stock_peers import needs_nixl, seeded, stock

pytestmark = needs_nixl

TENSORS = {
    "embed": (1, 1 << 20, "torch.bfloat16"),
    "norm": (2, 2, "torch.bfloat16"),
    "scale": (3, 4096, "torch.float32"),
    "packed": (4, 200_001, "torch.uint8"),
}
READY = p2p_pb2.ListSourcesRequest(status_filter=p2p_pb2.SOURCE_STATUS_READY)


def theirs(model: str, **more: Any) -> dict[str, Any]:
    """An identity as the stock package spells it."""
    return {"mx_version": "0.7.0", "model_name": model, "tensor_parallel_size": 1, "pipeline_parallel_size": 1, **more}


def ours(model: str, **more: Any) -> StockIdentity:
    """The same, as it is given to our client."""
    return StockIdentity(model=model, mx_version="0.7.0", expert_parallel_size=0, **more)


@pytest.fixture(scope="module")
def live() -> Any:
    with LiveServer("memory:") as made:
        yield made.start()


@pytest_asyncio.fixture
async def client(live: LiveServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(live.address, settings=ClientSettings(engines=("tcp", "nixl"))) as made:
        yield made


async def test_we_read_what_a_stock_worker_published_either_way(live: LiveServer, client: AsyncClient) -> None:
    def source(model: str, through_server: bool) -> Any:
        return stock(
            "source",
            server=live.address,
            identity=theirs(model),
            tensors=TENSORS,
            port=free_port(),
            worker_id=f"of {model}",
            through_server=through_server,
        )

    async with source("org/asked", False) as asked, source("org/told", True) as told:
        await asyncio.gather(asked.hear(), told.hear())
        for model in ("org/asked", "org/told"):
            weights = await client.pull(ours(model), wait=30)
            assert {name: bytes(tensor.memory) for name, tensor in weights.items()} == {
                name: seeded(seed, size) for name, (seed, size, _) in TENSORS.items()
            }
            assert (weights["embed"].dtype, weights["embed"].shape) == ("torch.bfloat16", (1 << 19,))
            assert weights.report.verified.unchecked_items == len(TENSORS)
            assert "without a digest" in str(weights.report.verified)
        streamed = {name: bytes(each.memory) async for name, each in client.iter_weights(ours("org/told"))}
        assert streamed == {name: seeded(seed, size) for name, (seed, size, _) in TENSORS.items()}
        with pytest.raises(PullFailed, match="only pulled by its exact identity"):
            await client.pull("org/asked", wait=0.01)
        scale = np.zeros((32, 32), dtype=np.float32)
        filled = await client.pull_into({"scale": scale}, ours("org/asked"), strict=False)
        assert scale.tobytes() == seeded(3, 4096), "the shape is the caller's"
        assert set(filled.unexpected) == TENSORS.keys() - {"scale"}
        with pytest.raises(PullFailed, match="different"):
            await client.pull_into({"scale": np.zeros(1024, dtype=np.int32)}, ours("org/asked"), strict=False)
        with pytest.raises(PullFailed, match="gives no digest"):
            await client.pull(ours("org/asked"), publish=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=str)
async def test_a_stock_worker_that_dies_while_we_read_is_replaced_by_another(
    live: LiveServer, client: AsyncClient, number: signal.Signals
) -> None:
    """Of weights without digests none may stay that came from it, unless it confirms its lease afterwards."""
    model = f"org/dies-{number}"
    tensors = {f"w{index}": (index, 24 << 20, "torch.bfloat16") for index in range(6)}

    def source(worker_id: str) -> Any:
        told = {"identity": theirs(model), "tensors": tensors, "port": free_port(), "worker_id": worker_id}
        return stock("source", server=live.address, **told)

    hit: list[str] = []
    async with source("one") as one, source("two") as two:
        await asyncio.gather(one.hear(), two.hear())

        def progress(step: PullProgress) -> None:
            if step.phase == "reading" and step.source is not None and step.bytes_done and not hit:
                hit.append(step.source.worker_id)
                {"one": one, "two": two}[hit[0]].process.send_signal(number)

        weights = await client.pull(ours(model), progress=progress)
    assert {name: bytes(tensor.memory) for name, tensor in weights.items()} == {
        name: seeded(seed, size) for name, (seed, size, _) in tensors.items()
    }
    (left,) = {"one", "two"} - set(hit)
    assert {each.source.worker_id for each in weights.report.sources} == {left}


async def test_a_stock_reader_takes_what_we_publish(live: LiveServer, client: AsyncClient) -> None:
    whole = np.frombuffer(bytearray(seeded(9, 65_536)), dtype=np.uint8)
    tensors = {
        "w": np.frombuffer(seeded(8, 1 << 20), dtype=np.float32),
        "whole": whole,
        "half": whole[32_768:],
        "tied": whole,
        "nothing": np.zeros(0, dtype=np.uint8),
    }
    told = {"w": (0, 1 << 20, "torch.float32"), "whole": (0, 65_536, "torch.uint8")}
    told |= {"half": (0, 32_768, "torch.uint8"), "tied": told["whole"]}
    right = {name: hashlib.sha256(tensors[name].tobytes()).hexdigest() for name in told}

    def reader(lease: bool) -> Any:
        return stock(
            "reader", server=live.address, identity=theirs("org/ours"), tensors=told, port=free_port(), lease=lease
        )

    async with client.publish(tensors, model=ours("org/ours")) as source:
        with Rpc(live.address) as rpc:
            record = await asyncio.to_thread(rpc.get, source.source_id, source.worker_id)
        worker = record.worker
        assert worker.accelerator == "cpu"
        assert not record.identity.extra_parameters
        assert not worker.tensors
        assert not worker.nixl_metadata
        assert worker.agent_name
        assert worker.metadata_endpoint
        assert worker.worker_grpc_endpoint
        async with reader(False) as plain, reader(True) as leasing:
            assert [(await each.hear())["digests"] for each in (plain, leasing)] == [right, right]
        # Its serving process dies: another comes under another name, and the record tells of it.
        exporter = client._engines.agent_exporter()
        os.kill(exporter.serving(source._publications[1][1]), signal.SIGKILL)  # type: ignore[attr-defined]
        await source.beat()
        with Rpc(live.address) as rpc:
            again = (await asyncio.to_thread(rpc.get, source.source_id, source.worker_id)).worker
        assert again.agent_name != worker.agent_name
        assert again.metadata_endpoint == worker.metadata_endpoint
        settings = ClientSettings(engines=("tcp", "nixl"))
        async with reader(True) as leasing, AsyncClient(live.address, settings=settings) as other:
            weights = await other.pull(ours("org/ours"))
            assert weights["w"].memory == memoryview(tensors["w"]).cast("B"), "ours have digests, whoever reads"
            assert weights.report.verified.unchecked_items == 0
            assert (await leasing.hear())["digests"] == right
        assert len(source._stock.leases) == 0  # type: ignore[union-attr]


async def test_what_stock_readers_could_not_read_is_not_offered_to_them(live: LiveServer, client: AsyncClient) -> None:
    with pytest.raises(InvalidArgument, match=r"'w'.*C order"):
        await client.publish({"w": np.zeros((2, 3), dtype=np.float32).T}, model=ours("org/bad"))
    async with AsyncClient(live.address, settings=ClientSettings(engines=("tcp",))) as plain:
        with pytest.raises(InvalidArgument, match="add nixl"):
            await plain.publish({"w": b"1234"}, model=ours("org/bad"))
        with pytest.raises(InvalidArgument, match="add nixl"):
            await plain.pull_artifact(ours("org/bad", source_type=SourceType.TRITON_CACHE), "/nowhere")
    with pytest.raises(InvalidArgument, match="use share_artifact"):
        await client.publish({"w": b"1234"}, model=ours("org/bad", source_type=SourceType.TRITON_CACHE))
    with pytest.raises(InvalidArgument, match="no artifact"):
        await client.pull_artifact(ours("org/bad"), "/nowhere")
    with Rpc(live.address) as rpc:
        found = await asyncio.to_thread(rpc.list, READY)
    assert not [each for each in found.instances if each.model_name == "org/bad"]


async def test_a_list_that_is_too_long_for_the_worker_goes_through_the_server(
    live: LiveServer, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peerload.client.stock.serving._READER_LIMIT", 200)
    async with client.publish({f"w{index}": b"1234" for index in range(9)}, model=ours("org/many")) as source:
        with Rpc(live.address) as rpc:
            worker = (await asyncio.to_thread(rpc.get, source.source_id, source.worker_id)).worker
    assert len(worker.tensors) == len(worker.tensor_source.tensors) == 9
    assert worker.nixl_metadata
    assert not worker.worker_grpc_endpoint


async def test_artifacts_go_either_way(live: LiveServer, client: AsyncClient, tmp_path: Path) -> None:
    files, more = cache(tmp_path / "here"), cache(tmp_path / "more")
    kind = {"source_type": SourceType.FLASHINFER_CACHE, "gpu_arch": "sm90"}
    wire = {"mx_source_type": int(SourceType.FLASHINFER_CACHE), "gpu_arch": "sm90", "expert_parallel_size": 0}

    def roots(one: str, two: str) -> dict[str, str]:
        return {"primary": str(tmp_path / one), "autotune": str(tmp_path / two)}

    common: dict[str, Any] = {"server": live.address, "chunk_size": 50_000}
    source = stock(
        "artifact_source",
        identity=theirs("org/theirs", **wire),
        port=free_port(),
        worker_id="a1",
        roots=roots("here", "more"),
        bundle=str(tmp_path / "bundle"),
        **common,
    )
    reader = stock(
        "artifact_reader",
        identity=theirs("org/ours", **wire),
        port=free_port(),
        roots=roots("c", "d"),
        bundle=str(tmp_path / "another bundle"),
        node_rank=0,
        **common,
    )
    async with client.share_artifact(
        tmp_path / "here", ours("org/ours", **kind), roots={"autotune": tmp_path / "more"}, chunk_size=50_000
    ) as artifact:
        async with source as published, reader as installed:
            said = await published.hear()
            pulled = await client.pull_artifact(
                ours("org/theirs", **kind),
                tmp_path / "a",
                roots={"autotune": tmp_path / "b"},
                accelerator="cuda",
                wait=30,
            )
            assert (pulled.artifact_id, pulled.files) == (said["artifact_id"], 8)
            assert pulled.bytes_total == said["total"] > pulled.bytes_reused == 0
            assert (await installed.hear())["artifact_id"] == artifact.artifact_id
    assert content(tmp_path / "a") == content(tmp_path / "c") == files
    assert content(tmp_path / "b") == content(tmp_path / "d") == more


async def test_a_source_that_ends_waits_for_readers_with_leases_but_not_for_ever(live: LiveServer) -> None:
    worker_server = import_stock("metadata.worker_server")
    settings = ClientSettings(engines=("nixl",), retire_grace=0.3)
    async with AsyncClient(live.address, settings=settings) as client:
        for patient in (True, False):
            source = await client.publish({"w": b"1234"}, model=ours("org/ends"))
            with Rpc(live.address) as rpc:
                worker = (await asyncio.to_thread(rpc.get, source.source_id, source.worker_id)).worker
            lease, _ = await asyncio.to_thread(
                worker_server.prepare_tensor_read,
                worker.worker_grpc_endpoint,
                source.source_id,
                worker_id=source.worker_id,
            )
            closing = asyncio.create_task(source.close())
            stock = source._stock
            assert stock is not None
            while not stock.leases._draining:
                await asyncio.sleep(0.001)
            assert not closing.done()
            with pytest.raises(grpc.RpcError, match="draining"):
                await asyncio.to_thread(
                    worker_server.fetch_tensor_manifest, worker.worker_grpc_endpoint, source.source_id
                )
            if patient:
                await asyncio.to_thread(lease.release)
            await closing
            if not patient:
                with pytest.raises(grpc.RpcError, match="has 0 sources"):
                    await asyncio.to_thread(lease.release)
            lease._channel.close()


def test_artifacts_without_an_event_loop(live: LiveServer, tmp_path: Path) -> None:
    files = cache(tmp_path / "here")
    kind = ours("org/sync", source_type=SourceType.TVM_FFI_CACHE)
    settings = ClientSettings(engines=("nixl",))
    with Client(live.address, settings=settings) as one, Client(live.address, settings=settings) as other:
        with one.share_artifact(tmp_path / "here", kind) as artifact:
            artifact.beat()
            pulled = other.pull_artifact(kind, tmp_path / "there")
            assert pulled.artifact_id == artifact.artifact_id
            assert "live" in repr(artifact)
        assert artifact.state.value == "closed"
    assert content(tmp_path / "there") == files
