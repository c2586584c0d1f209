"""Weights one after the other: their order, how far ahead is read, sources that die, and consumers that stop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from peerload import AsyncClient, Client
from peerload.client import PullProgress, Tensor
from peerload.client.giving import As
from peerload.client.stream import WindowStream
from peerload.errors import InvalidArgument, NoSource, PullFailed
from peerload.server.app import Server
from tests.client.quick import QUICK
from tests.client.test_failover import FAR, MIB, NEAR, killing, tensors
from tests.client.test_targets import Peer
from tests.client.worker import content
from tests.client.workers import working
from tests.support.server import LiveServer


def checkpoint(folder: Path) -> Path:
    """Two files; `same` is one tensor in both, `other` is not."""
    for file, value in (("a", 1.0), ("b", 2.0)):
        arrays = {f"{file}.{index}": np.full(5000, index + value, "f4") for index in range(20)}
        arrays |= {"same": np.zeros(2), "other": np.full(2, value), f"{file}.none": np.zeros((0, 2), "f2")}
        save_file(arrays, folder / f"{file}.safetensors")
    (folder / "config.json").write_text("{}" + " " * 10_000)
    return folder


async def test_a_checkpoint_comes_in_the_order_of_its_files(
    source: AsyncClient, target: AsyncClient, tmp_path: Path
) -> None:
    async with source.share(checkpoint(tmp_path), model="org/model"):
        whole = await target.pull("org/model", framework="np")
        weights = target.iter_weights("org/model", framework="np")
        found = [(name, array) async for name, array in weights]
    assert [name for name, _ in found] == list(whole)
    assert {"a.safetensors:other", "b.safetensors:other", "same"} < set(whole)
    assert [name[0] for name, _ in found if name != "same"] == ["a"] * 22 + ["b"] * 22
    for name, array in found:
        assert (array.dtype, array.shape) == (whole[name].dtype, whole[name].shape)
        assert np.array_equal(array, whole[name])
        assert array.flags.aligned
    assert weights.report is not None
    assert weights.report.bytes_total == sum(array.nbytes for array in whole.values()), "files of no tensors stay there"
    assert weights.report.verified.items == 45
    with pytest.raises(StopAsyncIteration):
        await anext(weights)


async def test_only_the_files_that_are_asked_for(source: AsyncClient, target: AsyncClient, tmp_path: Path) -> None:
    async with source.share(checkpoint(tmp_path), model="org/model"):
        weights = target.iter_weights("org/model", files=lambda path: path == "b.safetensors", framework="np")
        found = {name: array async for name, array in weights}
        assert len(found) == 23
        assert found["other"].tolist() == [2.0, 2.0], "the name is free where only one file counts"
        assert weights.report is not None
        assert weights.report.bytes_total == sum(array.nbytes for array in found.values())
        with pytest.raises(PullFailed, match="none that was asked for"):
            await anext(target.iter_weights("org/model", files=lambda path: False))
        with pytest.raises(InvalidArgument, match="files"):
            target.iter_weights("org/model", files=lambda path: True, publish=True)


async def test_runtime_weights_come_in_the_manifests_order_and_tied_ones_together(
    source: AsyncClient, target: AsyncClient
) -> None:
    big = np.random.default_rng(7).standard_normal((64, 300), "f4")
    mine: dict[str, Any] = {"z": b"zz", "embed": big, "a": np.ones(3, ml_dtypes.bfloat16), "head": big, "none": b""}
    async with source.publish(mine, model="org/model"):
        found = [tensor async for _, tensor in target.iter_weights("org/model")]
    assert [tensor.name for tensor in found] == ["z", "embed", "head", "a", "none"]
    assert all(
        bytes(tensor.memory) == memoryview(mine[tensor.name]).tobytes() for tensor in found if tensor.name != "a"
    )
    assert found[1].memory.obj is found[2].memory.obj
    assert np.array_equal(np.asarray(found[3]), mine["a"])


async def test_a_consumer_that_publishes_on(server: Server, source: AsyncClient, target: AsyncClient) -> None:
    async with AsyncClient(server.address, settings=QUICK) as third:
        async with source.publish({"w": b"x" * 1000, "v": b"y"}, model="org/model"):
            async with target.iter_weights("org/model", publish=True, framework="np") as weights:
                assert [name async for name, _ in weights] == ["w", "v"]
            assert weights.source is not None
        again = await third.pull("org/model")
        assert [given.source.worker_id for given in again.report.sources] == [weights.source.worker_id]


async def test_a_checkpoint_that_is_published_on_is_whole(
    server: Server, source: AsyncClient, target: AsyncClient, tmp_path: Path
) -> None:
    folder = checkpoint(tmp_path)
    async with AsyncClient(server.address, settings=QUICK) as third:
        async with source.share(folder, model="org/model"):
            weights = target.iter_weights("org/model", publish=True)
            assert len([name async for name, _ in weights]) == 45
        pulled = await third.pull("org/model")
        assert {path: bytes(data) for path, data in pulled.files.items()} == {
            path.name: path.read_bytes() for path in folder.iterdir()
        }


async def test_what_dies_is_made_up_for(server: Server) -> None:
    killed: list[int] = []
    async with (
        AsyncClient(server.address, settings=QUICK, topology=NEAR) as target,
        working(server.address, tensors(8), rate=8 * MIB, topology=NEAR) as first,
        working(server.address, tensors(8), topology=FAR) as second,
    ):
        weights = target.iter_weights("org/model", window=3 * MIB, progress=killing(first, 3 * MIB, killed))
        found = {name: bytes(tensor.memory) async for name, tensor in weights}
    assert killed, "the first source was killed in the middle"
    assert found == {name: content(*spec) for name, spec in tensors(8).items()}
    assert list(found) == list(tensors(8))
    assert weights.report is not None
    assert {given.source.worker_id for given in weights.report.sources} == {first.worker_id, second.worker_id}
    assert weights.report.bytes_moved == 8 * MIB


@pytest.mark.parametrize("digests", [True, False])
async def test_what_was_given_is_not_continued_by_a_source_that_may_differ(server: Server, digests: bool) -> None:
    """The near source dies after its t0, which differs or has no digest, was given."""
    changed = 0 if digests else None
    async with (
        AsyncClient(server.address, settings=QUICK, topology=NEAR) as target,
        working(server.address, tensors(8, changed), rate=8 * MIB, topology=NEAR, digests=digests) as first,
        working(server.address, tensors(8), topology=FAR, digests=digests),
    ):
        found = {}
        with pytest.raises(PullFailed, match="not known to have the same 't0' as was given already"):
            async for name, tensor in target.iter_weights("org/model", window=MIB):
                found[name] = bytes(tensor.memory)
                await first.kill()
    assert found["t0"] == content(*tensors(8, changed)["t0"]), "what was given before was right"


async def test_a_consumer_that_stops_abandons_the_read(server: Server, target: AsyncClient) -> None:
    slow = {"tcp": {"max_bytes_per_second": 4 * MIB}}
    mine = {f"t{index}": np.zeros(MIB // 4, "u1") for index in range(64)}
    async with AsyncClient(server.address, settings=QUICK, engine_settings=slow) as source:
        async with source.publish(mine, model="org/model"):
            async for _ in (weights := target.iter_weights("org/model")):
                break
            assert weights._task is not None
            await weights.aclose()
            assert weights._task.done()
            assert [name async for name, _ in weights] == []

            dropped = target.iter_weights("org/model")
            assert (await anext(dropped))[0] == "t0"
            task = dropped._task
            assert task is not None
            del dropped
            with pytest.raises(asyncio.CancelledError):
                await task

            held = target.iter_weights("org/model")
            await anext(held)
            await target.close()
            with pytest.raises(RuntimeError, match="this client is closed"):
                while True:
                    await anext(held)


async def test_errors_come_before_anything_moves(
    source: AsyncClient, target: AsyncClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(NoSource):
        await anext(target.iter_weights("org/model"))
    for arguments in ({"window": 0}, {"framework": "tf"}, {"timeout": -1}):
        with pytest.raises(InvalidArgument):
            await anext(target.iter_weights("org/model", **arguments))  # type: ignore[call-overload]
    steps: list[PullProgress] = []
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    async with source.publish({"w": b"x", "half": np.zeros(3, ml_dtypes.bfloat16)}, model="org/model"):
        for call in (target.iter_weights, target.pull):
            with pytest.raises(InvalidArgument, match=r"^framework: 'half' is torch.bfloat16.*pip install ml-dtypes"):
                got = call("org/model", framework="np", progress=steps.append)
                await (anext(got) if hasattr(got, "__anext__") else got)
    assert not steps
    (tmp_path / "model.txt").write_text("no tensors")
    async with source.share(tmp_path, model="org/files"):
        with pytest.raises(PullFailed, match="none in the safetensors format"):
            await anext(target.iter_weights("org/files"))


# How far ahead.


def test_no_more_than_a_window_is_ahead_of_the_consumer() -> None:
    sizes = [30, 40, 1000, 5, 0, 99, 100, 3, 70, 70, 70]
    peer = Peer({f"t{index}": bytes([index]) * size for index, size in enumerate(sizes)})
    target = WindowStream(As(None), window=100)
    target.plan(peer.manifest, lambda size: memoryview(bytearray(size)), lambda done, total: None)
    stop = threading.Event()
    read = threading.Semaphore(0)

    def move() -> None:
        for batch in target.batches(stop):
            peer.fill(list(batch))
            read.release()

    thread = threading.Thread(target=move, daemon=True)
    thread.start()
    found: list[Tensor] = []
    while len(found) < len(sizes):
        assert read.acquire(timeout=10)
        ahead = sum(slot.destination.nbytes for slot in target.slots)
        assert ahead <= 100 or sizes[len(found)] == ahead == 1000, "a tensor beyond the window is alone"
        while (tensor := target.take()) is not None:
            found.append(tensor)
    thread.join(10)
    assert [bytes(tensor.memory) for tensor in found] == list(peer.contents.values())
    assert not sum(slot.destination.nbytes for slot in target.slots), "what was given is not held"


def test_what_the_consumer_waits_for_is_read_though_the_window_is_full() -> None:
    """After a change of source the kept tensors may come last in the new one's order."""
    first, second = Peer({"a": b"a" * 60, "b": b"b" * 40}), Peer({"c": b"c" * 50, "a": b"a" * 60, "b": b"b" * 40})
    target = WindowStream(As(None), window=100)

    def plan(peer: Peer) -> None:
        target.plan(peer.manifest, lambda size: memoryview(bytearray(size)), lambda done, total: None)
        for batch in target.batches(threading.Event()):
            peer.fill(list(batch))
            if peer is first and all(slot.verified for slot in target.slots):
                break

    plan(first)
    plan(second)
    assert [bytes(found.memory)[:1] for _ in range(3) if (found := target.take())] == [b"c", b"a", b"b"]


