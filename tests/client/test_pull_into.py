"""Pulls into memory that the caller owns: what fits, what is refused before it is touched, and what an error says of it."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from peerload import AsyncClient, Client
from peerload.client import PullProgress
from peerload.errors import DeadlineExceeded, InvalidArgument, NoSource, PullFailed, Touched, Unavailable
from peerload.server.app import Server
from tests.client.quick import QUICK
from tests.client.test_failover import FAR, MIB, NEAR, killing, tensors
from tests.client.worker import content
from tests.client.workers import working
from tests.support.server import LiveServer


def weights() -> dict[str, Any]:
    big = np.random.default_rng(7).standard_normal((256, 300), "f4")
    return {
        "big": big,
        "tied": big,
        "half": np.arange(12).astype(ml_dtypes.bfloat16).reshape(3, 4),
        "none": np.zeros((0, 4), "i8"),
        "scalar": np.array(2.5),
    }


def empty(like: dict[str, Any]) -> dict[str, Any]:
    return {name: np.full_like(data, 7) for name, data in like.items()}


@pytest.mark.parametrize("form", ["runtime", "checkpoint"])
async def test_the_callers_arrays_are_filled(
    source: AsyncClient, target: AsyncClient, tmp_path: Path, form: str
) -> None:
    mine = weights()
    into = empty(mine)
    save_file({name: data.copy() for name, data in mine.items()}, tmp_path / "model.safetensors")
    opening = (
        source.publish(mine, model="org/model") if form == "runtime" else source.share(tmp_path, model="org/model")
    )
    async with opening:
        filled = await target.pull_into(into, "org/model")
    for name, data in mine.items():
        assert into[name].tobytes() == data.tobytes(), name
    assert (filled.missing, filled.unexpected, filled.source) == ((), (), None)
    assert filled.report.verified.items == 5
    assert filled.report.bytes_total == sum(data.nbytes for data in mine.values()), "each array is filled"


async def test_names_must_be_equal_unless_told_otherwise(source: AsyncClient, target: AsyncClient) -> None:
    mine = weights() | {f"more.{index}": np.zeros(1) for index in range(20)}
    into = empty(weights()) | {"extra": np.full(3, 7.0)}
    del into["half"]
    async with source.publish(mine, model="org/model"):
        with pytest.raises(PullFailed) as error:
            await target.pull_into(into, "org/model")
        assert "1 not at the source: 'extra'; 21 without memory here: 'half', 'more.0'" in str(error.value)
        assert "and 16 more" in str(error.value)
        assert str(error.value).endswith("the memory that was to be filled was not touched")
        assert error.value.touched == Touched((), (), tuple(into))
        assert not error.value.touched
        assert set(np.unique(into["big"])) == {7}

        filled = await target.pull_into(into, "org/model", strict=False)
        assert (filled.missing, filled.unexpected[:2], len(filled.unexpected)) == (("extra",), ("half", "more.0"), 21)
        assert np.array_equal(into["big"], mine["big"])
        assert set(into["extra"]) == {7}
        with pytest.raises(PullFailed, match="1 not at the source"):
            await target.pull_into({"wrong": np.zeros(3)}, "org/model", strict=False)
        with pytest.raises(PullFailed, match="1 not at the source"):
            await target.pull_into(into, "org/model", strict=False, publish=True)


async def test_other_dtypes_and_shapes_are_named(source: AsyncClient, target: AsyncClient, tmp_path: Path) -> None:
    arrays = {f"t{index}": np.zeros((2, 3), "f4") for index in range(9)}
    save_file(arrays, tmp_path / "model.safetensors")
    wrong = {name: np.full(6, 7.0, "f4") for name in arrays} | {"t0": np.full((2, 3), 7, "i4")}
    async with source.share(tmp_path, model="org/model"), source.share(tmp_path, model="org/model", revision="r"):
        for strict in (True, False):
            with pytest.raises(PullFailed) as error:
                await target.pull_into(wrong, "org/model", revision="r", strict=strict)
            assert "9 different: 't0' is torch.float32 (2, 3) of 24 bytes at the source, torch.int32 (2, 3)" in str(
                error.value
            )
            assert "and 4 more" in str(error.value)
            assert error.value.touched == Touched((), (), tuple(wrong))
        with pytest.raises(InvalidArgument, match=r"^publish"):
            await target.pull_into(arrays, "org/model", revision="r", publish=True)


async def test_what_shares_memory_is_filled_once_or_refused(source: AsyncClient, target: AsyncClient) -> None:
    big = np.random.default_rng(7).standard_normal((30, 30), "f4")
    one, same = np.zeros((30, 30), "f4"), {"a": big, "b": big.copy(), "t": big.T}
    async with (
        source.publish(same, model="org/same"),
        source.publish(same, model="org/bare", digests=False),
        source.publish({"a": big, "b": big + 1, "t": big.T}, model="org/other"),
        source.publish({"a": big, "b": big, "t": big.T.copy()}, model="org/turned"),
    ):
        filled = await target.pull_into({"a": one, "b": one, "t": one.T}, "org/same")
        assert np.array_equal(one, big)
        assert filled.report.bytes_total == big.nbytes
        one[:] = 7
        for model in ("org/other", "org/bare", "org/turned"):
            with pytest.raises(
                PullFailed, match="1 sharing memory here, and not known to be equal at the source: 'a' and"
            ):
                await target.pull_into({"a": one, "b": one, "t": one.T}, model)
        assert set(np.unique(one)) == {7}
        for part in (one[:20], one[:, ::2], one[20:]):
            with pytest.raises(InvalidArgument, match=r"shares some of its memory with '[ab]', and not all"):
                await target.pull_into({"a": one, "b": part}, "org/same")
        with pytest.raises(InvalidArgument, match="cannot be written to"):
            await target.pull_into({"a": b"x"}, "org/same")


async def test_other_layouts_are_kept(source: AsyncClient, target: AsyncClient) -> None:
    mine = {name: np.random.default_rng(7).integers(0, 200, (40, 60)).astype(dtype) for name, dtype in DTYPES.items()}
    published = mine | {"turned": mine["f4"].T}
    both = np.zeros((40, 240), ml_dtypes.bfloat16)
    into = {
        "u1": np.zeros((60, 40), "u1").T,
        "f4": np.zeros((80, 60), "f4")[::-2],
        "bf": both[:, 30:150:2],
        "turned": np.zeros((60, 40), "f4"),
        "f8": np.zeros((40, 60), "f8"),
        "c8": np.zeros((40, 120), "c8")[:, ::2],
    }
    layouts = {name: (array.strides, array.ctypes.data) for name, array in into.items()}
    async with source.publish(published, model="org/model"):
        await target.pull_into(into, "org/model")
        for name, array in into.items():
            assert np.array_equal(array, published[name]), name
            assert (array.strides, array.ctypes.data) == layouts[name]
        assert not both[:, :30].any()
        with pytest.raises(
            InvalidArgument, match=r"'u1'.*does not lie as the source has it, so it cannot be published"
        ):
            await target.pull_into(into, "org/model", publish=True)
        plain: dict[str, Any] = {name: np.zeros((40, 60), array.dtype) for name, array in published.items()}
        with pytest.raises(InvalidArgument, match="only numpy arrays and torch tensors"):
            await target.pull_into(
                plain | {"turned": memoryview(plain["turned"].T.copy()).cast("B").cast("f", (60, 40))}, "org/model"
            )


DTYPES = {"u1": "u1", "f4": "f4", "bf": ml_dtypes.bfloat16, "f8": "f8", "c8": "c8"}


async def test_what_was_filled_is_published_on(server: Server, source: AsyncClient, target: AsyncClient) -> None:
    mine = {"w": np.arange(12.0).reshape(3, 4).T, "v": np.arange(3.0)}
    into = {"w": np.zeros((3, 4)).T, "v": np.zeros(3)}
    async with AsyncClient(server.address, settings=QUICK) as third:
        async with source.publish(mine, model="org/model"):
            filled = await target.pull_into(into, "org/model", publish=True)
            assert filled.source is not None
        again = await third.pull("org/model", framework="np")
        assert [given.source.worker_id for given in again.report.sources] == [filled.source.worker_id]
        assert np.array_equal(again["w"], mine["w"])
        assert again["w"].strides == mine["w"].strides


async def test_an_error_says_what_the_memory_holds(server: Server, target: AsyncClient) -> None:
    """The only source dies in the middle: some tensors are whole, the others may hold anything."""
    killed: list[int] = []
    into = {f"t{index}": np.zeros(MIB, "u1") for index in range(8)} | {"turned": np.zeros(2 * MIB, "u1")[::2]}
    spec = tensors(8) | {"turned": (8, MIB)}
    async with working(server.address, spec, rate=8 * MIB) as only:
        with pytest.raises(PullFailed) as error:
            await target.pull_into(into, "org/model", progress=killing(only, 3 * MIB, killed))
    touched = error.value.touched
    assert touched
    assert touched.untouched == ("turned",), "what is copied once it is verified was not begun"
    assert set(touched.verified) | set(touched.undefined) == {f"t{index}" for index in range(8)}
    assert 2 <= len(touched.verified) < 8
    for name in touched.verified:
        assert into[name].tobytes() == content(*spec[name])
    assert not into["turned"].any()
    assert f"{len(touched.verified)} tensors are filled and verified, {len(touched.undefined)} undefined" in str(
        error.value
    )


async def test_another_source_fills_what_is_missing(server: Server) -> None:
    """And t1, which differs, again."""
    killed: list[int] = []
    into = {f"t{index}": np.zeros(MIB * (1 + index % 2), "u1")[:: 1 + index % 2] for index in range(8)}
    async with (
        AsyncClient(server.address, settings=QUICK, topology=NEAR) as target,
        working(server.address, tensors(8, changed=1), rate=2 * MIB, topology=NEAR) as first,
        working(server.address, tensors(8), topology=FAR) as second,
    ):
        filled = await target.pull_into(into, "org/model", progress=killing(first, 5 * MIB, killed))
    assert killed
    assert {name: array.tobytes() for name, array in into.items()} == {
        name: content(*spec) for name, spec in tensors(8).items()
    }
    given = {each.source.worker_id: each.bytes_verified for each in filled.report.sources}
    assert given.keys() == {first.worker_id, second.worker_id}
    assert sum(given.values()) == 8 * MIB


async def test_errors_of_other_kinds_say_it_too(server: Server, target: AsyncClient) -> None:
    into = {"w": bytearray(10_000_000)}
    with pytest.raises(NoSource) as nobody:
        await target.pull_into(into, "org/model")
    assert nobody.value.touched == Touched((), (), ("w",))
    slow = {"tcp": {"max_bytes_per_second": 100_000}}
    async with AsyncClient(server.address, settings=QUICK, engine_settings=slow) as source:
        async with source.publish({"w": bytes(10_000_000)}, model="org/model"):
            timeout, touched = 0.15, nobody.value.touched
            while touched == nobody.value.touched:
                timeout *= 2  # so that the read has begun before
                with pytest.raises(DeadlineExceeded) as late:
                    await target.pull_into(into, "org/model", timeout=timeout)
                touched = late.value.touched
            assert touched == Touched((), ("w",), ())
            assert "1 undefined, 0 untouched" in str(late.value)
    with pytest.raises(PullFailed) as unrelated:
        await target.pull("org/model")
    assert unrelated.value.touched is None


async def test_wrong_bytes_do_not_reach_a_strided_tensor(source: AsyncClient, target: AsyncClient) -> None:
    data = np.zeros(1000)
    into = np.full(2000, 7.0)
    async with source.publish({"w": data}, model="org/model"):
        data[500] = 1
        with pytest.raises(PullFailed, match="not what the manifest says") as error:
            await target.pull_into({"w": into[::2]}, "org/model")
    assert set(into) == {7}
    assert not error.value.touched


def test_without_an_event_loop() -> None:
    into = {"w": bytearray(1000)}
    steps: list[PullProgress] = []
    with LiveServer("memory:") as live:
        live.start()
        with Client(live.address, settings=QUICK) as one, Client(live.address, settings=QUICK) as two:
            with one.publish({"w": b"x" * 1000}, model="org/model"):
                filled = two.pull_into(into, "org/model", publish=True, progress=steps.append)
                assert filled.source is not None
                assert len(one.find("org/model")) == 2
    assert into["w"] == b"x" * 1000
    assert steps[-1].bytes_done == 1000


@pytest.mark.parametrize("strides", [(0, 4), (4, 4), (8, 4), (-4, 4), (12, 2)])
async def test_elements_that_lie_on_each_other_are_refused(
    source: AsyncClient, target: AsyncClient, strides: tuple[int, int]
) -> None:
    ground = np.zeros(64, "float32")
    lying = np.lib.stride_tricks.as_strided(ground[20:], (4, 3), strides)
    async with source.publish({"w": np.arange(12, dtype="float32").reshape(4, 3)}, model="m"):
        with pytest.raises(InvalidArgument, match=r"tensors\['w'\].*several elements in one place"):
            await target.pull_into({"w": lying}, "m")
    assert not ground.any()


@pytest.mark.parametrize("strides", [(16, 4), (-12, 4), (4, -16), (96, 8), (4, 16)])
async def test_elements_that_lie_apart_are_filled(
    source: AsyncClient, target: AsyncClient, strides: tuple[int, int]
) -> None:
    lying = np.lib.stride_tricks.as_strided(np.zeros(128, "float32")[20:], (4, 3), strides)
    data = np.arange(12, dtype="float32").reshape(4, 3)
    async with source.publish({"w": data}, model="m"):
        await target.pull_into({"w": lying}, "m")
    assert np.array_equal(lying, data)


async def test_what_cannot_be_published_on_is_in_place_all_the_same(server: Server, source: AsyncClient) -> None:
    tensors = {"w": np.zeros(100)}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"tcp": {"port": taken.getsockname()[1], "bind": "127.0.0.1"}}
        async with (
            AsyncClient(server.address, settings=replace(QUICK, engines=("tcp",)), engine_settings=ports) as target,
            source.publish({"w": np.arange(100.0)}, model="m"),
        ):
            with pytest.raises(Unavailable) as error:
                await target.pull_into(tensors, "m", publish=True)
    assert error.value.touched is not None
    assert error.value.touched.verified == ("w",)
    assert "verified" in str(error.value)
    assert np.array_equal(tensors["w"], np.arange(100.0))
