"""Weights that source and targets on one host have in common."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from peerload import AsyncClient, ClientSettings, shared_copy, shared_memory
from peerload.client import AsyncSource, PullReport
from peerload.engines.memfd.host import Host
from peerload.engines.shared import shared_place
from peerload.errors import InvalidArgument, PullFailed
from peerload.server.app import Server
from tests.client.test_pull import QUICK, model_folder, same, weights
from tests.support.server import serving

MIB = 1 << 20


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


@pytest.fixture
async def source(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, settings=QUICK) as client:
        yield client


@pytest.fixture
async def target(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, settings=QUICK) as client:
        yield client


def engines(source: AsyncSource | None) -> list[str]:
    assert source is not None
    return [endpoint.engine for endpoint in source.manifest.endpoints]


def mapped(report: PullReport) -> bool:
    """Whether all that was given came by memfd."""
    return all(given.address.startswith("@") for given in report.sources)


def inode(array: np.ndarray[Any, Any]) -> int | None:
    """Which memfd an array lies in."""
    place = shared_place(memoryview(array.reshape(-1).view("u1")))
    return None if place is None else os.fstat(place.fd).st_ino


async def test_a_pull_maps_what_the_source_has_in_shared_memory(source: AsyncClient, target: AsyncClient) -> None:
    own = shared_copy(weights())
    async with source.publish(own, model="org/model") as published:
        assert engines(published) == ["memfd", "tcp"]
        pulled = await target.pull("org/model", framework="np", publish=True)
        assert mapped(pulled.report)
        assert engines(pulled.source) == ["memfd", "tcp"]
        assert inode(pulled["big"]) == inode(own["big"])
        async with AsyncClient(target.address, settings=QUICK) as third:
            again = await third.pull("org/model", framework="np")
            assert inode(again["big"]) == inode(own["big"])
    # The source may do with its memory as it likes, and so may who pulled; nobody else sees it.
    own["big"][:] = 0
    pulled["half"][:] = 7
    for name, expected in weights().items():
        if name != "bytes":
            np.testing.assert_array_equal(again[name], expected)
    assert bytes(again["bytes"]) == b"some bytes"
    np.testing.assert_array_equal(pulled["big"], weights()["big"])
    assert again["tied"].ctypes.data == again["big"].ctypes.data


async def test_ordinary_memory_goes_by_tcp(source: AsyncClient, target: AsyncClient, server: Server) -> None:
    big = np.arange(5 * MIB, dtype="u4")
    async with source.publish({"w": big}, model="org/model") as published:
        assert engines(published) == ["tcp"]
        pulled = await target.pull("org/model", framework="np", publish=True)
        assert not mapped(pulled.report)
        np.testing.assert_array_equal(pulled["w"], big)
    only = ClientSettings(engines=("memfd",))
    async with AsyncClient(server.address, settings=only) as strict:
        with pytest.raises(InvalidArgument, match="shared memory"):
            await strict.publish({"w": big}, model="org/other")
        # A little of it is copied.
        async with strict.publish({"w": np.arange(10), **shared_copy({"big": big})}, model="org/other"):
            assert (await target.pull("org/other", framework="np"))["w"].sum() == 45


async def test_what_was_pulled_by_tcp_is_mapped_by_the_next(source: AsyncClient, target: AsyncClient) -> None:
    big = np.arange(5 * MIB, dtype="u4")
    async with source.publish({"w": big}, model="org/model"):
        first = await target.pull("org/model", framework="np", publish=True)
        assert engines(first.source) == ["memfd", "tcp"]
    async with AsyncClient(target.address, settings=QUICK) as third:
        second = await third.pull("org/model", framework="np")
        assert mapped(second.report)
        assert inode(second["w"]) == inode(first["w"]) is not None
        np.testing.assert_array_equal(second["w"], big)


async def test_only_what_is_published_on_is_read_into_shared_memory(
    source: AsyncClient, target: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = np.arange(5 * MIB, dtype="u4")
    async with source.publish({"w": big}, model="org/model"):
        assert inode((await target.pull("org/model", framework="np"))["w"]) is None

        def none(nbytes: int, name: str) -> memoryview:
            raise OSError("too many open files")

        monkeypatch.setattr("peerload.client.reads.allocate_shared", none)
        pulled = await target.pull("org/model", framework="np", publish=True)
        assert engines(pulled.source) == ["tcp"]
        np.testing.assert_array_equal(pulled["w"], big)


async def test_memory_of_ones_own_on_request(source: AsyncClient, target: AsyncClient) -> None:
    own = shared_copy(weights())
    async with source.publish(own, model="org/model"):
        pulled = await target.pull("org/model", framework="np", mapped=False)
        assert mapped(pulled.report)  # By memfd, and copied.
        assert inode(pulled["big"]) != inode(own["big"])
        into = {name: np.empty_like(array) for name, array in weights().items() if name != "bytes"}
        into["bytes"] = np.empty(10, "u1")
        filled = await target.pull_into(into, "org/model")
        assert mapped(filled.report)
        for name in ("big", "half", "scalar"):
            np.testing.assert_array_equal(into[name], weights()[name])
            np.testing.assert_array_equal(pulled[name], weights()[name])


async def test_weights_one_after_the_other(source: AsyncClient, target: AsyncClient) -> None:
    own = shared_copy(weights())
    async with source.publish(own, model="org/model"):
        for publish in (False, True):
            stream = target.iter_weights("org/model", framework="np", publish=publish, window=1000)
            seen = {name: array async for name, array in stream}
            assert seen.keys() == own.keys()
            assert inode(seen["big"]) == inode(own["big"])
            np.testing.assert_array_equal(seen["big"], weights()["big"])


async def test_folders_are_copied_from_the_page_cache(source: AsyncClient, target: AsyncClient, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    save_file({"large": np.arange(MIB, dtype="f4")}, folder / "model-2.safetensors")
    async with source.share(folder, model="org/model") as shared:
        assert engines(shared) == ["memfd", "tcp"]
        pulled = await target.pull_folder("org/model", tmp_path / "copy", share=True)
        assert mapped(pulled.report)
        assert same(folder, tmp_path / "copy")
        memory = await target.pull("org/model", framework="np", publish=True)
    # From memory a checkpoint is mapped, file by file.
    async with AsyncClient(target.address, settings=QUICK) as third:
        assert memory.source is not None
        assert pulled.source is not None
        await pulled.source.close()
        again = await third.pull("org/model", framework="np")
        assert {name: bytes(view) for name, view in again.files.items()} == {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }


async def test_a_target_on_another_host_takes_the_next_engine_in_silence(
    source: AsyncClient, target: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with source.publish(shared_copy(weights()), model="org/model") as published:
        assert engines(published) == ["memfd", "tcp"]
        monkeypatch.setattr(Host, "here", classmethod(lambda cls: cls(bytes(16), 1)))
        pulled = await target.pull("org/model", framework="np")
        assert not mapped(pulled.report)
        assert [attempt.error for attempt in pulled.report.attempts] == [""]
        np.testing.assert_array_equal(pulled["big"], weights()["big"])


async def test_bytes_that_are_not_the_manifests_are_refused_in_place(
    source: AsyncClient, target: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("peerload.client.offering.digest_all", lambda views, progress: [b"wrong digest 16b"] * len(views))
        published = await source.publish(shared_copy({"w": np.arange(10)}), model="org/model")
    assert engines(published) == ["memfd", "tcp"]
    with pytest.raises(PullFailed, match="not what the manifest says"):
        await target.pull("org/model")


async def test_what_was_written_to_since_it_was_published_goes_by_tcp(source: AsyncClient, target: AsyncClient) -> None:
    own = shared_copy(weights())
    async with source.publish(own, model="org/model"):
        pass
    own["big"][0, 0] = 8
    async with source.publish(own, model="org/model") as published:
        assert engines(published) == ["tcp"]
        pulled = await target.pull("org/model", framework="np")
        assert pulled["big"][0, 0] == 8


def test_shared_copies_are_alike() -> None:
    square = np.arange(12, dtype="f4").reshape(3, 4)
    tensors: dict[str, Any] = {**weights(), "turned": square.T, "sliced": square[:, ::2], "raw": bytearray(b"abc")}
    copies = shared_copy(tensors)
    assert copies.keys() == tensors.keys()
    for name in ("big", "half", "none", "scalar", "turned", "sliced"):
        np.testing.assert_array_equal(copies[name], tensors[name])
        assert copies[name].dtype == tensors[name].dtype
    assert copies["turned"].strides == square.T.strides
    assert copies["half"].dtype == ml_dtypes.bfloat16
    assert copies["tied"].ctypes.data == copies["big"].ctypes.data
    assert len({inode(copies[name]) for name in ("big", "half", "scalar")}) == 1
    assert bytes(copies["raw"]) == b"abc"
    copies["big"][:] = 0
    assert tensors["big"].any()
    with pytest.raises(InvalidArgument, match="nbytes"):
        shared_memory(0)


async def test_torch_tensors_are_mapped_and_can_be_trained_on(source: AsyncClient, target: AsyncClient) -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(300, 200, dtype=torch.bfloat16)
    with torch.no_grad():
        own = shared_copy(layer.state_dict())
        assert own.keys() == {"weight", "bias"}
        layer.load_state_dict(own, assign=True)
        async with source.publish(layer.state_dict(), model="org/model") as published:
            assert engines(published) == ["memfd", "tcp"]
            pulled = await target.pull("org/model", framework="pt")
            assert mapped(pulled.report)
            assert torch.equal(pulled["weight"], layer.weight)
            before = layer.weight.clone()
            pulled["weight"].mul_(2)
            assert torch.equal(layer.weight, before)
            layer.weight.mul_(3)
            again = await target.pull("org/model", framework="pt")
            assert torch.equal(again["weight"], before)
            if torch.cuda.is_available():
                assert torch.equal(again["weight"].cuda().cpu(), before)


async def test_the_memory_of_many_replicas_is_that_of_one(server: Server) -> None:
    size = 64 * MIB
    async with AsyncExitStack() as stack:

        async def start(**told: Any) -> tuple[asyncio.subprocess.Process, dict[str, Any]]:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(Path(__file__).with_name("mapper.py")),
                json.dumps({"server": server.address, "model": "org/model", **told}),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            stack.callback(lambda: process.kill() if process.returncode is None else None)
            return process, json.loads(await heard(process))

        async def heard(process: asyncio.subprocess.Process) -> bytes:
            assert process.stdout is not None
            line = await asyncio.wait_for(process.stdout.readline(), 60)
            assert line, "the process ended"
            return line

        async def told(process: asyncio.subprocess.Process, order: str) -> int:
            assert process.stdin is not None
            process.stdin.write(f"{order}\n".encode())
            return int(await heard(process))

        first, facts = await start(bytes=size)
        replicas = [first]
        for _ in range(3):
            process, found = await start()
            assert found["sum"] == facts["sum"]
            assert any(address.startswith("@") for address in found["addresses"])
            replicas.append(process)
        shares = [await told(process, "tell") for process in replicas]
        # Each maps all of it, and a quarter of it counts for each.
        assert size * 0.95 < sum(shares) < size * 1.1
        assert max(shares) < size * 0.35
        # Who writes pays, and alone: half of it is his own memory now, and no longer shared.
        wrote = await told(replicas[1], "write")
        assert wrote < max(shares)
        first.kill()
        await first.wait()
        assert size * 0.95 < sum([await told(process, "tell") for process in replicas[1:]]) < size * 1.1
        for process in replicas[1:]:
            assert process.stdin is not None
            process.stdin.close()
            assert await asyncio.wait_for(process.wait(), 60) == 0