PEAK = """
import pathlib, re, sys
from peerload import Client
# Not getrusage: its peak includes that of the process that this one was forked from.
peak = lambda: int(re.search("VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) >> 10
with Client(sys.argv[1]) as client:
    client.find()
    before = peak()
    count = 0
    with client.iter_weights("org/model", window=16 << 20, publish=len(sys.argv) > 2) as weights:
        for name, tensor in weights:
            count += 1
    print(count, weights.report.bytes_total >> 20, peak() - before)
"""


def test_the_peak_of_memory_is_the_window_and_not_the_model(tmp_path: Path) -> None:
    for file in range(3):
        save_file({f"{file}.{i}": np.full(4 << 20, i, "u1") for i in range(30)}, tmp_path / f"{file}.safetensors")
    with LiveServer("memory:") as live:
        live.start()
        with Client(live.address, settings=QUICK) as client, client.share(tmp_path, model="org/model"):
            peaks = []
            for more in ([], ["publish"]):
                ran = subprocess.run(
                    [sys.executable, "-c", PEAK, live.address, *more], capture_output=True, text=True, timeout=120
                )
                assert ran.returncode == 0, ran.stderr
                count, size, peak = map(int, ran.stdout.split())
                assert (count, size) == (90, 360)
                peaks.append(peak)
    assert peaks[0] < 100, "MiB"
    assert peaks[1] > 300, "published on, all of it is kept: the measure measures"


