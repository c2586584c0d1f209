"""Pulls in one process: what they find, refuse, wait for and report."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from peerload import AsyncClient, ClientSettings, Form, Identity, Selector
from peerload.client import PullProgress, SourceKey
from peerload.errors import (
    Ambiguous,
    DeadlineExceeded,
    InvalidArgument,
    NoSource,
    NotFound,
    PullFailed,
    Unavailable,
    VerificationFailed,
)
from peerload.server.app import Server
from tests.client.quick import QUICK
from tests.support.live import Rpc, free_port, publication


def weights() -> dict[str, Any]:
    big = np.random.default_rng(7).standard_normal((256, 300), "f4")
    return {
        "big": big,
        "tied": big,
        "half": np.arange(12).astype(ml_dtypes.bfloat16).reshape(3, 4),
        "none": np.zeros((0, 4), "i8"),
        "scalar": np.array(2.5),
        "bytes": b"some bytes",
    }


def model_folder(folder: Path, shift: int = 0) -> Path:
    folder.mkdir(parents=True)
    for shard in range(2):
        tensors = {f"layer.{shard}.{i}": np.arange(1000, dtype="f4") + i + shift for i in range(5)}
        tensors[f"empty.{shard}"] = np.zeros((0, 2), "f2")
        save_file(tensors, folder / f"model-{shard}.safetensors")
    (folder / "config.json").write_text('{"layers": 2}')
    (folder / "empty.txt").touch()
    (folder / "sub").mkdir()
    (folder / "sub" / "tokens.txt").write_text("a b c")
    return folder


def same(left: Path, right: Path) -> bool:
    contents = [
        {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}
        for root in (left, right)
    ]
    return contents[0] == contents[1]


# In memory.


async def test_arrays_arrive_equal_and_verified(source: AsyncClient, target: AsyncClient) -> None:
    mine = weights()
    steps: list[PullProgress] = []
    async with source.publish(mine, model="org/model") as published:
        pulled = await target.pull("org/model", progress=steps.append)
    assert list(pulled) == list(mine)
    for name, data in mine.items():
        assert bytes(pulled[name].memory) == (data if isinstance(data, bytes) else data.tobytes()), name
    assert np.array_equal(pulled["big"].numpy(), mine["big"])
    assert pulled["half"].dtype == "torch.bfloat16"
    assert pulled["half"].numpy().dtype == ml_dtypes.bfloat16
    assert (pulled["none"].numpy().shape, pulled["scalar"].numpy()[()]) == ((0, 4), 2.5)
    report = pulled.report
    moved = sum(data.nbytes for name, data in mine.items() if name not in ("tied", "bytes")) + 10
    assert (report.bytes_total, report.bytes_moved, report.bytes_reused) == (moved, moved, 0)
    assert (report.verified.items, report.verified.unchecked_items) == (6, 0)
    assert str(report.verified) == f"xxh3-128 of 6 items ({moved:,} bytes)"
    assert [given.source.worker_id for given in report.sources] == [published.worker_id]
    assert [(step.phase, step.bytes_done) for step in (steps[0], steps[-1])] == [("reading", 0), ("reading", moved)]
    assert pulled.source is None


async def test_an_identity_means_exactly_that(source: AsyncClient, target: AsyncClient) -> None:
    fine = Identity(model="org/model", tensor_parallel_size=2, extra={"training_step": "7"})
    async with source.publish({"w": b"0"}, model=fine), source.publish({"w": b"1"}, model=fine, rank=1) as one:
        assert bytes((await target.pull(fine, rank=1))["w"].memory) == b"1"
        assert [info.training_step for info in await target.find(Selector(identity=fine, rank=1))] == [7]
        with pytest.raises(NoSource, match="nobody has 'org/model', rank 0"):
            await target.pull(Identity(model="org/model"))
        with pytest.raises(NoSource):
            await target.pull(fine, rank=2)
        assert (await target.pull("org/model", rank=1)).identity.extra["training_step"] == "7"
        assert one.rank == 1


async def test_a_target_becomes_a_source(server: Server, source: AsyncClient, target: AsyncClient) -> None:
    mine = weights()
    async with AsyncClient(server.address, settings=QUICK) as third:
        async with source.publish(mine, model="org/model") as first:
            pulled = await target.pull("org/model", publish=True)
            assert pulled.source is not None
            assert pulled.source.source_id == first.source_id
        again = await third.pull("org/model")
        assert [given.source.worker_id for given in again.report.sources] == [pulled.source.worker_id]
        assert {name: bytes(tensor.memory) for name, tensor in again.items()} == {
            name: bytes(tensor.memory) for name, tensor in pulled.items()
        }
        assert again["tied"].memory.obj is again["big"].memory.obj
        await pulled.source.close()
        with pytest.raises(NoSource):
            await third.pull("org/model")


async def test_a_client_never_pulls_from_itself(source: AsyncClient) -> None:
    async with source.publish({"w": b"x"}, model="org/model"):
        with pytest.raises(NoSource):
            await source.pull("org/model")


async def test_nobody_and_no_answer_are_told_apart(target: AsyncClient) -> None:
    with pytest.raises(NoSource, match=r"^nobody has 'org/none', revision 'r'$"):
        await target.pull("org/none", revision="r")
    address = f"127.0.0.1:{free_port()}"
    async with AsyncClient(address, settings=QUICK) as lost:
        with pytest.raises(Unavailable, match=address):
            await lost.pull("org/none")
        with pytest.raises(Unavailable, match=address):
            await lost.pull("org/none", wait=0.1)
        with pytest.raises(Unavailable, match=address):
            await lost.find()


async def test_waiting_ends_when_a_source_appears(source: AsyncClient, target: AsyncClient) -> None:
    waiting = asyncio.Event()

    def progress(step: PullProgress) -> None:
        if step.phase == "waiting":
            waiting.set()

    pull = asyncio.create_task(target.pull("org/model", wait=timedelta(seconds=60), progress=progress))
    await waiting.wait()
    async with source.publish({"w": b"x"}, model="org/other"), source.publish({"w": b"y"}, model="org/model"):
        assert bytes((await pull)["w"].memory) == b"y"
    with pytest.raises(NoSource, match=r"waited 0\.05 s"):
        await target.pull("org/model", wait=0.05)


async def test_corruption_is_found_and_nothing_is_given(source: AsyncClient, target: AsyncClient) -> None:
    data = np.zeros(1000)
    async with source.publish({"w": data}, model="org/model"):
        data[500] = 1
        with pytest.raises(PullFailed, match="the bytes that arrived are not what the manifest says") as error:
            await target.pull("org/model")
        assert len(error.value.attempts) == 1, "a source that gives wrong bytes is not tried again"
        found = await target.find("org/model")
        with pytest.raises(VerificationFailed) as failed:
            await target.read(await target.manifest(found[0]))
        assert failed.value.items == ("w",)


async def test_another_source_makes_up_for_a_corrupt_one(server: Server, source: AsyncClient) -> None:
    good, bad = np.zeros(1000), np.zeros(1000)
    async with (
        AsyncClient(server.address, settings=QUICK, topology={"host": "far"}) as far,
        AsyncClient(server.address, settings=QUICK) as target,
        source.publish({"w": bad, "v": good}, model="org/model"),
        far.publish({"w": good, "v": good}, model="org/model") as right,
    ):
        bad[500] = 1
        pulled = await target.pull("org/model")
        assert [bool(attempt.error) for attempt in pulled.report.attempts] == [True, False]
        assert np.array_equal(pulled["w"].numpy(), good)
        assert right.worker_id in {given.source.worker_id for given in pulled.report.sources}


async def test_without_digests_the_report_says_so(source: AsyncClient, target: AsyncClient) -> None:
    async with source.publish({"w": b"xy", "none": b""}, model="org/model", digests=False):
        report = (await target.pull("org/model")).report
        assert (report.verified.items, report.verified.unchecked_items) == (1, 1)
        assert "1 items came without a digest" in str(report.verified)
        with pytest.raises(PullFailed, match="could not be published on"):
            await target.pull("org/model", publish=True)


async def test_records_of_other_clients_are_passed_over_and_named(server: Server, target: AsyncClient) -> None:
    def publish() -> None:
        with Rpc(server.address) as rpc:
            assert rpc.publish(publication("org/model", "theirs")).success

    await asyncio.to_thread(publish)
    with pytest.raises(
        PullFailed, match="worker theirs: published by another client: only pulled by its exact identity"
    ) as error:
        await target.pull("org/model")
    assert not isinstance(error.value, NoSource)
    with pytest.raises(NotFound, match="another client"):
        await target.manifest((await target.find("org/model"))[0])
    with pytest.raises(NotFound):
        await target.manifest(SourceKey("0" * 16, 0, "nobody"))


async def test_an_engine_that_is_not_in_use_is_named(server: Server, source: AsyncClient) -> None:
    settings = ClientSettings(engines=("memory",))
    async with AsyncClient(server.address, settings=settings) as other, source.publish({"w": b"x"}, model="org/model"):
        with pytest.raises(PullFailed, match="serves by tcp only"):
            await other.pull("org/model")


async def test_a_pull_takes_no_longer_than_it_may(server: Server, target: AsyncClient) -> None:
    slow = {"tcp": {"max_bytes_per_second": 100_000}}
    async with AsyncClient(server.address, settings=QUICK, engine_settings=slow) as source:
        async with source.publish({"w": bytes(10_000_000)}, model="org/model"):
            with pytest.raises(DeadlineExceeded, match=r"not done within 0\.5 s"):
                await target.pull("org/model", timeout=0.5)


async def test_a_cancelled_pull_writes_no_more(server: Server, target: AsyncClient) -> None:
    slow = {"tcp": {"max_bytes_per_second": 1_000_000}}
    into, moving = bytearray(10_000_000), asyncio.Event()

    def progress(step: PullProgress) -> None:
        if step.bytes_done:
            moving.set()

    async with AsyncClient(server.address, settings=QUICK, engine_settings=slow) as source:
        async with source.publish({"w": b"\x01" * len(into)}, model="org/model"):
            pull = asyncio.create_task(target.pull_into({"w": into}, "org/model", progress=progress))
            await moving.wait()
            pull.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pull
            before = into.count(1)
            assert 0 < before < len(into)
            await target.find()
            assert into.count(1) == before


async def test_bad_arguments(target: AsyncClient) -> None:
    for arguments in ({"model": ""}, {"model": Identity(model="m"), "revision": "r"}, {"model": "m", "wait": -1}):
        with pytest.raises(InvalidArgument):
            await target.pull(**arguments)  # type: ignore[arg-type]
    for tensors in ({}, {"w": "text"}):
        with pytest.raises(InvalidArgument, match=r"^tensors"):
            await target.publish(tensors, model="m")
    with pytest.raises(InvalidArgument, match=r"^model"):
        target.publish({"w": b""}, model=Identity.checkpoint("m", "", "00"))
    with pytest.raises(InvalidArgument, match=r"^worker_id"):
        await target.withdraw("0" * 16)


# Folders.


async def test_a_folder_comes_back_byte_for_byte(source: AsyncClient, target: AsyncClient, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "code.py").write_text("raise SystemExit")
    steps: list[PullProgress] = []
    async with source.share(folder, model="org/model", revision="r1") as shared:
        assert [skipped.path for skipped in shared.skipped] == ["code.py"]
        (folder / "code.py").unlink()
        pulled = await target.pull_folder("org/model", tmp_path / "copy", progress=steps.append)
        again = await target.pull_folder("org/model", tmp_path / "copy", revision="r1")
        with pytest.raises(NoSource):
            await target.pull_folder("org/model", tmp_path / "copy", revision="r2")
    assert same(folder, tmp_path / "copy")
    assert pulled.identity.revision == "r1"
    assert (pulled.bytes_reused, again.bytes_moved, again.bytes_reused) == (0, 0, pulled.bytes_moved)
    assert pulled.verified.items == 14
    assert [given.bytes_verified for given in pulled.sources] == [pulled.bytes_moved]
    assert again.sources == ()
    assert {step.phase for step in steps} <= {"checking", "reading"}


async def test_what_is_there_is_not_moved_again(source: AsyncClient, target: AsyncClient, tmp_path: Path) -> None:
    folder, copy = model_folder(tmp_path / "model"), tmp_path / "copy"
    async with source.share(folder, model="org/model"):
        await target.pull_folder("org/model", copy)
        (copy / "config.json").unlink()
        with (copy / "model-0.safetensors").open("r+b") as file:
            file.seek(-4, 2)
            file.write(b"\xff\xff\xff\xff")
        pulled = await target.pull_folder("org/model", copy)
    assert same(folder, copy)
    assert pulled.bytes_moved == len('{"layers": 2}') + 4000
    assert pulled.bytes_reused == pulled.report.bytes_total - pulled.bytes_moved


async def test_a_pulled_folder_is_served_on(
    server: Server, source: AsyncClient, target: AsyncClient, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "code.py").write_text("raise SystemExit")
    async with AsyncClient(server.address, settings=QUICK) as third:
        async with source.share(folder, model="org/model", allow_code=True) as shared:
            whole = await target.pull_folder("org/model", tmp_path / "whole", share=True, allow_code=True)
            assert whole.source is not None
            assert whole.source.source_id == shared.source_id
        again = await third.pull_folder("org/model", tmp_path / "again", allow_code=True)
        assert [given.source.worker_id for given in again.sources] == [whole.source.worker_id]
        assert same(folder, tmp_path / "again")
        part = await third.pull_folder("org/model", tmp_path / "part", share=True)
        assert [skipped.path for skipped in part.skipped] == ["code.py"]
        assert part.source is not None
        assert part.source.source_id != shared.source_id, "without the code it is another content"
        assert not (tmp_path / "part" / "code.py").exists()


async def test_a_checkpoint_in_memory(server: Server, source: AsyncClient, target: AsyncClient, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    async with source.share(folder, model="org/model"):
        pulled = await target.pull("org/model", publish=True)
    assert pulled.form is Form.CHECKPOINT
    assert {path: bytes(data) for path, data in pulled.files.items()} == {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    assert np.array_equal(pulled["layer.1.3"].numpy(), np.arange(1000, dtype="f4") + 3)
    assert len(pulled) == 12
    async with AsyncClient(server.address, settings=QUICK) as third:
        await third.pull_folder("org/model", tmp_path / "copy")
    assert same(folder, tmp_path / "copy")


async def test_names_that_several_files_have(source: AsyncClient, target: AsyncClient, tmp_path: Path) -> None:
    for file, value in (("a", 1.0), ("b", 2.0)):
        save_file({"same": np.zeros(2), "other": np.full(2, value)}, tmp_path / f"{file}.safetensors")
    async with source.share(tmp_path, model="org/model"):
        pulled = await target.pull("org/model")
    assert sorted(pulled) == ["a.safetensors:other", "b.safetensors:other", "same"]


async def test_different_weights_of_one_name_are_never_chosen_between(
    source: AsyncClient, target: AsyncClient, tmp_path: Path
) -> None:
    first, second = model_folder(tmp_path / "first"), model_folder(tmp_path / "second", shift=1)
    async with (
        source.share(first, model="org/model", revision="r1") as one,
        source.share(second, model="org/model", revision="r2"),
        source.publish({"w": b"x"}, model="org/model"),
    ):
        with pytest.raises(Ambiguous) as error:
            await target.pull_folder("org/model", tmp_path / "copy")
        assert len(error.value.attempts) == 2
        assert all(f"revision '{name}'" in str(error.value) for name in ("r1", "r2"))
        assert not (tmp_path / "copy").exists(), "nothing was moved"
        with pytest.raises(Ambiguous, match="runtime form"):
            await target.pull("org/model")
        assert len(await target.pull("org/model", form=Form.RUNTIME)) == 1
        content = one.identity.extra["peerload.content"]
        await target.pull_folder("org/model", tmp_path / "copy", content=content[:8])
        await target.pull_folder("org/model", tmp_path / "copy2", revision="r2")
    assert same(first, tmp_path / "copy")
    assert same(second, tmp_path / "copy2")


# For engine authors.


async def test_manifest_and_read(source: AsyncClient, target: AsyncClient) -> None:
    mine = weights()
    async with source.publish(mine, model="org/model") as published:
        (info,) = await target.find(Selector(model="org/model"))
        found = await target.manifest(info)
        assert found.identity == published.identity
        assert [item.name for item in found.manifest.items] == list(mine)
        assert await target.manifest(info.key) == found or info.age >= 0
        assert bytes((await target.read(found))["bytes"]) == b"some bytes"
        half = [item for item in found.manifest.items if item.name == "half"]
        into = {"half": np.empty((3, 4), ml_dtypes.bfloat16)}
        await target.read(found, half, into=into)
        assert np.array_equal(into["half"], mine["half"])
        for wrong, message in (({}, "no memory"), ({"half": bytearray(3)}, "24 bytes")):
            with pytest.raises(InvalidArgument, match=message):
                await target.read(found, half, into=wrong)
        with pytest.raises(InvalidArgument, match="twice"):
            await target.read(found, half * 2)


async def test_find_watch_and_withdraw(source: AsyncClient, target: AsyncClient) -> None:
    changes = target.watch("org/model")
    assert (await anext(changes)).complete
    async with source.publish({"w": b"x"}, model="org/model") as published:
        present = await anext(changes)
        assert [info.key for info in present.present] == [published.key]
        assert await target.withdraw(published.source_id, published.worker_id)
        assert (await anext(changes)).gone == (published.key,)
        assert not await target.withdraw(published.key)
        await published.beat()
        assert [info.key for info in (await anext(changes)).present] == [published.key]
        assert [info.key for info in await target.find(Identity(model="org/model"))] == [published.key]
    assert (await anext(changes)).gone == (published.key,)
    await changes.aclose()
    assert await target.find() == []


# Crowds.


async def test_a_crowd_gets_through_a_source_that_takes_two(server: Server) -> None:
    """A source that is busy is asked again, far longer than one that fails; and those that are done help."""
    tight = {"tcp": {"max_connections": 2, "max_bytes_per_second": 4_000_000}}
    async with AsyncClient(server.address, settings=QUICK, engine_settings=tight) as source:
        async with source.publish({"w": bytes(400_000)}, model="org/model"):
            crowd = [AsyncClient(server.address, settings=QUICK) for _ in range(12)]
            try:
                pulls = await asyncio.gather(*(client.pull("org/model", publish=True) for client in crowd))
            finally:
                await asyncio.gather(*(client.close() for client in crowd))
    assert [pulled.report.bytes_moved for pulled in pulls] == [400_000] * 12
    assert any(attempt.error for pulled in pulls for attempt in pulled.report.attempts)


async def test_another_record_of_ones_own_endpoint_is_passed_over(source: AsyncClient, target: AsyncClient) -> None:
    async with source.publish({"w": b"x"}, model="org/model") as published:
        request = published._request
        request.record.worker_id = "left-behind"
        await source._connection.publish(request)
        with pytest.raises(PullFailed, match=r"worker left-beh.* this process's own endpoint"):
            await source.pull("org/model")
        assert len(await target.pull("org/model")) == 1