# Without an event loop.


def test_a_plain_iterator() -> None:
    mine = {f"t{index}": np.full(1000, index, "f4") for index in range(50)}
    slow = {"tcp": {"max_bytes_per_second": 8 * MIB}}
    with LiveServer("memory:") as live:
        live.start()
        with (
            Client(live.address, settings=QUICK) as target,
            Client(live.address, settings=QUICK, engine_settings=slow) as source,
            source.publish(mine, model="org/model"),
            source.publish({f"t{i}": bytes(MIB) for i in range(32)}, model="org/slow"),
        ):
            found = dict(target.iter_weights("org/model", framework="np"))
            assert list(found) == list(mine)
            assert all(np.array_equal(found[name], mine[name]) for name in mine)
            with target.iter_weights("org/slow") as weights:
                assert next(weights)[0] == "t0"
            assert list(weights) == []
            assert weights.report is None
            for _ in target.iter_weights("org/slow"):
                break
            with pytest.raises(NoSource):
                next(target.iter_weights("org/none"))
            held = target.iter_weights("org/slow")
            next(held)
        with pytest.raises(RuntimeError, match="closed"):
            list(held)
        held.close()
        with target.iter_weights("org/model") as weights:
            with pytest.raises(RuntimeError, match="closed"):
                next(weights)


async def test_consumers_that_pause_keep_nobody_waiting(
    server: Server, source: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peerload.client.base._THREADS", 1)
    tensors = {f"w{index}": np.full(1000, index, "u1") for index in range(10)}
    async with AsyncClient(server.address, settings=QUICK) as target, source.publish(tensors, model="m"):
        paused = [target.iter_weights("m", window=2000) for _ in range(3)]
        async with asyncio.timeout(60):
            assert [(await anext(stream))[0] for stream in paused] == ["w0"] * 3
            assert list(await target.pull("m")) == list(tensors)
            for stream in paused:
                assert [name async for name, _ in stream] == list(tensors)[1:]
